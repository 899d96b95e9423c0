//! What every store must do, run against each of them; and what only one of them can be asked.

mod embedded;
mod harness;
mod suite;
