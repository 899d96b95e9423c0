//! Replicas over one store: who leads, what servers are told, and what a leader that lost its term can still do.

mod fleet;
mod leading;
mod planning;
