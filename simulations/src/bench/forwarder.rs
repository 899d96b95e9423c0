//! The least that a relay on sockets can do: recvmmsg, one look-up, sendmmsg. No protocol, no timers, no checks.
//!
//! Clients share one socket; every flow has one of its own towards its peer, as in TURN. A client's first two
//! datagrams set its flow up: anything, answered with the flow's relay address (four bytes, two bytes), then its
//! peer's address in the same form, echoed. Everything after that is forwarded as it is.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

use ahash::AHashMap;

use super::batch::{Ancillary, Batch, socket_address};
use super::poll::{Patience, Poll};

/// Serves until the process is killed.
pub fn run(address: SocketAddrV4, relay_ip: Ipv4Addr) -> io::Result<()> {
    let mut forwarder = Forwarder::new(address, relay_ip)?;
    println!("ready");
    let mut readable = Vec::with_capacity(EVENTS_MAX);
    loop {
        readable.extend(forwarder.poll.wait(Patience::Unbounded)?);
        for number in readable.drain(..) {
            match number {
                CLIENTS => forwarder.relay_from_clients()?,
                relay => forwarder.gather_from_peer(relay - 1)?,
            }
        }
        forwarder.flush_to_clients()?;
    }
}

struct Forwarder {
    clients: UdpSocket,
    relay_ip: Ipv4Addr,
    flows: Vec<Flow>,
    by_client: AHashMap<SocketAddrV4, usize>,
    poll: Poll,
    inbound: Batch,
    outbound: Batch,
    outbound_used: usize,
}

struct Flow {
    relay: UdpSocket,
    client: libc::sockaddr_in,
    has_peer: bool,
}

impl Forwarder {
    fn new(address: SocketAddrV4, relay_ip: Ipv4Addr) -> io::Result<Self> {
        let clients = UdpSocket::bind(address)?;
        let poll = Poll::new(EVENTS_MAX)?;
        poll.watch(clients.as_raw_fd(), CLIENTS)?;
        Ok(Self {
            clients,
            relay_ip,
            flows: Vec::new(),
            by_client: AHashMap::new(),
            poll,
            inbound: Batch::new(BATCH, Ancillary::Source),
            outbound: Batch::new(BATCH, Ancillary::None),
            outbound_used: 0,
        })
    }

    /// Datagrams of all clients: each goes out through the relay socket of its flow, runs of one flow together.
    fn relay_from_clients(&mut self) -> io::Result<()> {
        let count = self.inbound.receive(self.clients.as_raw_fd(), 0..BATCH)?;
        let mut run = 0..0;
        let mut run_flow = usize::MAX;
        for slot in 0..count {
            let source = self.inbound.source(slot);
            let flow = self.by_client.get(&source).copied().filter(|flow| self.flows[*flow].has_peer);
            let Some(flow) = flow else {
                self.set_up(slot, source)?;
                continue;
            };
            self.inbound.readdress(slot, None);
            if flow != run_flow || run.end != slot {
                self.send_run(run_flow, run)?;
                (run, run_flow) = (slot..slot, flow);
            }
            run.end = slot + 1;
        }
        self.send_run(run_flow, run)
    }

    fn send_run(&mut self, flow: usize, run: std::ops::Range<usize>) -> io::Result<()> {
        if run.is_empty() {
            return Ok(());
        }
        self.inbound.send(self.flows[flow].relay.as_raw_fd(), run).map(drop)
    }

    /// Datagrams of one flow's peer: they gather with those of other flows, and leave in one call.
    fn gather_from_peer(&mut self, flow: usize) -> io::Result<()> {
        if self.outbound_used + PER_FLOW > BATCH {
            self.flush_to_clients()?;
        }
        let free = self.outbound_used..self.outbound_used + PER_FLOW;
        let count = self.outbound.receive(self.flows[flow].relay.as_raw_fd(), free)?;
        for slot in self.outbound_used..self.outbound_used + count {
            self.outbound.readdress(slot, Some(self.flows[flow].client));
        }
        self.outbound_used += count;
        Ok(())
    }

    fn flush_to_clients(&mut self) -> io::Result<()> {
        let used = std::mem::take(&mut self.outbound_used);
        if used > 0 {
            self.outbound.send(self.clients.as_raw_fd(), 0..used)?;
        }
        Ok(())
    }

    fn set_up(&mut self, slot: usize, source: SocketAddrV4) -> io::Result<()> {
        let Some(flow) = self.by_client.get(&source) else { return self.open(source) };
        let Some(peer) = decode_address(self.inbound.bytes(slot)) else { return Ok(()) };
        let flow = &mut self.flows[*flow];
        flow.relay.connect(peer)?;
        flow.has_peer = true;
        self.clients.send_to(&encode_address(peer), source).map(drop)
    }

    fn open(&mut self, source: SocketAddrV4) -> io::Result<()> {
        let relay = UdpSocket::bind((self.relay_ip, 0))?;
        let std::net::SocketAddr::V4(relay_address) = relay.local_addr()? else { return Ok(()) };
        self.poll.watch(relay.as_raw_fd(), self.flows.len() + 1)?;
        self.by_client.insert(source, self.flows.len());
        self.flows.push(Flow { relay, client: socket_address(source), has_peer: false });
        self.clients.send_to(&encode_address(relay_address), source).map(drop)
    }
}

/// Six bytes: address and port in network order.
pub fn encode_address(address: SocketAddrV4) -> [u8; 6] {
    let [a, b, c, d] = address.ip().octets();
    let [high, low] = address.port().to_be_bytes();
    [a, b, c, d, high, low]
}

/// The inverse of [`encode_address`].
pub fn decode_address(bytes: &[u8]) -> Option<SocketAddrV4> {
    let [a, b, c, d, high, low] = *bytes else { return None };
    Some(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])))
}

const CLIENTS: usize = 0;
const EVENTS_MAX: usize = 64;
const BATCH: usize = 64;
/// How many datagrams of one flow are taken before the others have their turn.
const PER_FLOW: usize = 8;
