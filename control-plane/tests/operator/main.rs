//! The operator service in process, over the embedded store.

mod allocations;
mod bad_input;
mod events;
mod fixture;
mod keys;
mod members;
mod once;
mod settings;
mod usage;
mod views;
