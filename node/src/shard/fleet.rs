//! Packets between servers over plain UDP: the socket they travel by, and the one that sees strays.
//!
//! A stray is a peer's packet for a relay port of another server's slice. Until the flow steerer sorts packets in
//! the kernel, a raw socket with a filter for exactly those ports shows them to us; it needs CAP_NET_RAW, and only
//! nodes with a fleet open it. Its filter changes with the owners of slices while the node runs.

use std::collections::{HashMap, HashSet};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use trunkline_turn::ports::{PortOwner, PortTable, SLICE_BITS, SLICES};
use trunkline_wire::NodeId;

use super::sys::{self, FilterInstruction};

/// The other servers, found by name and by address.
#[derive(Default)]
pub struct Members {
    by_node: HashMap<NodeId, SocketAddr>,
    places: HashSet<SocketAddr>,
}

impl Members {
    /// These servers, where they take encapsulated packets.
    pub fn new(members: &HashMap<NodeId, SocketAddr>) -> Self {
        Self { by_node: members.clone(), places: members.values().copied().collect() }
    }

    /// Where a server takes encapsulated packets.
    pub fn place_of(&self, node: NodeId) -> Option<SocketAddr> {
        self.by_node.get(&node).copied()
    }

    /// Whether a member sends from this address; whoever else does is a stranger.
    pub fn hold(&self, from: SocketAddr) -> bool {
        self.places.contains(&from)
    }
}

/// A node's link to its fleet, shared by its shards.
#[derive(Clone)]
pub struct FleetLink {
    /// Sends and receives encapsulated packets.
    pub socket: Arc<OwnedFd>,
}

impl FleetLink {
    /// Opens the socket.
    ///
    /// # Errors
    /// The address is in use or not ours.
    pub fn open(at: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM.nonblocking().cloexec(), None)?;
        socket.bind(&at.into())?;
        sys::set_buffers(socket.as_fd(), super::UDP_BUFFER_BYTES);
        Ok(Self { socket: Arc::new(socket.into()) })
    }
}

/// A raw socket and the slices that its filter lets through.
struct Watched {
    ip: Ipv4Addr,
    slices: Vec<usize>,
    socket: Arc<OwnedFd>,
}

/// The sockets that see strays: one for each IPv4 relay address with slices of others.
pub struct Strays {
    /// Each keeps its place while it is open.
    places: Vec<Option<Watched>>,
    /// Not on a node without a fleet, nor on one that may not.
    enabled: bool,
}

impl Strays {
    /// None yet.
    pub const fn new(enabled: bool) -> Self {
        Self { places: Vec::new(), enabled }
    }

    /// Opens, closes and filters the sockets as a table of ports wants it. Without CAP_NET_RAW nothing is opened, and
    /// said once: strays are not seen then, everything else goes on.
    pub fn follow(&mut self, ports: &PortTable) {
        let mut wanted: HashMap<Ipv4Addr, Vec<usize>> = wanted(ports);
        for place in &mut self.places {
            let slices = place.as_ref().and_then(|watched| wanted.remove(&watched.ip));
            *place = place.take().zip(slices).and_then(|(watched, slices)| refilter(watched, slices));
        }
        if !self.enabled {
            return;
        }
        for (ip, slices) in wanted {
            match open_strays(ip, slices) {
                Ok(watched) => self.put(watched),
                Err(error) => {
                    self.enabled = false;
                    tracing::warn!(
                        %error,
                        "packets that land here for other servers' relay ports are not seen; that needs CAP_NET_RAW"
                    );
                    return;
                }
            }
        }
    }

    fn put(&mut self, watched: Watched) {
        match self.places.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(watched),
            None => self.places.push(Some(watched)),
        }
    }

    /// The sockets by place.
    pub fn sockets(&self) -> Vec<Option<Arc<OwnedFd>>> {
        let socket = |place: &Option<Watched>| place.as_ref().map(|watched| Arc::clone(&watched.socket));
        self.places.iter().map(socket).collect()
    }
}

/// The slices of others, by IPv4 relay address.
fn wanted(ports: &PortTable) -> HashMap<Ipv4Addr, Vec<usize>> {
    let slices_of_others = |ip: Ipv4Addr| -> Vec<usize> {
        let is_theirs = |slice: &usize| {
            let first_port = u16::try_from(*slice << SLICE_BITS).unwrap_or(0);
            matches!(ports.owner(SocketAddr::new(ip.into(), first_port)), PortOwner::Node(_))
        };
        (0..SLICES).filter(is_theirs).collect()
    };
    let v4 = ports.ips().filter_map(|ip| match ip {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    });
    v4.map(|ip| (ip, slices_of_others(ip))).filter(|(_, slices)| !slices.is_empty()).collect()
}

/// The socket with a filter for these slices, which takes the place of the one before at once.
fn refilter(watched: Watched, slices: Vec<usize>) -> Option<Watched> {
    if watched.slices == slices {
        return Some(watched);
    }
    let filtered = sys::attach_filter(watched.socket.as_fd(), &mut slice_filter(&slices));
    if let Err(error) = &filtered {
        tracing::warn!(%error, "packets for other servers' ports at one relay address are no longer seen");
    }
    filtered.ok().map(|()| Watched { slices, ..watched })
}

/// A raw socket for packets to the ports of `ip` that others own.
fn open_strays(ip: Ipv4Addr, slices: Vec<usize>) -> io::Result<Watched> {
    let socket = Socket::new(Domain::IPV4, Type::RAW.nonblocking().cloexec(), Some(Protocol::UDP))?;
    sys::attach_filter(socket.as_fd(), &mut slice_filter(&slices))?;
    // What came between opening and filtering may be for other ports.
    while socket.recv(&mut [MaybeUninit::uninit(); 1]).is_ok() {}
    socket.bind(&SocketAddr::new(ip.into(), 0).into())?;
    sys::set_buffers(socket.as_fd(), super::UDP_BUFFER_BYTES);
    Ok(Watched { ip, slices, socket: Arc::new(socket.into()) })
}

/// Accepts UDP packets whose destination port lies in one of the slices. A raw socket's filter sees the packet from
/// its IP header on.
fn slice_filter(slices: &[usize]) -> Vec<FilterInstruction> {
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| FilterInstruction { code: code as u16, jt, jf, k };
    let mut program = vec![
        instruction(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
        instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, 2),
        instruction(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 0, 0, SLICE_BITS),
    ];
    let mut left = slices.len();
    for slice in slices {
        left -= 1;
        // A match jumps over the remaining comparisons and the refusal behind them; there are at most 64.
        let to_accept = u8::try_from(left + 1).unwrap_or(u8::MAX);
        let slice = u32::try_from(*slice).unwrap_or(u32::MAX);
        program.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, to_accept, 0, slice));
    }
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0));
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX));
    program
}
