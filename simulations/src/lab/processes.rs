//! Processes of a lab: found by the namespace that they are in, and signalled so that no other one can be hit.
//!
//! A lab's namespaces hold nothing but the lab, so whatever runs in them may be ended, recorded or not. A process id alone
//! is never believed: with the time of its start it names one process for ever, and the signal goes through a descriptor
//! of that very process.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::netns::NAMESPACE_DIRECTORY;

/// One process, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Its id, which may be another one's later.
    pub pid: i32,
    /// When it started, in the kernel's ticks since the machine started.
    pub started: u64,
}

impl Process {
    /// The process that has this id now.
    pub fn of(pid: i32) -> Option<Self> {
        let (state, started) = state_and_start(pid)?;
        (state != 'Z').then_some(Self { pid, started })
    }

    /// This program's own.
    pub fn own() -> Option<Self> {
        Self::of(std::process::id() as i32)
    }

    /// Whether it still runs.
    pub fn runs(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Signals it: whether it was still there.
    pub fn signal(self, signal: Signal) -> bool {
        let Some(pid) = Pid::from_raw(self.pid) else { return false };
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        // Asked after the descriptor is open: it is this process that the descriptor means, or one that has ended.
        self.runs() && pidfd_send_signal(descriptor, signal).is_ok()
    }

    /// The program's name, as `ps` shows it.
    pub fn name(self) -> String {
        fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default().trim().to_owned()
    }
}

/// Every process whose network is one of these namespaces, with the place of the namespace in the list.
pub fn inside(namespaces: &[String]) -> Vec<(usize, Process)> {
    let mut places = HashMap::new();
    for (place, name) in namespaces.iter().enumerate() {
        if let Ok(found) = fs::metadata(Path::new(NAMESPACE_DIRECTORY).join(name)) {
            places.insert((found.dev(), found.ino()), place);
        }
    }
    let Ok(entries) = fs::read_dir("/proc") else { return vec![] };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of_lab = |pid: i32| {
        // First who it is, then where it is: were it replaced in between, the start would not fit any more.
        let process = Process::of(pid)?;
        let network = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?;
        Some((*places.get(&(network.dev(), network.ino()))?, process))
    };
    pids.filter_map(of_lab).collect()
}

/// Every process whose standard output is a file below this directory: programs that a lab started, wherever they are.
pub fn printing_below(directory: &Path) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return vec![] };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of_lab = |pid: i32| {
        let process = Process::of(pid)?;
        let output = fs::read_link(format!("/proc/{pid}/fd/1")).ok()?;
        output.starts_with(directory).then_some(process)
    };
    pids.filter_map(of_lab).collect()
}

/// Starts a program that outlives this one, with its output in a file.
pub fn start_detached(mut command: Command, log: &Path) -> Result<(Child, Process), String> {
    let fault = |error: std::io::Error| format!("{:?}: {error}", command.get_program());
    let out = File::create(log).map_err(fault)?;
    let err = out.try_clone().map_err(fault)?;
    let spawned = command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0).spawn();
    let child = spawned.map_err(|error| format!("cannot start {:?}: {error}", command.get_program()))?;
    let pid = child.id() as i32;
    let process = Process::of(pid).ok_or_else(|| ended(&command, log))?;
    Ok((child, process))
}

/// Waits until a program that was started so has printed `ready` on a line.
pub fn wait_until_ready(command_name: &str, child: &mut Child, log: &Path) -> Result<(), String> {
    let since = Instant::now();
    loop {
        let printed = fs::read_to_string(log).unwrap_or_default();
        if printed.lines().any(|line| line.trim() == "ready") {
            return Ok(());
        }
        if child.try_wait().ok().flatten().is_some() || since.elapsed() > READY {
            return Err(format!("{command_name} did not become ready: {}", printed.trim()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ended(command: &Command, log: &Path) -> String {
    let printed = fs::read_to_string(log).unwrap_or_default();
    format!("{:?} ended at once: {}", command.get_program(), printed.trim())
}

/// Fields 3 and 22 of `/proc/PID/stat`; the second one, the name, may hold anything but is the last in parentheses.
fn state_and_start(pid: i32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

const READY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_another_start_is_not_signalled() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let process = Process::of(child.id() as i32).expect("it runs");
        let another = Process { started: process.started + 1, ..process };
        assert!(!another.signal(Signal::KILL) && process.runs() && !another.runs());
        assert!(process.signal(Signal::KILL));
        let status = child.wait().expect("it ends");
        assert!(!status.success() && !process.runs());
    }
}
