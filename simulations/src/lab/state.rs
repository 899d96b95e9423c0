//! What is kept about a running lab, in a directory of its own, so that any later command finds it.
//!
//! The directory is made first and removed last. Whoever changes a lab holds its lock; a lock of a process that was killed
//! is free again at once.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::processes::Process;
use super::topology::Topology;

/// What is known about a lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// What it was built from.
    pub topology: Topology,
    /// The process that it ends with; none for a lab that stays.
    pub owner: Option<Process>,
    /// Whether all of it was built.
    pub complete: bool,
    /// Programs that belong to the lab's ground: BIRD, wires, NATs. A server's own programs are not among them.
    pub infrastructure: Vec<Process>,
}

/// A lab's directory.
#[derive(Debug, Clone)]
pub struct Directory(PathBuf);

/// The right to change a lab, given back when dropped.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "the lock lasts as long as the file is open")] File);

impl Directory {
    /// Where a lab of this name has its directory, be it there or not.
    pub fn of(lab: &str) -> Self {
        Self(Path::new(PARENT).join(lab))
    }

    /// Makes the directory; a lab of that name must not be there.
    pub fn create(lab: &str) -> Result<Self, String> {
        let directory = Self::of(lab);
        let fault = |error: std::io::Error| format!("{}: {error}", directory.0.display());
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        builder.recursive(true).create(PARENT).map_err(fault)?;
        match builder.recursive(false).create(&directory.0) {
            Ok(()) => Ok(directory),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(format!(
                "there is a lab {lab} already: `lab down {lab}` ends it, `lab up --name OTHER` builds one beside it"
            )),
            Err(error) => Err(fault(error)),
        }
    }

    /// Names of all labs that have one.
    pub fn labs() -> Vec<String> {
        let Ok(entries) = fs::read_dir(PARENT) else { return vec![] };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.0.is_dir()
    }

    /// Takes the lock, waiting for a command that is about to end.
    pub fn lock(&self) -> Result<Lock, String> {
        let path = self.file("lock");
        let opened = File::options().create(true).truncate(false).write(true).open(&path);
        let file = opened.map_err(|error| format!("{}: {error}", path.display()))?;
        let since = Instant::now();
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            if since.elapsed() > PATIENCE {
                return Err("another command is at work on this lab: wait until it ends, or end it".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Lock(file))
    }

    /// Reads a file of JSON; none if there is no such file.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, String> {
        let path = self.file(name);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| format!("{}: {error}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    /// Writes a file of JSON: the old one stays, or the new one is there, never half of it.
    pub fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), String> {
        let (path, fresh) = (self.file(name), self.file(&format!("{name}.new")));
        let bytes = serde_json::to_vec_pretty(value).map_err(|error| error.to_string())?;
        let written = fs::write(&fresh, bytes).and_then(|()| fs::rename(&fresh, &path));
        written.map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The lab's record.
    pub fn record(&self) -> Result<Option<Record>, String> {
        self.read(RECORD)
    }

    /// Keeps the lab's record.
    pub fn keep(&self, record: &Record) -> Result<(), String> {
        self.write(RECORD, record)
    }

    /// Removes it with all that is in it, and the common one if it was the last.
    pub fn remove(&self) -> Result<(), String> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{}: {error}", self.0.display()));
            }
            _ => {}
        }
        let _others_are_there = fs::remove_dir(PARENT);
        Ok(())
    }
}

/// On a file system that a reboot empties, as the namespaces are gone then, too.
const PARENT: &str = "/run/trunkline-lab";
const RECORD: &str = "lab.json";
const PATIENCE: Duration = Duration::from_secs(5);
