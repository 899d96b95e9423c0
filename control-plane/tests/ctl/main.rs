//! `trunklinectl` as a process: what it prints, how it ends, and what it sends when answers are lost.

mod authority;
mod calls;
mod command;
mod fleet;
mod local;
mod replica;
mod scripted;
mod waiting;
