//! Network namespaces and the virtual links between them: the ground on which every simulation stands.
//!
//! A [`Namespace`] is one machine of a lab: it has its own interfaces, routes and ports, and it goes away
//! when the value is dropped. A process started through [`Namespace::command`] joins it with `setns`
//! between fork and exec. `ip netns exec` is not used, because it remounts `/sys` and so hides bpffs and
//! cgroups from the program.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};

/// Says whether this process may create namespaces, and if not, what to do about it.
pub fn require_root() -> Result<(), String> {
    // SAFETY: geteuid takes no argument, touches no memory and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return Err("creating network namespaces needs root: run this with sudo".to_owned());
    }
    run_ip(&["-V"]).map_err(|error| format!("iproute2 is needed (apt install iproute2): {error}"))
}

/// The way into a network namespace that is there already; it stays when this is dropped.
#[derive(Debug, Clone)]
pub struct Entrance {
    name: String,
    handle: Arc<File>,
}

impl Entrance {
    /// Opens a namespace by the name that `ip netns` shows.
    pub fn open(name: &str) -> io::Result<Self> {
        let opened = File::open(Path::new(NAMESPACE_DIRECTORY).join(name));
        let handle = opened
            .map_err(|error| io::Error::new(error.kind(), format!("network namespace {name}: {error}")))?;
        Ok(Self { name: name.to_owned(), handle: Arc::new(handle) })
    }

    /// The kernel's name of the namespace, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let handle = Arc::clone(&self.handle);
        // SAFETY: between fork and exec the closure makes one system call (setns) on a descriptor that it
        // owns; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(move || join_network(&handle)) };
        command
    }

    /// Runs `work` on a new thread inside the namespace and returns its result. Sockets that `work` makes
    /// stay in the namespace wherever they are used later; threads that it spawns start in the namespace
    /// too.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| join_network(&self.handle).map(|()| work())).join();
            entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Sets sysctls of the namespace, e.g. `("net.ipv4.ip_forward", "1")`.
    ///
    /// Interface names with dots in them are not supported; the names given out here have none.
    pub fn set_sysctls(&self, settings: &[(&str, &str)]) -> io::Result<()> {
        let set = |(key, value): &(&str, &str)| {
            let path = Path::new("/proc/sys").join(key.replace('.', "/"));
            std::fs::write(path, value)
                .map_err(|error| io::Error::new(error.kind(), format!("sysctl {key}={value}: {error}")))
        };
        self.enter(|| settings.iter().try_for_each(set))?
    }

    /// Makes interfaces compute checksums in software, as `ethtool -K … tx off` does.
    pub fn disable_transmit_offload(&self, interfaces: &[&str]) -> io::Result<()> {
        self.enter(|| interfaces.iter().try_for_each(|interface| disable_transmit_checksum(interface)))?
    }
}

/// Runs many `ip` commands, one a line, inside the namespace of that name or else in the machine's own, in one
/// process that ends with this one.
pub fn ip_batch(namespace: Option<&str>, lines: &[String]) -> io::Result<()> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    end_with_parent(&mut command);
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // What it could not read is in what it says.
        let _said_below = stdin.write_all((lines.join("\n") + "\n").as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip -batch in {}: {}", namespace.unwrap_or("the machine"), reason.trim())))
}

/// The program is killed when the thread that started it is gone, however it ended.
fn end_with_parent(command: &mut Command) {
    let set = || {
        // SAFETY: prctl with this option takes a number and touches no memory.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes one system call; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(set) };
}

/// One network namespace with `lo` up; removed from the machine when dropped.
#[derive(Debug)]
pub struct Namespace {
    entrance: Entrance,
    interfaces: AtomicU32,
}

impl Namespace {
    /// Creates a namespace named after `label` (letters, digits, dashes), this process and a counter.
    pub fn new(label: &str) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(remove_orphans);

        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{NAME_PREFIX}{label}-{}-{number}", std::process::id());
        run_ip(&["netns", "add", &name])?;
        let opened = Entrance::open(&name).and_then(|entrance| {
            run_ip(&["-n", &name, "link", "set", "lo", "up"])?;
            Ok(entrance)
        });
        match opened {
            Ok(entrance) => Ok(Self { entrance, interfaces: AtomicU32::new(0) }),
            Err(error) => {
                run_ip(&["netns", "delete", &name])?;
                Err(error)
            }
        }
    }

    /// The kernel's name of the namespace, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        self.entrance.name()
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.entrance.command(program)
    }

    /// Runs `work` on a new thread inside the namespace and returns its result. Sockets that `work` makes
    /// stay in the namespace wherever they are used later; threads that it spawns start in the namespace
    /// too.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        self.entrance.enter(work)
    }

    /// Adds an address (`10.60.0.1/24`, `fd60::1/64`) to an interface; IPv6 addresses are usable at once
    /// (`nodad`).
    pub fn add_address(&self, interface: &str, cidr: &str) -> io::Result<()> {
        let mut arguments = vec!["address", "add", cidr, "dev", interface];
        if cidr.contains(':') {
            arguments.push("nodad");
        }
        self.ip(&arguments)
    }

    /// Sends everything that no other route covers to `gateway`, in the gateway's address family.
    pub fn default_route(&self, gateway: IpAddr) -> io::Result<()> {
        let family = if gateway.is_ipv6() { "-6" } else { "-4" };
        self.ip(&[family, "route", "replace", "default", "via", &gateway.to_string()])
    }

    /// Sets a sysctl of the namespace, e.g. `("net.ipv4.ip_forward", "1")`.
    ///
    /// Interface names with dots in them are not supported; the names given out here have none.
    pub fn set_sysctl(&self, key: &str, value: &str) -> io::Result<()> {
        self.entrance.set_sysctls(&[(key, value)])
    }

    /// Runs `ip` with the given arguments inside the namespace.
    pub fn ip(&self, arguments: &[&str]) -> io::Result<()> {
        let mut full = vec!["-n", self.name()];
        full.extend_from_slice(arguments);
        run_ip(&full)
    }

    /// Not `veth…`: libnice leaves out interfaces whose names say that they are virtual.
    fn next_interface(&self) -> String {
        format!("eth{}", self.interfaces.fetch_add(1, Ordering::Relaxed))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run_ip(&["netns", "delete", self.name()]) {
            eprintln!("network namespace {} was not removed: {error}", self.name());
        }
    }
}

/// A virtual Ethernet link between two namespaces. It lives as long as they do.
#[derive(Debug)]
pub struct Veth<'a> {
    /// One end: its namespace and the interface's name there.
    pub a: (&'a Namespace, String),
    /// The other end.
    pub b: (&'a Namespace, String),
}

impl<'a> Veth<'a> {
    /// Joins two namespaces by a link that is up, with one address at each end.
    pub fn connect(a: &'a Namespace, a_cidr: &str, b: &'a Namespace, b_cidr: &str) -> io::Result<Self> {
        let link = Self { a: (a, a.next_interface()), b: (b, b.next_interface()) };
        run_ip(&[
            "link",
            "add",
            &link.a.1,
            "netns",
            a.name(),
            "type",
            "veth",
            "peer",
            "name",
            &link.b.1,
            "netns",
            b.name(),
        ])?;
        for (namespace, interface) in [&link.a, &link.b] {
            namespace.ip(&["link", "set", interface, "up"])?;
        }
        link.add_addresses(a_cidr, b_cidr)?;
        Ok(link)
    }

    /// Adds a further address at each end, for example of the other address family.
    pub fn add_addresses(&self, a_cidr: &str, b_cidr: &str) -> io::Result<()> {
        self.a.0.add_address(&self.a.1, a_cidr)?;
        self.b.0.add_address(&self.b.1, b_cidr)
    }

    /// Makes both ends compute checksums in software, as `ethtool -K … tx off` does. A packet that an XDP
    /// program sends on would otherwise carry a partial checksum, and its receiver would drop it.
    pub fn disable_transmit_offload(&self) -> io::Result<()> {
        for (namespace, interface) in [&self.a, &self.b] {
            namespace.entrance.disable_transmit_offload(&[interface])?;
        }
        Ok(())
    }
}

fn join_network(handle: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `handle` is borrowed, and setns keeps no reference to it.
    if unsafe { libc::setns(handle.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn disable_transmit_checksum(interface: &str) -> io::Result<()> {
    #[repr(C)]
    struct EthtoolValue {
        command: u32,
        value: u32,
    }
    const ETHTOOL_STXCSUM: u32 = 0x17; // linux/ethtool.h

    let mut value = EthtoolValue { command: ETHTOOL_STXCSUM, value: 0 };
    // SAFETY: ifreq is plain data for which all zero bytes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{interface}: name too long")));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *slot = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    // SAFETY: SIOCETHTOOL reads and writes the ifreq and the ethtool value it points to; both outlive the
    // call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Removes namespaces whose creating process is gone (it was killed before its destructors ran), and ends
/// what still runs in them.
pub fn remove_orphans() {
    let Ok(entries) = std::fs::read_dir(NAMESPACE_DIRECTORY) else { return };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| is_orphan(name)) {
        for pid in processes_in(&name) {
            // SAFETY: kill touches no memory; the process runs in a namespace that only this lab creates.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        // Another process may be sweeping at the same moment: whoever comes second finds it gone.
        let _already_removed = run_ip(&["netns", "delete", &name]);
    }
}

fn is_orphan(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(NAME_PREFIX) else { return false };
    let creator = rest.rsplit('-').nth(1).and_then(|pid| pid.parse::<u32>().ok());
    creator.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

fn processes_in(name: &str) -> Vec<libc::pid_t> {
    let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.trim().parse().ok()).collect()
}

fn run_ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), reason.trim())))
}

/// Where `ip netns` keeps the names.
pub const NAMESPACE_DIRECTORY: &str = "/run/netns";
const NAME_PREFIX: &str = "trunkline-";
