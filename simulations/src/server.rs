//! The product under test: the built `trunkline` binary, started with `trunkline up` inside a namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::netns::Namespace;
use crate::process::Running;

/// A running `trunkline up` with a data directory of its own; both are gone when the value is dropped.
#[derive(Debug)]
pub struct Trunkline {
    running: Running,
    quickstart: Value,
    data: ScratchDirectory,
}

impl Trunkline {
    /// Starts `trunkline up` with `arguments` and waits until it serves.
    pub fn start(namespace: &Namespace, arguments: &[&str]) -> Result<Self, String> {
        Self::start_on(namespace, ScratchDirectory::new()?, arguments)
    }

    /// The same on a data directory that holds something already.
    pub fn start_on(
        namespace: &Namespace,
        data: ScratchDirectory,
        arguments: &[&str],
    ) -> Result<Self, String> {
        let mut command = namespace.command(binary()?);
        command.arg("up").arg("--data-dir").arg(data.path()).args(arguments);
        Self::serve("trunkline up", command, data, READY_TIMEOUT)
    }

    /// Starts the server as a person would who has just cloned the repository: `deploy/up`, which builds it
    /// first where that has not been done.
    pub fn start_by_deploy_up(namespace: &Namespace, arguments: &[&str]) -> Result<Self, String> {
        let data = ScratchDirectory::new()?;
        let mut command = namespace.command(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/up"));
        // What `cargo test` tells this process about itself would make build scripts run again.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_set_by_cargo(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.env("TRUNKLINE_DATA", data.path()).env("CARGO_NET_OFFLINE", "true").args(arguments);
        Self::serve("deploy/up", command, data, BUILD_TIMEOUT)
    }

    fn serve(
        label: &str,
        mut command: Command,
        data: ScratchDirectory,
        timeout: Duration,
    ) -> Result<Self, String> {
        let running = Running::start(label, &mut command).map_err(|error| error.to_string())?;
        running.wait_for_line("ready", timeout)?;
        let quickstart =
            read_quickstart(data.path()).map_err(|fault| format!("{fault}\n{}", running.log()))?;
        Ok(Self { running, quickstart, data })
    }

    /// What the server wrote into `quickstart.json`.
    pub fn quickstart(&self) -> &Value {
        &self.quickstart
    }

    /// The text at a JSON pointer (`/turnKey/id`) of `quickstart.json`.
    pub fn quickstart_text(&self, pointer: &str) -> Result<&str, String> {
        let found = self.quickstart.pointer(pointer).and_then(Value::as_str);
        found.ok_or_else(|| format!("quickstart.json has no text at {pointer}"))
    }

    /// Where the server keeps its state.
    pub fn data_directory(&self) -> &Path {
        self.data.path()
    }

    /// The server's process, to read its log or to signal it.
    pub fn process(&mut self) -> &mut Running {
        &mut self.running
    }

    /// Everything that the server printed so far.
    pub fn log(&self) -> String {
        self.running.log()
    }
}

/// The `trunkline` binary; see [`program`].
pub fn binary() -> Result<PathBuf, String> {
    program("trunkline")
}

/// A binary of the product: named by `$TRUNKLINE_BIN` or `$TRUNKLINECTL_BIN`, or the one that cargo built beside this
/// test executable, or the one of the other usual profile.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let variable = format!("{}_BIN", name.to_uppercase());
    if let Some(named) = std::env::var_os(&variable) {
        let named = PathBuf::from(named);
        return if named.is_file() {
            Ok(named)
        } else {
            Err(format!("{variable} names {}, which is not there", named.display()))
        };
    }
    let executable = std::env::current_exe().map_err(|error| error.to_string())?;
    // target/PROFILE/deps/test-HASH or target/PROFILE/program
    let profile = executable.ancestors().skip(1).find(|directory| !directory.ends_with("deps"));
    let profile = profile.ok_or("this executable lies in no directory")?;
    let candidates = [profile.to_path_buf(), profile.join("../release"), profile.join("../debug")];
    let found = candidates.iter().map(|directory| directory.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| format!("no {name} binary: run `cargo build` first, or set {variable}"))
}

/// An empty directory under the system's temporary directory, removed when dropped.
#[derive(Debug)]
pub struct ScratchDirectory(PathBuf);

impl ScratchDirectory {
    /// Makes the directory.
    pub fn new() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("trunkline-{}-{number}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self(path)),
            Err(error) => Err(format!("cannot make {}: {error}", path.display())),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} was not removed: {error}", self.0.display());
        }
    }
}

fn is_set_by_cargo(name: &str) -> bool {
    name.starts_with("CARGO_") && !matches!(name, "CARGO_HOME" | "CARGO_TARGET_DIR")
}

fn read_quickstart(data: &Path) -> Result<Value, String> {
    let path = data.join("quickstart.json");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// A debug build on a busy machine starts in well under a second; this is for one that never will.
const READY_TIMEOUT: Duration = Duration::from_secs(15);
/// `deploy/up` may have a release build before it.
const BUILD_TIMEOUT: Duration = Duration::from_secs(900);
