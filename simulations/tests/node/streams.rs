//! TCP connections of clients that are idle, chopped up or full of garbage: only they themselves suffer.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use trunkline_simulations::turn_client::TRANSPORT_UDP;
use trunkline_simulations::turn_client::message::{Class, Message, MessageBuilder, Method};

use crate::Named;
use crate::site::{
    Carrier, Check, Family, PATIENCE, Site, TURN, TURN_TLS, expect_data, expect_datagram, on_site,
};

pub const TRIALS: &[Named] = &[
    ("three_thousand_dripping_connections_starve_nobody_and_are_closed", || {
        on_site(&["--threads", "2"], dripping)
    }),
    ("large_frames_of_strangers_are_not_kept", || on_site(&["--threads", "1"], large_frames)),
    ("frames_cut_at_every_byte_are_understood", || on_site(&[], cut_frames)),
    ("garbage_closes_the_connection_and_no_other", || on_site(&[], garbage)),
];

fn dripping(site: &mut Site) -> Check {
    raise_descriptor_limit();
    let (mut old, at_old) = site.allocated(Carrier::Tcp, Family::V4)?;
    let began = Instant::now();
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for number in 0..CONNECTIONS {
        let connection =
            TcpStream::connect_timeout(&TURN, PATIENCE).with_context(|| format!("connection {number}"))?;
        connection.set_nonblocking(true)?;
        connections.push(connection);
    }
    // One byte at a time of a request that never gets whole; now and then somebody honest comes.
    let request = allocate_request();
    for byte in &request[..request.len() - 1] {
        for connection in &mut connections {
            // Those that were closed already take no more.
            let _ = connection.write(&[*byte]);
        }
        let arrived = Instant::now();
        let (mut client, allocated) = site.allocated(Carrier::Tcp, Family::V4)?;
        let took = arrived.elapsed();
        ensure!(took < Duration::from_secs(1), "an Allocate over TCP took {took:?}");
        crate::site::relays_both_ways(&mut client, allocated.relayed)?;
        if began.elapsed() > Duration::from_secs(12) {
            break;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    let opened_for = began.elapsed();
    let deadline =
        Instant::now() + Duration::from_secs(20).saturating_sub(opened_for) + Duration::from_secs(5);
    while !connections.is_empty() {
        ensure!(
            Instant::now() < deadline,
            "{} connections without an allocation stay open",
            connections.len()
        );
        connections.retain_mut(|connection| !is_closed(connection));
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(began.elapsed() > Duration::from_secs(10), "they were closed after {:?}", began.elapsed());
    println!("dripping connections were closed {:?} after the first was opened", began.elapsed());
    crate::site::relays_both_ways(&mut old, at_old.relayed).context("a client older than all of them")
}

/// The front of the largest frame there is, on each of many connections, and never its end.
fn large_frames(site: &mut Site) -> Check {
    raise_descriptor_limit();
    let (mut known, at_known) = site.allocated(Carrier::Tcp, Family::V4)?;
    let memory_before = site.node.anonymous_kib()?;
    let front = [&CHANNEL.to_be_bytes()[..], &u16::MAX.to_be_bytes(), &[0x5A; 60_000]].concat();
    let mut connections = Vec::new();
    for _ in 0..1_000 {
        let mut connection = TcpStream::connect_timeout(&TURN, PATIENCE)?;
        connection.set_write_timeout(Some(PATIENCE))?;
        // It may be closed before all of it is there.
        let _ = connection.write_all(&front);
        connections.push(connection);
    }
    std::thread::sleep(Duration::from_millis(500));
    let grown = site.node.anonymous_kib()?.saturating_sub(memory_before);
    println!("the fronts of 1,000 large frames: memory +{grown} KiB");
    ensure!(grown < 16 * 1_024, "memory grew by {grown} KiB");
    // Whoever has an allocation may send them.
    let (peer, address) = Family::V4.peer()?;
    known.channel_bind(CHANNEL, address)?;
    known.send_channel(CHANNEL, &[0x5A; 60_000])?;
    let mut buffer = vec![0; 65_536];
    let (length, from) = peer.recv_from(&mut buffer)?;
    ensure!((length, from) == (60_000, at_known.relayed), "{length} bytes from {from}");
    Ok(())
}

fn is_closed(connection: &mut TcpStream) -> bool {
    match connection.read(&mut [0; 1_000]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

fn cut_frames(site: &mut Site) -> Check {
    // Two frames at a time, so that a read may hold the end of one and the front of the next.
    let (binding, allocate) = (binding_request(), allocate_request());
    let both = [&binding[..], &allocate[..]].concat();
    let mut connection = TcpStream::connect_timeout(&TURN, PATIENCE)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    for cut in 0..=both.len() {
        connection.write_all(&both[..cut])?;
        std::thread::sleep(Duration::from_millis(3));
        connection.write_all(&both[cut..])?;
        for (method, class) in [(Method::BINDING, Class::Success), (Method::ALLOCATE, Class::Error)] {
            let answer = read_message(&mut connection).with_context(|| format!("cut at byte {cut}"))?;
            let message = Message::parse(&answer).context("not STUN")?;
            ensure!((message.method(), message.class()) == (method, class), "cut at byte {cut}: {message:?}");
        }
    }
    for carrier in [Carrier::Tcp, Carrier::Tls] {
        cut_channel_data(site, carrier).with_context(|| format!("{carrier:?}"))?;
    }
    Ok(())
}

fn cut_channel_data(site: &Site, carrier: Carrier) -> Check {
    let (mut client, allocated) = site.allocated(carrier, Family::V4)?;
    let (peer, address) = Family::V4.peer()?;
    client.channel_bind(CHANNEL, address)?;
    // 5 bytes: three of padding follow.
    let mut frame = [&CHANNEL.to_be_bytes()[..], &5_u16.to_be_bytes(), b"hello", &[0; 3]].concat();
    frame.extend_from_within(..);
    for cut in 0..=frame.len() {
        client.send_raw(&frame[..cut])?;
        std::thread::sleep(Duration::from_millis(3));
        client.send_raw(&frame[cut..])?;
        for _ in 0..2 {
            expect_datagram(&peer, allocated.relayed, b"hello")
                .with_context(|| format!("cut at byte {cut}"))?;
        }
    }
    for byte in &frame {
        client.send_raw(&[*byte])?;
    }
    expect_datagram(&peer, allocated.relayed, b"hello")?;
    expect_datagram(&peer, allocated.relayed, b"hello")
}

/// One STUN message of a stream.
fn read_message(connection: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut message = vec![0; 20];
    connection.read_exact(&mut message)?;
    let length = usize::from(u16::from_be_bytes([message[2], message[3]]));
    message.resize(20 + length, 0);
    connection.read_exact(&mut message[20..])?;
    Ok(message)
}

fn garbage(site: &mut Site) -> Check {
    let (mut neighbour, at_neighbour) = site.allocated(Carrier::Tcp, Family::V4)?;
    let (peer, address) = Family::V4.peer()?;
    neighbour.create_permission(&[address.ip()])?;
    // What can be no frame at all: of other protocols, and a STUN length that is no multiple of four.
    for garbage in [&[0xFF; 64][..], &[0x80; 4], &[0x16, 3, 1, 0, 200], &[5, 1, 0], &[0, 1, 0, 3], &[0x30; 9]]
    {
        let mut connection = TcpStream::connect_timeout(&TURN, PATIENCE)?;
        connection.set_read_timeout(Some(Duration::from_secs(2)))?;
        connection.write_all(&binding_request())?;
        read_message(&mut connection)?;
        connection.write_all(garbage)?;
        let closed = match connection.read(&mut [0; 100]) {
            Ok(length) => length == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        ensure!(closed, "{garbage:?} does not close the connection");
        peer.send_to(b"on", at_neighbour.relayed)?;
        expect_data(&mut neighbour, address, b"on")?;
    }
    // TURN without TLS at the port for TLS.
    let mut connection = TcpStream::connect_timeout(&TURN_TLS, PATIENCE)?;
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    connection.write_all(&binding_request())?;
    let mut alert = Vec::new();
    let ended = connection.read_to_end(&mut alert);
    ensure!(
        ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
        "TURN at the port for TLS does not close the connection"
    );
    Ok(())
}

fn binding_request() -> Vec<u8> {
    MessageBuilder::new(Method::BINDING, Class::Request, b"cut-into-two").finish()
}

fn allocate_request() -> Vec<u8> {
    MessageBuilder::new(Method::ALLOCATE, Class::Request, b"cut-into-two")
        .attribute(0x0019, &TRANSPORT_UDP)
        .finish()
}

/// As far as this process may.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls work on a structure that lives through them.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
}

const CHANNEL: u16 = 0x4001;
const CONNECTIONS: usize = 3_000;
