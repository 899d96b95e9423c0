//! Peers that nobody may reach through the server by default: the server itself, its network, cloud metadata.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, ensure};
use trunkline_simulations::netns::Namespace;
use trunkline_simulations::turn_client::TurnClient;

use crate::Named;
use crate::site::{
    Carrier, Check, Family, PATIENCE, PEER_V4, PEER_V6, SERVER, SILENCE, Site, expect_refusal, on_site_with,
};

pub const TRIALS: &[Named] = &[
    ("forbidden_peers_are_refused_and_nothing_reaches_them", || on_site_with(neighbours, &[], check)),
    ("forbidden_peers_stay_forbidden_when_everything_is_allowed", || {
        let everything = ["--allow-peer", "0.0.0.0/0", "--allow-peer", "::/0"];
        on_site_with(neighbours, &everything, |site| {
            let never: Vec<Ipv4Addr> = NEVER.into_iter().chain([Ipv4Addr::new(11, 0, 0, 1)]).collect();
            refused_everywhere(site, &never)
        })
    }),
];

/// Never peers, whatever is allowed.
const NEVER: [Ipv4Addr; 7] = [
    Ipv4Addr::UNSPECIFIED,
    Ipv4Addr::LOCALHOST,
    Ipv4Addr::new(127, 8, 9, 10),
    Ipv4Addr::new(0, 1, 2, 3),
    METADATA,
    Ipv4Addr::new(224, 0, 0, 1),
    Ipv4Addr::BROADCAST,
];
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Private ones, and the machine's other address.
const BY_DEFAULT: [Ipv4Addr; 5] = [
    Ipv4Addr::new(10, 60, 0, 2),
    Ipv4Addr::new(192, 168, 7, 7),
    Ipv4Addr::new(172, 16, 7, 7),
    Ipv4Addr::new(100, 64, 7, 7),
    Ipv4Addr::new(11, 0, 0, 1),
];
/// What IPv6 has of its own.
const V6: [Ipv6Addr; 6] = [
    Ipv6Addr::UNSPECIFIED,
    Ipv6Addr::LOCALHOST,
    Ipv6Addr::new(0xFD60, 0, 0, 0, 0, 0, 0, 2),
    Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2600, 0x11, 0, 0, 0, 0, 0, 1),
];

/// A metadata service and private machines outside, which the machine has routes to.
fn neighbours(machine: &Namespace, outside: &Namespace) -> std::io::Result<()> {
    for ip in [METADATA, BY_DEFAULT[1], BY_DEFAULT[2], BY_DEFAULT[3]] {
        outside.add_address("lo", &format!("{ip}/32"))?;
        machine.ip(&["route", "add", &format!("{ip}/32"), "via", "10.60.0.2"])?;
    }
    // Whatever else is sent outside would arrive there as well.
    machine.default_route("10.60.0.2".parse().map_err(std::io::Error::other)?)?;
    machine.default_route("fd60::2".parse().map_err(std::io::Error::other)?)
}

fn check(site: &mut Site) -> Check {
    let all: Vec<Ipv4Addr> = NEVER.into_iter().chain(BY_DEFAULT).collect();
    refused_everywhere(site, &all)
}

fn refused_everywhere(site: &Site, forbidden: &[Ipv4Addr]) -> Check {
    let listeners = Listeners::open(site)?;
    let (mut over_v4, _) = site.allocated(Carrier::Udp, Family::V4)?;
    let (mut over_v6, _) = site.allocated(Carrier::Udp, Family::V6)?;
    for ip in forbidden {
        refused(site, &mut over_v4, IpAddr::V4(*ip))?;
        for encoded in encodings(*ip) {
            refused(site, &mut over_v6, IpAddr::V6(encoded))?;
        }
    }
    for ip in V6.into_iter().filter(|ip| forbidden.contains(&BY_DEFAULT[0]) || ip.segments()[0] != 0xFD60) {
        refused(site, &mut over_v6, IpAddr::V6(ip))?;
    }
    // Our relay address is a peer, but only its live relays are: not the services beside them.
    over_v4.create_permission(&[SERVER])?;
    for port in [PORT, 3478, 8080] {
        let before = site.drops()?;
        over_v4.send_indication(SocketAddr::new(SERVER, port), b"to myself")?;
        site.wait_for_metric(DROPPED, before + 1)?;
    }
    listeners.saw_nothing()?;

    // The control: the same listeners get what may come.
    for (client, peer) in [(&mut over_v4, PEER_V4), (&mut over_v6, PEER_V6)] {
        client.create_permission(&[peer])?;
        client.send_indication(SocketAddr::new(peer, PORT), b"welcome")?;
        let mut buffer = [0; 100];
        listeners.outside.set_read_timeout(Some(PATIENCE))?;
        let (length, _) =
            listeners.outside.recv_from(&mut buffer).with_context(|| format!("control at {peer}"))?;
        ensure!(&buffer[..length] == b"welcome", "something else arrived");
    }
    Ok(())
}

/// Refused by both requests, and what is sent anyway is dropped and counted.
fn refused(site: &Site, client: &mut TurnClient, ip: IpAddr) -> Check {
    let peer = SocketAddr::new(ip, PORT);
    expect_refusal(client.create_permission(&[ip]), 403).with_context(|| format!("CreatePermission {ip}"))?;
    expect_refusal(client.channel_bind(0x4001, peer), 403).with_context(|| format!("ChannelBind {ip}"))?;
    let before = site.drops()?;
    client.send_indication(peer, b"let me in")?;
    client.send_channel(0x4001, b"let me in")?;
    site.wait_for_metric(DROPPED, before + 2).with_context(|| format!("Send {ip}"))
}

/// IPv6 addresses that mean an IPv4 one: mapped, compatible, NAT64, 6to4.
fn encodings(ip: Ipv4Addr) -> Vec<Ipv6Addr> {
    let [a, b, c, d] = ip.octets().map(u16::from);
    let (high, low) = (a << 8 | b, c << 8 | d);
    vec![
        ip.to_ipv6_mapped(),
        Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x64, 0xFF9B, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
    ]
}

/// Sockets at the port that is attacked: on the machine itself, and on everything outside.
struct Listeners {
    machine: UdpSocket,
    outside: UdpSocket,
}

impl Listeners {
    fn open(site: &Site) -> anyhow::Result<Self> {
        let everywhere = (Ipv6Addr::UNSPECIFIED, PORT);
        let machine = site.machine.enter(|| UdpSocket::bind(everywhere))??;
        let listeners = Self { machine, outside: UdpSocket::bind(everywhere)? };
        // They do hear what comes.
        let probe = site.machine.enter(|| UdpSocket::bind(("0.0.0.0", 0)))??;
        for ip in [Ipv4Addr::LOCALHOST, METADATA, BY_DEFAULT[1]] {
            probe.send_to(b"probe", (ip, PORT))?;
            let socket = if ip == Ipv4Addr::LOCALHOST { &listeners.machine } else { &listeners.outside };
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.recv_from(&mut [0; 100]).with_context(|| format!("probe of {ip}"))?;
        }
        Ok(listeners)
    }

    fn saw_nothing(&self) -> Check {
        for (socket, place) in [(&self.machine, "on the machine"), (&self.outside, "outside")] {
            socket.set_read_timeout(Some(SILENCE))?;
            let mut buffer = [0; 100];
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                anyhow::bail!("{text:?} from {from} arrived {place}");
            }
        }
        Ok(())
    }
}

/// Below the relay ports.
const PORT: u16 = 9_000;
const DROPPED: &str = "trunkline_turn_dropped_packets_total{";
