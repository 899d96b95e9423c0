//! How long a packet takes from client to peer at a fixed rate.
//!
//! Packets leave at their planned time, one by one. Their arrival is stamped by the kernel at the peer's interface, so
//! that the generator's own turn at receiving does not count.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};

use super::batch::{Ancillary, Batch, SLOT_BYTES};
use super::flows::{Direction, FLOWS, Flows};
use super::traffic::{Arrival, RelayTraffic, Ticket, Traffic};

/// One-way times, and how many packets never came.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    /// Median, in µs.
    pub p50_us: f64,
    /// 99th percentile, in µs.
    pub p99_us: f64,
    /// Share of packets lost.
    pub loss: f64,
}

/// Sends payloads at `per_second` for `duration` and measures those that arrive.
pub fn one_way(
    flows: &Flows,
    payload_bytes: usize,
    per_second: f64,
    duration: Duration,
) -> anyhow::Result<Latency> {
    stamp_arrivals(&flows.peer)?;
    let mut pacer = Pacer::new(flows, payload_bytes, per_second, duration);
    pacer.run(duration)?;
    let mut times = pacer.times_ns;
    ensure!(!times.is_empty(), "nothing arrived at {per_second:.0} packets/s");
    times.sort_unstable();
    let percentile = |percent: usize| f64::from(times[(times.len() - 1) * percent / 100]) / 1e3;
    Ok(Latency {
        p50_us: percentile(50),
        p99_us: percentile(99),
        loss: 1.0 - times.len() as f64 / pacer.sent as f64,
    })
}

struct Pacer<'a> {
    flows: &'a Flows,
    traffic: RelayTraffic,
    interval: Duration,
    sent: u64,
    /// When the last packets of each flow left, by sequence number modulo [`REMEMBERED`].
    departures: Vec<[Duration; REMEMBERED]>,
    times_ns: Vec<u32>,
    incoming: Batch,
}

impl<'a> Pacer<'a> {
    fn new(flows: &'a Flows, payload_bytes: usize, per_second: f64, duration: Duration) -> Self {
        let expected = (per_second * duration.as_secs_f64()) as usize + FLOWS;
        Self {
            flows,
            traffic: RelayTraffic::new(Direction::ClientToPeer, flows.framing, payload_bytes),
            interval: Duration::from_secs_f64(1.0 / per_second),
            sent: 0,
            departures: vec![[Duration::ZERO; REMEMBERED]; FLOWS],
            times_ns: Vec::with_capacity(expected),
            incoming: Batch::new(BATCH, Ancillary::Timestamp),
        }
    }

    fn run(&mut self, duration: Duration) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut planned = started;
        while planned < started + duration {
            let now = Instant::now();
            if now >= planned {
                self.send()?;
                // Behind by more than a breath means that the generator was interrupted: no burst to catch up.
                planned = if now - planned > CATCH_UP_MAX { now } else { planned + self.interval };
            }
            self.receive()?;
        }
        let linger = Instant::now() + LINGER;
        while Instant::now() < linger {
            self.receive()?;
        }
        Ok(())
    }

    fn send(&mut self) -> anyhow::Result<()> {
        let (round, flow) = (self.sent / FLOWS as u64, (self.sent % FLOWS as u64) as usize);
        let ticket = Ticket { flow, sequence: round as u32 };
        let mut frame = [0; SLOT_BYTES];
        let length = self.traffic.write(ticket, &mut frame);
        self.sent += 1;
        self.departures[flow][ticket.sequence as usize % REMEMBERED] = since_epoch()?;
        self.flows.clients[flow].send(&frame[..length]).map(drop).context("a client cannot send")
    }

    fn receive(&mut self) -> anyhow::Result<()> {
        let count = self.incoming.receive(self.flows.peer.as_raw_fd(), 0..BATCH)?;
        for slot in 0..count {
            let Some(ticket) = self.traffic.read(Arrival::Peer, self.incoming.bytes(slot)) else {
                bail!("a packet arrived changed");
            };
            let arrived = self.incoming.timestamp(slot).context("the kernel stamps no arrivals")?;
            let departure = self.departures[ticket.flow][ticket.sequence as usize % REMEMBERED];
            self.times_ns.push(arrived.saturating_sub(departure).as_nanos() as u32);
        }
        Ok(())
    }
}

fn since_epoch() -> anyhow::Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

fn stamp_arrivals(socket: &UdpSocket) -> std::io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is one int, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

const BATCH: usize = 16;
/// More than a flow can have in flight: 64 flows of so many packets overflow every buffer on the way.
const REMEMBERED: usize = 1024;
const CATCH_UP_MAX: Duration = Duration::from_millis(1);
const LINGER: Duration = Duration::from_millis(50);
