//! User-space NATs: `lab nat` stands between a client and its router.

/// Runs the NAT with these arguments, as `lab nat --help` lists them, until SIGTERM.
pub fn main(_arguments: &[String]) -> Result<(), String> {
    Err("this build has no NAT: leave `nat` out of the topology".into())
}
