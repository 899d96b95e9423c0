//! The user-space wire: `lab wire` carries frames between two TAPs with delay, jitter, loss and a rate.

/// Runs the wire with these arguments, as `lab wire --help` lists them, until SIGTERM.
pub fn main(_arguments: &[String]) -> Result<(), String> {
    Err("this build has no user-space wire: leave delay_ms, jitter_ms, loss and rate_mbit out of the topology".into())
}
