//! What a TURN server does, statement by statement: each file is a theme, each test is named after what must hold.

mod allocate;
mod authentication;
mod binding;
mod channels;
mod clients;
mod conservation;
mod credentials;
mod dual_stack;
mod framing;
mod limits;
mod loops;
mod permissions;
mod policy;
mod ports;
mod reflection;
mod refresh;
mod relaying;
mod reservation;
mod slices;
#[path = "../support/mod.rs"]
mod support;
mod terms;
mod usage;
