//! Fuzz targets: plain functions that take any bytes and panic when something does not hold.
//!
//! The program `fuzz` (see `run`) drives them with libFuzzer; the tests in `tests/` run them over the committed
//! corpus and over seeded mutations of it, on any Rust without further tools.

mod bytes;
pub mod channel_data;
pub mod corpus;
pub mod framing;
pub mod gue;
pub mod mutation;
mod naive;
pub mod server;
pub mod stun;
pub mod token;

/// Runs one input; a panic is a finding.
pub type Target = fn(&[u8]);

/// Every target by the name of its corpus directory.
pub const TARGETS: [(&str, Target); 6] = [
    ("stun", stun::run),
    ("channel_data", channel_data::run),
    ("framing", framing::run),
    ("token", token::run),
    ("gue", gue::run),
    ("server", server::run),
];

/// The target with this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
