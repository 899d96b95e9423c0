//! Whatever is killed, and whenever: nothing of a lab stays.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use trunkline_simulations::lab::processes::Process;
use trunkline_simulations::lab::state::Directory;
use trunkline_simulations::lab::{Lab, namespace, teardown};
use trunkline_simulations::server::program;

use crate::Run;
use crate::probing::demand;
use crate::sites::example;

/// Name and program of each trial.
pub const TRIALS: [(&str, Run); 5] = [
    ("lab_killed_while_it_is_built_leaves_nothing", lab_killed_while_it_is_built_leaves_nothing),
    ("lab_with_killed_parts_is_taken_down", lab_with_killed_parts_is_taken_down),
    ("lab_of_a_dead_process_is_swept", lab_of_a_dead_process_is_swept),
    ("command_builds_shows_runs_and_ends", command_builds_shows_runs_and_ends),
    ("machine_itself_is_not_touched", machine_itself_is_not_touched),
];

fn lab_killed_while_it_is_built_leaves_nothing() -> Result<(), String> {
    let guard = Named::new("killed");
    let name = guard.0.as_str();
    let mut half_built = 0;
    for delay_ms in [2, 10, 25, 50, 80, 120, 200, 400] {
        let mut up = lab_command(&["up", &example_path("two_sites.toml"), "--name", name])?;
        let mut up = up.stderr(Stdio::null()).spawn().map_err(|error| error.to_string())?;
        std::thread::sleep(Duration::from_millis(delay_ms));
        up.kill().map_err(|error| error.to_string())?;
        up.wait().map_err(|error| error.to_string())?;
        half_built += usize::from(!teardown::namespaces(name).is_empty());
        run(&["down", name])?;
        demand_nothing_left(name).map_err(|fault| format!("killed after {delay_ms} ms: {fault}"))?;
    }
    demand(half_built >= 2, "no run was killed in the middle")?;
    run(&["up", &example_path("one_site.toml"), "--name", name])?;
    run(&["down", name])?;
    demand_nothing_left(name)
}

fn lab_with_killed_parts_is_taken_down() -> Result<(), String> {
    let guard = Named::new("parts");
    let name = guard.0.as_str();
    run(&["up", &example_path("one_site.toml"), "--name", name])?;
    let record = Directory::of(name).record()?.ok_or("no record")?;
    let bird = record.infrastructure.first().ok_or("no BIRD")?;
    bird.signal(rustix::process::Signal::KILL);
    // A name that somebody removed by hand: what runs there is in no namespace that can be listed.
    let removed = Command::new("ip").args(["netns", "delete", &namespace(name, "ams-1")]).status();
    demand(removed.is_ok_and(|status| status.success()), "the name was not removed")?;
    // What `ip netns add` leaves behind when it is killed between its two steps.
    let half_made = Path::new("/run/netns").join(namespace(name, "half"));
    std::fs::write(&half_made, "").map_err(|error| error.to_string())?;
    std::fs::remove_file(Directory::of(name).file("lab.json")).map_err(|error| error.to_string())?;
    demand(run(&["status", "--lab", name]).is_err(), "a lab without its record has no status")?;
    run(&["down", name])?;
    demand_nothing_left(name)?;
    run(&["down", name])
}

fn lab_of_a_dead_process_is_swept() -> Result<(), String> {
    let (lab, alive) = (Lab::up(&example("one_site.toml")?)?, Lab::up(&example("one_site.toml")?)?);
    let directory = Directory::of(lab.name());
    let mut record = directory.record()?.ok_or("no record")?;
    // The owner's id belongs to another process now.
    let owner = Process::own().ok_or("this process is not there")?;
    demand(record.owner == Some(owner), "the owner was not written down")?;
    record.owner = Some(Process { started: owner.started - 1, ..owner });
    directory.keep(&record)?;
    teardown::sweep();
    demand_nothing_left(lab.name())?;
    demand(Lab::open(alive.name()).is_ok(), "the lab of a living process was swept, too")?;
    let name = alive.name().to_owned();
    drop(alive);
    demand_nothing_left(&name)
}

fn command_builds_shows_runs_and_ends() -> Result<(), String> {
    let guard = Named::new("cmd");
    let name = guard.0.as_str();
    run(&["up", &example_path("one_site.toml"), "--name", name])?;
    let again = run(&["up", &example_path("one_site.toml"), "--name", name]);
    demand(again.is_err_and(|fault| fault.contains("already")), "the same name was taken twice")?;
    let status = output(&["status", "--lab", name])?;
    demand(status.contains("198.18.0.1 reaches ams"), status)?;
    demand(output(&["list"])?.contains(name), "the list does not show it")?;
    demand(output(&["trace", "--lab", name, "alice"])?.contains("internet"), "no way is shown")?;
    let exec = |words: &[&str]| lab_command(&[&["exec", "--lab", name, "ams-1", "--"], words].concat());
    let code = exec(&["sh", "-c", "exit 7"])?.status().map_err(|error| error.to_string())?;
    demand(code.code() == Some(7), format!("exit code 7 came through as {code}"))?;
    let addresses = exec(&["ip", "-br", "address"])?.output().map_err(|error| error.to_string())?;
    let addresses = String::from_utf8_lossy(&addresses.stdout).into_owned();
    demand(addresses.contains("10.1.1.2/24") && addresses.contains("any0"), addresses)?;
    run(&["fault", "--lab", name, "withdraw", "ams-1"])?;
    demand(output(&["fault", "--lab", name, "--list"])?.contains("ams-1 is withdrawn"), "not listed")?;
    run(&["down", name])?;
    demand_nothing_left(name)
}

/// Interfaces, routes and rules of the machine's own network are the same before, during and after.
fn machine_itself_is_not_touched() -> Result<(), String> {
    let seen = || {
        let of = |words: [&str; 3]| Command::new("ip").args(words).output().map(|output| output.stdout);
        let all =
            [of(["-br", "link", "show"]), of(["route", "show", "table all"]), of(["-6", "rule", "show"])];
        all.into_iter().collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())
    };
    let before = seen()?;
    let lab = Lab::up(&example("one_site.toml")?)?;
    let during = seen()?;
    drop(lab);
    demand(before == during && during == seen()?, "the machine's own network has changed")
}

/// The name of a lab that a trial builds by the command; whatever happens, it is taken down in the end.
struct Named(String);

impl Named {
    fn new(label: &str) -> Self {
        Self(format!("{label}{}", std::process::id()))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if let Err(fault) = teardown::down(&self.0) {
            eprintln!("lab {}: {fault}", self.0);
        }
    }
}

/// No namespace, no directory, and no process that has a file of the lab's directory open or in its arguments.
fn demand_nothing_left(name: &str) -> Result<(), String> {
    let spaces = teardown::namespaces(name);
    demand(spaces.is_empty(), format!("namespaces: {spaces:?}"))?;
    let directory = PathBuf::from("/run/trunkline-lab").join(name);
    demand(!directory.exists(), format!("{} is there", directory.display()))?;
    let since = Instant::now();
    loop {
        let left = processes_with(&format!("{}/", directory.display()));
        if left.is_empty() {
            return Ok(());
        }
        demand(since.elapsed() < Duration::from_secs(2), format!("processes: {left:?}"))?;
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn processes_with(path: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_of_lab = |process: &PathBuf| {
        let arguments = std::fs::read_to_string(process.join("cmdline")).unwrap_or_default();
        let files = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        let open = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        arguments.contains(path) || open.into_iter().any(|file| file.to_string_lossy().starts_with(path))
    };
    let others = entries.map(|entry| entry.path()).filter(|process| !process.ends_with(&own));
    others.filter(is_of_lab).map(|process| process.display().to_string()).collect()
}

fn example_path(name: &str) -> String {
    format!("{}/topologies/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn lab_command(arguments: &[&str]) -> Result<Command, String> {
    let mut command = Command::new(program("lab")?);
    command.args(arguments).stdin(Stdio::null());
    Ok(command)
}

fn run(arguments: &[&str]) -> Result<(), String> {
    output(arguments).map(|_| ())
}

fn output(arguments: &[&str]) -> Result<String, String> {
    let output = lab_command(arguments)?.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("lab {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))
}
