//! Clients that read their connection more slowly than peers send: their own queue is full, and nothing else happens.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use trunkline_simulations::netns::Namespace;
use trunkline_simulations::turn_client::{Received, TurnClient};

use crate::Named;
use crate::site::{Carrier, Check, Family, PATIENCE, Site, expect_datagram, on_site_with};

pub const TRIALS: &[Named] = &[
    ("a_tcp_client_that_stops_reading_bounds_only_its_own_queue", || {
        beside_others(Carrier::Tcp, Reader::Stopped)
    }),
    ("a_tls_client_that_stops_reading_bounds_only_its_own_queue", || {
        beside_others(Carrier::Tls, Reader::Stopped)
    }),
    ("a_tcp_client_that_reads_slowly_bounds_only_its_own_queue", || {
        beside_others(Carrier::Tcp, Reader::Slow)
    }),
    ("a_tls_client_that_reads_slowly_bounds_only_its_own_queue", || {
        beside_others(Carrier::Tls, Reader::Slow)
    }),
];

/// How the client that is flooded reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Stopped,
    /// A fraction of what is sent to it, without ever getting to the end.
    Slow,
}

fn beside_others(carrier: Carrier, reader: Reader) -> Result<(), String> {
    let arguments = ["--threads", "1", "--max-bandwidth", "0", "--max-packet-rate", "0"];
    // As on a long path: the kernels hold little beside the server's queue, which then never gets empty.
    let small_buffers = |machine: &Namespace, outside: &Namespace| {
        for (space, key) in [(machine, "wmem"), (machine, "rmem"), (outside, "wmem"), (outside, "rmem")] {
            space.set_sysctl(&format!("net.ipv4.tcp_{key}"), "4096 16384 65536")?;
        }
        Ok(())
    };
    on_site_with(small_buffers, &arguments, |site| bounded(site, carrier, reader))
}

fn bounded(site: &mut Site, carrier: Carrier, reader: Reader) -> Check {
    let (mut slow, at_slow) = site.allocated(carrier, Family::V4)?;
    let (mut other, at_other) = site.allocated(Carrier::Udp, Family::V4)?;
    let (flooding, flooding_address) = Family::V4.peer()?;
    let (calm, calm_address) = Family::V4.peer()?;
    slow.channel_bind(CHANNEL, flooding_address)?;
    other.channel_bind(CHANNEL, calm_address)?;
    // The first burst fills what is allocated once.
    flood(&flooding, at_slow.relayed, 8_000_000)?;
    site.wait_for_metric(QUEUE_FULL, 1)?;
    let (full_before, memory_before) = (site.metric(QUEUE_FULL)?, site.node.anonymous_kib()?);

    let flooded = AtomicBool::new(false);
    let (read, exchanged) = std::thread::scope(|scope| {
        let flooder = scope.spawn(|| {
            let outcome = flood(&flooding, at_slow.relayed, 50_000_000);
            flooded.store(true, Ordering::Relaxed);
            outcome
        });
        let reading = scope.spawn(|| match reader {
            Reader::Stopped => Ok(0),
            Reader::Slow => read_slowly(&mut slow, &flooded),
        });
        let exchanged = exchange(&mut other, &calm, at_other.relayed, &flooded)?;
        flooder.join().map_err(|_| anyhow!("the flood panicked"))??;
        let read = reading.join().map_err(|_| anyhow!("the reader panicked"))??;
        Ok::<_, anyhow::Error>((read, exchanged))
    })?;
    site.wait_for_metric(QUEUE_FULL, full_before + 1)?;
    let full = site.metric(QUEUE_FULL)? - full_before;
    let grown = site.node.anonymous_kib()?.saturating_sub(memory_before);
    println!(
        "{carrier:?} flooded: {full} dropped, {read} read meanwhile, {exchanged} exchanges of others without loss, \
         memory +{grown} KiB"
    );
    ensure!(exchanged >= 20, "only {exchanged} exchanges beside the flood");
    ensure!(grown < 3_072, "memory grew by {grown} KiB");
    recovers(&mut slow, &flooding, at_slow.relayed)
}

/// What was queued is whole, and after it the connection is as good as new.
fn recovers(slow: &mut TurnClient, peer: &UdpSocket, relayed: SocketAddr) -> Check {
    while let Ok(received) = slow.receive(Duration::from_millis(300)) {
        is_of_the_flood(&received)?;
    }
    peer.send_to(b"again", relayed)?;
    let received = slow.receive(PATIENCE)?;
    ensure!(received == Received::Channel { channel: CHANNEL, data: b"again".to_vec() }, "{received:?}");
    Ok(())
}

/// One packet there and back at a time, without loss, until the flood is over; how many.
fn exchange(
    client: &mut TurnClient,
    peer: &UdpSocket,
    relayed: SocketAddr,
    flooded: &AtomicBool,
) -> anyhow::Result<u32> {
    let mut exchanged = 0_u32;
    while !flooded.load(Ordering::Relaxed) {
        let payload = exchanged.to_be_bytes();
        let at = || format!("packet {exchanged} beside the flood");
        client.send_channel(CHANNEL, &payload)?;
        expect_datagram(peer, relayed, &payload).with_context(at)?;
        peer.send_to(&payload, relayed)?;
        let received = client.receive(PATIENCE).with_context(at)?;
        ensure!(received == Received::Channel { channel: CHANNEL, data: payload.to_vec() }, "{received:?}");
        exchanged += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(exchanged)
}

/// Reads 6 MB/s at most; how many messages.
fn read_slowly(client: &mut TurnClient, flooded: &AtomicBool) -> anyhow::Result<u32> {
    let mut read = 0;
    while !flooded.load(Ordering::Relaxed) {
        for _ in 0..5 {
            is_of_the_flood(&client.receive(PATIENCE)?)?;
            read += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(read)
}

fn is_of_the_flood(received: &Received) -> Check {
    let Received::Channel { channel: CHANNEL, data } = received else { return Err(anyhow!("{received:?}")) };
    ensure!(*data == vec![0x5A; FLOOD_PAYLOAD], "a garbled message of {} bytes", data.len());
    Ok(())
}

/// Pushes bytes at a relay as a fast peer would: 30 MB/s at most.
fn flood(from: &UdpSocket, relayed: SocketAddr, bytes: usize) -> Check {
    let payload = [0x5A; FLOOD_PAYLOAD];
    for number in 0..bytes / FLOOD_PAYLOAD {
        from.send_to(&payload, relayed)?;
        if number % 32 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

const CHANNEL: u16 = 0x4001;
const FLOOD_PAYLOAD: usize = 1_200;
const QUEUE_FULL: &str = "trunkline_turn_dropped_packets_total{reason=\"stream_queue_full\"}";
