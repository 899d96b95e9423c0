//! The operator's command as a process.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;

use crate::netns::Namespace;
use crate::process::Running;
use crate::server::program;

/// `trunklinectl` with endpoints and an identity.
pub struct Ctl {
    space: Arc<Namespace>,
    endpoints: Vec<String>,
    identity: Option<PathBuf>,
}

/// How a call ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ctl {
    /// From `space`, with the files in `identity`.
    pub fn new(space: Arc<Namespace>, endpoints: Vec<String>, identity: PathBuf) -> Self {
        Self { space, endpoints, identity: Some(identity) }
    }

    /// Over the Unix socket of `trunkline up`.
    pub fn local(space: Arc<Namespace>, socket: &std::path::Path) -> Self {
        Self { space, endpoints: vec![format!("unix:{}", socket.display())], identity: None }
    }

    fn command(&self, arguments: &[&str]) -> Result<Command, String> {
        let mut command = self.space.command(program("trunklinectl")?);
        for endpoint in &self.endpoints {
            command.args(["--endpoint", endpoint]);
        }
        if let Some(identity) = &self.identity {
            command.arg("--identity").arg(identity);
        }
        command.args(["--output", "json"]).args(arguments);
        Ok(command)
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Result<Outcome, String> {
        let output = self.command(arguments)?.output().map_err(|error| format!("trunklinectl: {error}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Outcome { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) })
    }

    /// Starts a command that goes on.
    pub fn start(&self, arguments: &[&str]) -> Result<Running, String> {
        Running::start("trunklinectl", &mut self.command(arguments)?).map_err(|error| error.to_string())
    }

    /// Runs a command that must succeed: its JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        let outcome = self.run(arguments)?;
        if outcome.code != Some(0) {
            return Err(format!("trunklinectl {arguments:?}: {outcome:?}"));
        }
        serde_json::from_str(&outcome.out).map_err(|error| format!("{arguments:?}: {error}: {}", outcome.out))
    }

    /// Runs a command that must be refused, with these words among its error's.
    pub fn refused(&self, arguments: &[&str], words: &[&str]) -> Result<(), String> {
        let outcome = self.run(arguments)?;
        let says = words.iter().all(|word| outcome.err.contains(word));
        if outcome.code != Some(0) && says && !outcome.err.contains("panicked") {
            Ok(())
        } else {
            Err(format!("trunklinectl {arguments:?} should be refused with {words:?}: {outcome:?}"))
        }
    }

    /// Adds a server: its token.
    pub fn token(&self, id: &str) -> Result<String, String> {
        let added = self.json(&["nodes", "add", id])?;
        added["token"].as_str().map(str::to_owned).ok_or_else(|| format!("no token in {added}"))
    }
}
