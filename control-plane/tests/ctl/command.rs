//! Runs the built command.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A directory in which the command runs, with nothing of the outside in its environment.
pub struct Place {
    directory: TempDir,
    endpoint: Option<String>,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Place {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory"), endpoint: None }
    }

    /// Asks the server behind this socket.
    pub fn at(socket: &Path) -> Self {
        Self::with(&format!("unix:{}", socket.display()))
    }

    /// Asks this endpoint.
    pub fn with(endpoint: &str) -> Self {
        Self { endpoint: Some(endpoint.to_owned()), ..Self::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trunklinectl"));
        command.env_clear().current_dir(self.directory.path()).args(arguments).stdin(Stdio::null());
        if let Some(endpoint) = &self.endpoint {
            command.env("TRUNKLINE_ENDPOINT", endpoint);
        }
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ended {
        let output = self.command(arguments).output().expect("the command");
        Ended {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// Its output, when it must succeed.
    pub fn text(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.err);
        ended.out
    }

    /// Its JSON document, when it must succeed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.text(&[&["--output", "json"], arguments].concat());
        serde_json::from_str(&text).expect("JSON")
    }

    /// Its error, when it must fail with this code: one line.
    pub fn fault(&self, arguments: &[&str], code: i32) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        let line = ended.err.lines().last().unwrap_or_default().to_owned();
        assert!(line.starts_with("trunklinectl: "), "{}", ended.err);
        line
    }

    pub fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command")
    }
}
