//! The ground of the measurement: client – server – peer as three namespaces, and who runs on which core.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::netns::{Namespace, Veth};

/// Three namespaces in a row, joined by two veth links.
pub struct Lab {
    client: Namespace,
    server: Namespace,
    peer: Namespace,
    /// How many descriptors a server may have.
    pub descriptors_max: u64,
}

impl Lab {
    /// Builds the namespaces and pins this process, which is going to generate the load, to its core.
    pub fn new() -> io::Result<Self> {
        pin_to_core(GENERATOR_CORE)?;
        let descriptors_max = raise_descriptor_limit(DESCRIPTORS_WANTED)?;
        let lab = Self {
            descriptors_max,
            client: Namespace::new("client")?,
            server: Namespace::new("server")?,
            peer: Namespace::new("peer")?,
        };
        Veth::connect(&lab.client, "10.61.0.2/24", &lab.server, "10.61.0.1/24")?;
        Veth::connect(&lab.server, "10.62.0.1/24", &lab.peer, "10.62.0.2/24")?;
        Ok(lab)
    }

    /// A command that will run in the server's namespace, on the server's core.
    pub fn server_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.server.command(program);
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(|| pin_to_core(SERVER_CORE)) };
        command
    }

    /// A socket of the client machine, connected to the server; port 0 lets the system choose.
    pub fn client_socket(&self, port: u16) -> io::Result<UdpSocket> {
        self.client.enter(|| connected_socket(port))?
    }

    /// A socket of the peer machine.
    pub fn peer_socket(&self) -> io::Result<UdpSocket> {
        let socket = self.peer.enter(|| UdpSocket::bind((PEER_IP, 0)))??;
        enlarge_receive_buffer(&socket)?;
        Ok(socket)
    }

    /// Runs `work` on a thread in the client's namespace.
    pub fn on_client<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        self.client.enter(work)
    }
}

/// A socket connected to the server; the calling thread must be in the client's namespace.
pub fn connected_socket(port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((CLIENT_IP, port))?;
    socket.connect(SERVER)?;
    Ok(socket)
}

/// The generator must never be the one who loses packets.
pub fn enlarge_receive_buffer(socket: &UdpSocket) -> io::Result<()> {
    let bytes: libc::c_int = GENERATOR_RECEIVE_BUFFER_BYTES;
    // SAFETY: the option's value is one int, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn pin_to_core(core: usize) -> io::Result<()> {
    // SAFETY: cpu_set_t is plain data for which all zero bytes (no core) are valid; CPU_SET stays inside it, and
    // the set outlives the call.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Raises the limit for this process and, by inheritance, for the servers: a relay needs a socket per allocation, and
/// some servers two. Returns the limit reached: going beyond the hard limit takes CAP_SYS_RESOURCE.
fn raise_descriptor_limit(wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the limit, which outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let within_hard = wanted.min(limit.rlim_max);
    for (soft, hard) in [(wanted, wanted.max(limit.rlim_max)), (within_hard, limit.rlim_max)] {
        let raised = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        // SAFETY: the limit outlives the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            return Ok(soft);
        }
    }
    Err(io::Error::last_os_error())
}

/// The server's address on the client's side.
pub const SERVER_IP: Ipv4Addr = Ipv4Addr::new(10, 61, 0, 1);
/// The server's TURN address.
pub const SERVER: SocketAddrV4 = SocketAddrV4::new(SERVER_IP, 3478);
/// The server's address on the peer's side.
pub const RELAY_IP: Ipv4Addr = Ipv4Addr::new(10, 62, 0, 1);
/// The client machine.
pub const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(10, 61, 0, 2);
const PEER_IP: Ipv4Addr = Ipv4Addr::new(10, 62, 0, 2);
/// Where the server runs, alone.
pub const SERVER_CORE: usize = 0;
/// Where client and peer run.
pub const GENERATOR_CORE: usize = 1;
const DESCRIPTORS_WANTED: u64 = 65_536;
const GENERATOR_RECEIVE_BUFFER_BYTES: libc::c_int = 8 << 20;
