//! The ground: what all simulations take for granted about namespaces, links and child processes.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use trunkline_simulations::netns::{Namespace, Veth, remove_orphans};
use trunkline_simulations::process::{Running, Stream};

use crate::Run;

/// Name and program of each trial.
pub const TRIALS: [(&str, Run); 8] = [
    ("link_carries_both_address_families", link_carries_both_address_families),
    ("namespace_without_a_link_reaches_nobody", namespace_without_a_link_reaches_nobody),
    ("namespace_is_removed_with_its_value", namespace_is_removed_with_its_value),
    ("namespace_of_a_dead_process_is_removed", namespace_of_a_dead_process_is_removed),
    ("sysctl_stays_inside_its_namespace", sysctl_stays_inside_its_namespace),
    ("transmit_checksums_can_be_left_to_software", transmit_checksums_can_be_left_to_software),
    ("line_is_awaited_until_its_deadline", line_is_awaited_until_its_deadline),
    ("whole_process_group_ends_with_its_value", whole_process_group_ends_with_its_value),
];

fn link_carries_both_address_families() -> Result<(), String> {
    let (a, b) = two_namespaces()?;
    let link = text(Veth::connect(&a, "10.50.0.1/24", &b, "10.50.0.2/24"))?;
    text(link.add_addresses("fd50::1/64", "fd50::2/64"))?;
    for address in ["10.50.0.1:0", "[fd50::1]:0"] {
        let listener = text(text(a.enter(|| TcpListener::bind(address)))?)?;
        let address = text(listener.local_addr())?;
        text(connect(&b, &address)).map_err(|error| format!("{address}: {error}"))?;
    }
    Ok(())
}

fn namespace_without_a_link_reaches_nobody() -> Result<(), String> {
    let (a, b) = two_namespaces()?;
    let listener = text(text(a.enter(|| TcpListener::bind("127.0.0.1:0")))?)?;
    let address = text(listener.local_addr())?;
    text(connect(&a, &address))?;
    match connect(&b, &address) {
        Ok(_) => Err("a loopback address was reached from another namespace".to_owned()),
        Err(_) => Ok(()),
    }
}

fn namespace_is_removed_with_its_value() -> Result<(), String> {
    let namespace = text(Namespace::new("short-lived"))?;
    let file = Path::new("/run/netns").join(namespace.name());
    demand(file.exists(), "the namespace has no name in /run/netns")?;
    drop(namespace);
    demand(!file.exists(), "the namespace is still there")
}

fn namespace_of_a_dead_process_is_removed() -> Result<(), String> {
    let name = format!("trunkline-orphan-{PID_OF_NOBODY}-0");
    ip(&["netns", "add", &name])?;
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &name, "sleep", "600"]);
    let mut sleeper = text(Running::start("sleep", &mut command))?;
    let joined = eventually(|| {
        let pids = Command::new("ip").args(["netns", "pids", &name]).output();
        pids.is_ok_and(|output| !output.stdout.is_empty())
    });
    demand(joined, "the process did not join the namespace")?;
    remove_orphans();
    let ended = eventually(|| sleeper.status_now().is_ok_and(|status| status.is_some()));
    demand(!Path::new("/run/netns").join(&name).exists(), "the namespace is still there")?;
    demand(ended, "the process in it still runs")
}

fn sysctl_stays_inside_its_namespace() -> Result<(), String> {
    let (a, b) = two_namespaces()?;
    let read = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl");
    let before = text(text(b.enter(read))?)?;
    text(a.set_sysctl("net.ipv4.ip_default_ttl", "33"))?;
    demand(text(text(a.enter(read))?)?.trim() == "33", "the value was not set")?;
    demand(text(text(b.enter(read))?)? == before, "the value reached another namespace")?;
    demand(a.set_sysctl("net.ipv4.no_such_key", "1").is_err(), "an unknown key was accepted")
}

fn transmit_checksums_can_be_left_to_software() -> Result<(), String> {
    let (a, b) = two_namespaces()?;
    let link = text(Veth::connect(&a, "10.50.0.1/24", &b, "10.50.0.2/24"))?;
    demand(offloads_checksums(&link.a)? && offloads_checksums(&link.b)?, "a new link does not offload")?;
    text(link.disable_transmit_offload())?;
    demand(!offloads_checksums(&link.a)? && !offloads_checksums(&link.b)?, "an end still offloads")
}

fn line_is_awaited_until_its_deadline() -> Result<(), String> {
    let mut command = Command::new("sh");
    command.args(["-c", "echo first; sleep 0.2; echo ready; echo complaint >&2; sleep 600"]);
    let mut running = text(Running::start("sh", &mut command))?;
    running.wait_for_line("ready", PATIENCE)?;
    let started = Instant::now();
    let fault = running.wait_for_line("never", Duration::from_millis(100)).err();
    demand(started.elapsed() < PATIENCE, "the deadline was not kept")?;
    demand(fault.is_some_and(|fault| fault.contains("first")), "the error does not show the log")?;
    text(running.terminate())?;
    let status = running.wait_for_exit(PATIENCE)?;
    demand(!status.success(), "a killed program counts as a success")?;
    demand(running.lines(Stream::Err) == ["complaint"], "standard error was not captured")
}

fn whole_process_group_ends_with_its_value() -> Result<(), String> {
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 600 & echo $!; wait"]);
    let running = text(Running::start("sh", &mut command))?;
    let grandchild: u32 = running.wait_for("a process id", PATIENCE, |line| line.trim().parse().ok())?;
    let process = Path::new("/proc").join(grandchild.to_string());
    demand(process.exists(), "the grandchild does not run")?;
    drop(running);
    demand(eventually(|| has_ended(&process)), "the grandchild still runs")
}

/// Two namespaces, proven to be neither the machine's own nor one another: what a test changes in them stays there.
fn two_namespaces() -> Result<(Namespace, Namespace), String> {
    let (a, b) = (text(Namespace::new("a"))?, text(Namespace::new("b"))?);
    let identity = || std::fs::read_link("/proc/thread-self/ns/net");
    let (inside_a, inside_b) = (text(text(a.enter(identity))?)?, text(text(b.enter(identity))?)?);
    let machine = text(identity())?;
    demand(inside_a != machine && inside_b != machine, "the code did not leave the machine's own network")?;
    demand(inside_a != inside_b, "two namespaces are one")?;
    let command = text(a.command("readlink").arg("/proc/self/ns/net").output())?;
    let seen = String::from_utf8_lossy(&command.stdout).trim().to_owned();
    demand(Path::new(&seen) == inside_a, "a command did not join its namespace")?;
    Ok((a, b))
}

fn connect(from: &Namespace, address: &SocketAddr) -> std::io::Result<TcpStream> {
    from.enter(|| TcpStream::connect_timeout(address, PATIENCE))?
}

fn offloads_checksums((namespace, interface): &(&Namespace, String)) -> Result<bool, String> {
    let output = text(namespace.command("ethtool").args(["--show-features", interface]).output())?;
    let features = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = features.lines().find(|line| line.starts_with("tx-checksumming:"));
    Ok(line.ok_or("ethtool shows no tx-checksumming")?.contains("on"))
}

/// A killed process may wait for its new parent to collect it.
fn has_ended(process: &Path) -> bool {
    let Ok(status) = std::fs::read_to_string(process.join("stat")) else { return true };
    status.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let status = text(Command::new("ip").args(arguments).status())?;
    demand(status.success(), &format!("ip {} failed", arguments.join(" ")))
}

fn eventually(condition: impl FnMut() -> bool) -> bool {
    let mut condition = condition;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn demand(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn text<T>(result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

const PATIENCE: Duration = Duration::from_secs(5);
/// Above the kernel's highest process id (2^22).
const PID_OF_NOBODY: u32 = 999_999_999;
