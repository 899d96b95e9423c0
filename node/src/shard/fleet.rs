//! Packets between servers over plain UDP: the socket they travel by, and the one that sees strays.
//!
//! A stray is a peer's packet for a relay port of another server's slice. Until the flow steerer sorts packets in
//! the kernel, a raw socket with a filter for exactly those ports shows them to us; it needs CAP_NET_RAW, and only
//! nodes with a fleet open it.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use trunkline_turn::ports::{PortOwner, PortTable, SLICE_BITS, SLICES};
use trunkline_wire::NodeId;

use super::sys::{self, FilterInstruction};

/// The other servers of the fleet and where they take encapsulated packets.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Where we take them.
    pub encapsulation: SocketAddr,
    /// Where the others do.
    pub members: HashMap<NodeId, SocketAddr>,
}

/// A node's link to its fleet, shared by its shards.
#[derive(Clone)]
pub struct FleetLink {
    /// The other servers.
    pub members: Arc<HashMap<NodeId, SocketAddr>>,
    /// Sends and receives encapsulated packets.
    pub socket: Arc<OwnedFd>,
    /// See strays, one for each IPv4 relay address with slices of others.
    pub strays: Arc<Vec<OwnedFd>>,
}

impl FleetLink {
    /// Opens the sockets.
    ///
    /// # Errors
    /// The address is in use or not ours, or CAP_NET_RAW is missing.
    pub fn open(fleet: &Fleet, ports: &PortTable) -> io::Result<Self> {
        let socket =
            Socket::new(Domain::for_address(fleet.encapsulation), Type::DGRAM.nonblocking().cloexec(), None)?;
        socket.bind(&fleet.encapsulation.into())?;
        sys::set_buffers(socket.as_fd(), super::UDP_BUFFER_BYTES);
        let strays = ports.ips().filter_map(|ip| match ip {
            IpAddr::V4(v4) => open_strays(v4, ports).transpose(),
            IpAddr::V6(_) => None,
        });
        Ok(Self {
            members: Arc::new(fleet.members.clone()),
            socket: Arc::new(socket.into()),
            strays: Arc::new(strays.collect::<io::Result<_>>()?),
        })
    }

    /// Whether a member sends from this address; whoever else does is a stranger.
    pub fn is_member(&self, from: SocketAddr) -> bool {
        self.members.values().any(|member| *member == from)
    }
}

/// A raw socket for packets to the ports of `ip` that others own; `None` when all are ours.
fn open_strays(ip: Ipv4Addr, ports: &PortTable) -> io::Result<Option<OwnedFd>> {
    let owned_by_others = |slice: &usize| {
        let first_port = u16::try_from(*slice << SLICE_BITS).unwrap_or(0);
        matches!(ports.owner(SocketAddr::new(ip.into(), first_port)), PortOwner::Node(_))
    };
    let slices: Vec<usize> = (0..SLICES).filter(owned_by_others).collect();
    if slices.is_empty() {
        return Ok(None);
    }
    let socket = Socket::new(Domain::IPV4, Type::RAW.nonblocking().cloexec(), Some(Protocol::UDP))?;
    sys::attach_filter(socket.as_fd(), &mut slice_filter(&slices))?;
    // What came between opening and filtering may be for other ports.
    while socket.recv(&mut [MaybeUninit::uninit(); 1]).is_ok() {}
    socket.bind(&SocketAddr::new(ip.into(), 0).into())?;
    sys::set_buffers(socket.as_fd(), super::UDP_BUFFER_BYTES);
    Ok(Some(socket.into()))
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
