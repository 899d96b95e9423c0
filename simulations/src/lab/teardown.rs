//! The end of a lab: nothing of it stays, however far it was built and whatever was killed.
//!
//! Nothing is believed but what the kernel shows: namespaces are found by their names, processes by the namespace that they
//! are in and by the directory that they print to.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::processes::{self, Process};
use super::state::Directory;
use super::{NAMESPACE_PREFIX, namespace};
use crate::netns::{NAMESPACE_DIRECTORY, ip_batch};

/// Ends a lab. It is no error if there is nothing of it.
pub fn down(lab: &str) -> Result<(), String> {
    let directory = Directory::of(lab);
    let _lock = directory.exists().then(|| directory.lock()).transpose()?;
    // A program that was killed while it built the lab may have had a child with one more step under way.
    for _ in 0..ROUNDS {
        let spaces = namespaces(lab);
        end_processes(&spaces, &directory)?;
        if spaces.is_empty() {
            return directory.remove();
        }
        remove(&spaces);
    }
    Err(format!("these namespaces do not go away: {}", namespaces(lab).join(", ")))
}

/// Names of all labs of which anything is there, be it a namespace or a directory.
pub fn all_labs() -> Vec<String> {
    let mut labs = Directory::labs();
    labs.extend(namespace_names().iter().filter_map(|name| lab_of(name)).map(str::to_owned));
    labs.sort();
    labs.dedup();
    labs
}

/// Ends every lab that belongs to a process which is gone.
pub fn sweep() {
    for lab in all_labs().into_iter().filter(|lab| is_orphan(lab)) {
        if let Err(fault) = down(&lab) {
            eprintln!("lab {lab}, which a dead process left behind: {fault}");
        }
    }
}

/// The namespaces of a lab.
pub fn namespaces(lab: &str) -> Vec<String> {
    let prefix = namespace(lab, "");
    namespace_names().into_iter().filter(|name| name.starts_with(&prefix)).collect()
}

fn is_orphan(lab: &str) -> bool {
    match Directory::of(lab).record() {
        Ok(Some(record)) => record.owner.is_some_and(|owner| !owner.runs()),
        // Killed before the owner was written down, or after its directory was removed: such labs have their owner's id
        // in their names.
        Ok(None) => owner_in_name(lab).is_some_and(|pid| Process::of(pid).is_none()),
        Err(_) => false,
    }
}

fn owner_in_name(lab: &str) -> Option<i32> {
    let (pid, number) = lab.strip_prefix('t')?.split_once('x')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

/// Ends what is in the namespaces, and what the lab started and is in a namespace whose name somebody has removed.
fn end_processes(spaces: &[String], directory: &Directory) -> Result<(), String> {
    let since = Instant::now();
    loop {
        let mut found: Vec<Process> =
            processes::inside(spaces).into_iter().map(|(_, process)| process).collect();
        found.extend(processes::printing_below(directory.path()));
        if found.is_empty() {
            return Ok(());
        }
        for process in &found {
            process.signal(Signal::KILL);
        }
        if since.elapsed() > PATIENCE {
            let names: Vec<String> =
                found.iter().map(|process| format!("{} ({})", process.pid, process.name())).collect();
            return Err(format!("these processes do not end: {}", names.join(", ")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn remove(spaces: &[String]) {
    let lines: Vec<String> = spaces.iter().map(|name| format!("netns delete {name}")).collect();
    if ip_batch(None, &lines).is_err() {
        for line in lines {
            // Gone already, or half made; whoever called looks again.
            let _looked_at_again = ip_batch(None, &[line]);
        }
    }
}

fn namespace_names() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(Path::new(NAMESPACE_DIRECTORY)) else { return vec![] };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn lab_of(space: &str) -> Option<&str> {
    space.strip_prefix(NAMESPACE_PREFIX)?.split_once('-').map(|(lab, _)| lab)
}

const ROUNDS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        assert_eq!(lab_of(&namespace("two_sites", "ams-1")), Some("two_sites"));
        assert_eq!(lab_of("trunkline-x-1-1"), None);
        assert_eq!(owner_in_name("t123x4"), Some(123));
        assert_eq!([owner_in_name("two_sites"), owner_in_name("t1xy"), owner_in_name("tx1")], [None; 3]);
    }
}
