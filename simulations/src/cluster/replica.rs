//! A control-plane replica's process.

use std::path::Path;
use std::time::Duration;

use super::{Authority, Etcd};
use crate::netns::Namespace;
use crate::process::Running;
use crate::server::program;

/// `trunkline control-plane`.
pub struct Replica {
    /// Its process.
    pub running: Running,
    /// Where it is reached.
    pub endpoint: String,
}

impl Replica {
    /// Starts a replica and waits until it serves. Its certificate is in `identity`, made when it is missing.
    pub fn start(
        space: &Namespace,
        authority: &Authority,
        identity: &Path,
        number: usize,
        etcd: &Etcd,
        log: &str,
    ) -> Result<Self, String> {
        let name = format!("r{number}");
        if !identity.exists() {
            authority.issue(&["replica", &name], identity)?;
        }
        let endpoint = endpoint(number);
        let mut command = space.command(program("trunkline")?);
        command.args(["control-plane", "--etcd", &etcd.endpoints(), "--name", &name]);
        command.args(["--listen", endpoint.trim_start_matches("https://")]);
        command.arg("--cert").arg(identity.join("cert.pem"));
        command.arg("--key").arg(identity.join("key.pem"));
        command.arg("--roots").arg(identity.join("roots.pem"));
        command.arg("--issuer-cert").arg(authority.file("issuer.pem"));
        command.arg("--issuer-key").arg(authority.file("issuer.key"));
        command.arg("--store-key").arg(authority.file("store.key"));
        command.args(["--log", log]);
        let running = Running::start(&name, &mut command).map_err(|error| error.to_string())?;
        running.wait_for_line("ready", READY)?;
        Ok(Self { running, endpoint })
    }
}

/// Where replica `number` is reached.
pub fn endpoint(number: usize) -> String {
    format!("https://10.80.0.1:{}", 7443 + number)
}

const READY: Duration = Duration::from_secs(15);
/// What a trial wants to see of a replica.
pub const LOG: &str = "debug,h2=info,hyper=info,tower=info";
