//! The flows of a measurement, set up and ready to carry packets: a client socket and a relay address each.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use super::forwarder::{decode_address, encode_address};
use super::lab::{CLIENT_IP, Lab, SERVER, enlarge_receive_buffer};
use super::server::{Server, credentials};
use crate::turn_client::TurnClient;

/// Where packets go in and come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Clients send, the peer receives.
    ClientToPeer,
    /// The peer sends, clients receive.
    PeerToClient,
    /// Clients in pairs, each with a relay of its own, send to each other.
    ClientToClient,
}

/// Flows through one server.
pub struct Flows {
    /// One socket per flow, connected to the server.
    pub clients: Vec<UdpSocket>,
    /// What the server sees of each client.
    pub mapped: Vec<SocketAddrV4>,
    /// Where the peer reaches each client.
    pub relays: Vec<SocketAddrV4>,
    /// The socket of all peers.
    pub peer: UdpSocket,
    /// How clients frame what they send.
    pub framing: Framing,
}

/// What surrounds the payload between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Nothing.
    Bare,
    /// ChannelData (RFC 8656 §12.4), with [`channel`] as number.
    ChannelData,
}

/// The channel that the client of a flow uses.
pub fn channel(flow: usize) -> u16 {
    0x4000 + flow as u16
}

/// The other client of a pair.
pub fn partner(flow: usize) -> usize {
    flow ^ 1
}

impl Flows {
    /// Sets up [`FLOWS`] flows through a running server.
    pub fn open(server: Server, lab: &Lab, direction: Direction) -> anyhow::Result<Self> {
        let peer = lab.peer_socket()?;
        let SocketAddr::V4(peer_address) = peer.local_addr()? else { bail!("the lab is IPv4 only") };
        let target = |relays: &[SocketAddrV4], flow: usize| match direction {
            Direction::ClientToPeer | Direction::PeerToClient => peer_address,
            Direction::ClientToClient => relays[partner(flow)],
        };
        let (clients, relays) = lab.on_client(|| match server {
            Server::Trunkline | Server::Coturn => allocate(target),
            Server::Forwarder => introduce(target),
        })??;
        let framing = if server.speaks_turn() { Framing::ChannelData } else { Framing::Bare };
        Self::ready(clients, relays, peer, framing)
    }

    /// Client sockets without allocations: for requests that the server itself answers.
    pub fn unallocated(lab: &Lab) -> anyhow::Result<Self> {
        let clients: io::Result<Vec<_>> = (0..FLOWS).map(|_| lab.client_socket(0)).collect();
        Self::ready(clients?, Vec::new(), lab.peer_socket()?, Framing::Bare)
    }

    fn ready(
        clients: Vec<UdpSocket>,
        relays: Vec<SocketAddrV4>,
        peer: UdpSocket,
        framing: Framing,
    ) -> anyhow::Result<Self> {
        let mut mapped = Vec::with_capacity(clients.len());
        for client in &clients {
            client.set_nonblocking(true)?;
            enlarge_receive_buffer(client)?;
            mapped.push(SocketAddrV4::new(CLIENT_IP, client.local_addr()?.port()));
        }
        peer.set_nonblocking(true)?;
        Ok(Self { clients, mapped, relays, peer, framing })
    }
}

type Opened = (Vec<UdpSocket>, Vec<SocketAddrV4>);

fn allocate(target: impl Fn(&[SocketAddrV4], usize) -> SocketAddrV4) -> anyhow::Result<Opened> {
    let mut clients = Vec::with_capacity(FLOWS);
    let mut relays = Vec::with_capacity(FLOWS);
    for flow in 0..FLOWS {
        let mut client = TurnClient::udp((CLIENT_IP, 0).into(), SERVER.into(), credentials())?;
        let allocated = client.allocate().with_context(|| format!("Allocate of flow {flow}"))?;
        let SocketAddr::V4(relay) = allocated.relayed else { bail!("an IPv6 relay was not asked for") };
        relays.push(relay);
        clients.push(client);
    }
    for (flow, client) in clients.iter_mut().enumerate() {
        let bound = client.channel_bind(channel(flow), target(&relays, flow).into());
        bound.with_context(|| format!("ChannelBind of flow {flow}"))?;
    }
    let sockets = clients.into_iter().filter_map(TurnClient::into_udp_socket).collect();
    Ok((sockets, relays))
}

fn introduce(target: impl Fn(&[SocketAddrV4], usize) -> SocketAddrV4) -> anyhow::Result<Opened> {
    let mut clients = Vec::with_capacity(FLOWS);
    let mut relays = Vec::with_capacity(FLOWS);
    for _ in 0..FLOWS {
        let client = super::lab::connected_socket(0)?;
        client.set_read_timeout(Some(FORWARDER_PATIENCE))?;
        relays.push(ask(&client, b"open")?);
        clients.push(client);
    }
    for (flow, client) in clients.iter().enumerate() {
        ask(client, &encode_address(target(&relays, flow)))?;
    }
    Ok((clients, relays))
}

fn ask(client: &UdpSocket, request: &[u8]) -> anyhow::Result<SocketAddrV4> {
    let mut answer = [0; 16];
    client.send(request)?;
    let length = client.recv(&mut answer).context("the forwarder does not answer")?;
    decode_address(&answer[..length]).ok_or_else(|| anyhow!("the forwarder's answer has {length} bytes"))
}

/// How many flows carry packets at the same time.
pub const FLOWS: usize = 64;
const FORWARDER_PATIENCE: Duration = Duration::from_secs(1);
