//! Strangers in great number, and the server's own words sent back to it.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use trunkline_simulations::netns::Namespace;
use trunkline_simulations::turn_client::message::{Class, Message, MessageBuilder, Method, attribute};
use trunkline_simulations::turn_client::{Credentials, TRANSPORT_UDP, TurnClient};

use crate::Named;
use crate::site::{
    CLIENT, Carrier, Check, Family, PATIENCE, SILENCE, Site, TURN, on_site, on_site_with, relays_both_ways,
};

pub const TRIALS: &[Named] = &[
    ("allocates_of_a_hundred_thousand_strangers_leave_nothing_behind", || {
        on_site_with(more_addresses, &[], strangers)
    }),
    ("its_own_output_sent_back_is_answered_with_silence", || on_site(&[], mirror)),
];

/// The strangers' addresses: 10.60.0.101 to 10.60.0.104.
fn more_addresses(_: &Namespace, outside: &Namespace) -> std::io::Result<()> {
    (101..105).try_for_each(|last| outside.add_address("eth0", &format!("10.60.0.{last}/24")))
}

fn strangers(site: &mut Site) -> Check {
    let (mut known, at_known) = site.allocated(Carrier::Udp, Family::V4)?;
    let began = Instant::now();
    let mut challenged = 0;
    for port in 1_024..3_524 {
        challenged += u32::from(knock(port)?);
    }
    ensure!(challenged > 0, "no stranger was challenged");
    let requests_before = site.metric(ALLOCATES)?;
    let memory_before = site.node.quiet_kib()?;
    for port in 3_524..28_524 {
        knock(port)?;
    }
    let grown = site.node.anonymous_kib()?.saturating_sub(memory_before);
    let requests = site.metric(ALLOCATES)? - requests_before;
    println!("110,000 strangers in {:?}: {requests} requests counted, memory +{grown} KiB", began.elapsed());
    ensure!(requests > 95_000, "only {requests} of 100,000 Allocates arrived");
    ensure!(grown < 1_024, "memory grew by {grown} KiB");
    ensure!(site.allocations()?.len() == 1, "a stranger has an allocation");
    relays_both_ways(&mut known, at_known.relayed)?;
    let (mut fresh, at_fresh) = site.allocated(Carrier::Udp, Family::V4)?;
    relays_both_ways(&mut fresh, at_fresh.relayed)
}

/// An Allocate from this port of each address; whether one was challenged. The last waits for what it is told, now
/// and then, so that none is lost in the server's receive buffer.
fn knock(port: u16) -> anyhow::Result<bool> {
    let request = MessageBuilder::new(Method::ALLOCATE, Class::Request, b"a stranger's")
        .attribute(attribute::REQUESTED_TRANSPORT, &TRANSPORT_UDP)
        .finish();
    let mut answered = false;
    for last in 101..105 {
        let socket = UdpSocket::bind((IpAddr::V4(Ipv4Addr::new(10, 60, 0, last)), port))?;
        socket.send_to(&request, TURN)?;
        if port.is_multiple_of(64) {
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            answered |= socket.recv(&mut [0; 500]).is_ok();
        }
    }
    Ok(answered)
}

fn mirror(site: &mut Site) -> Check {
    let said = everything_it_says(site)?;
    ensure!(said.len() >= 8, "only {} messages to send back", said.len());
    // From where they were sent to, and from where nobody is known.
    let (known, _) = site.allocated(Carrier::Udp, Family::V4)?;
    let known = known.into_udp_socket().context("a UDP client")?;
    let stranger = UdpSocket::bind((CLIENT, 0))?;
    stranger.connect(TURN)?;
    for socket in [&known, &stranger] {
        for message in &said {
            socket.send(message)?;
        }
    }
    for (socket, name) in [(known, "a client"), (stranger, "a stranger")] {
        socket.set_read_timeout(Some(SILENCE))?;
        let mut buffer = [0; 2_000];
        if let Ok(length) = socket.recv(&mut buffer) {
            let message = Message::parse(&buffer[..length]);
            anyhow::bail!("sent back by {name}, something was answered with {message:?}");
        }
    }
    Ok(())
}

/// One of each kind of message that a client gets over UDP: successes, errors, data.
fn everything_it_says(site: &Site) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut said = Vec::new();
    let (mut client, allocated) = site.allocated(Carrier::Udp, Family::V4)?;
    let (peer, address) = Family::V4.peer()?;
    said.push(client.request(Method::CREATE_PERMISSION, |request| {
        request.xor_address(attribute::XOR_PEER_ADDRESS, address)
    })?);
    said.push(client.request(Method::REFRESH, |request| request)?);
    let socket = client.into_udp_socket().context("a UDP client")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut hear = |socket: &UdpSocket| -> anyhow::Result<()> {
        let mut buffer = [0; 2_000];
        let length = socket.recv(&mut buffer)?;
        said.push(buffer[..length].to_vec());
        Ok(())
    };
    // A Data indication, and a request that a server would be glad to get, inside one.
    for payload in [&b"data"[..], &request(Method::BINDING)] {
        peer.send_to(payload, allocated.relayed)?;
        hear(&socket)?;
    }
    // Success, 401, 401, 400 (nothing to understand in it), 420 for what must be understood.
    let odd = MessageBuilder::new(Method::BINDING, Class::Request, b"sent it back");
    let odd = odd.attribute(0x7ABC, b"odd").finish();
    let refresh = request(Method::REFRESH);
    for request in [&request(Method::BINDING), &request(Method::ALLOCATE), &refresh, &odd] {
        socket.send(request)?;
        hear(&socket)?;
    }
    let mut guessing = TurnClient::udp((CLIENT, 0).into(), TURN, Credentials::new("alice", "guessed"))?;
    ensure!(guessing.allocate().is_err(), "a guessed password was good");
    Ok(said)
}

fn request(method: Method) -> Vec<u8> {
    MessageBuilder::new(method, Class::Request, b"sent it back").finish()
}

const ALLOCATES: &str = "trunkline_turn_requests_total{method=\"allocate\"}";
