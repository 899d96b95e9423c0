//! One measurement of the highest rate: find the window that serves this server best, then count and weigh.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::closed_loop::{ClosedLoop, Tally};
use super::cpu::CpuSample;
use super::flows::{Direction, Flows};
use super::traffic::{BindingTraffic, RelayTraffic, Traffic};

/// How long the parts of a measurement take.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Each try of a window.
    pub trial: Duration,
    /// The measurement itself.
    pub measure: Duration,
}

/// A sustained rate and what it costs the server.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Packets delivered per second.
    pub per_second: f64,
    /// Time of the server's core per delivered packet, in µs.
    pub core_us: f64,
    /// Time of the server's threads per delivered packet, in µs.
    pub threads_us: f64,
    /// Share of packets lost.
    pub loss: f64,
    /// Packets in flight.
    pub window: usize,
}

/// Payloads of `payload_bytes` through the relays of `flows`.
pub fn relayed(
    flows: &Flows,
    direction: Direction,
    payload_bytes: usize,
    pid: u32,
    timing: Timing,
) -> anyhow::Result<Rate> {
    let traffic = RelayTraffic::new(direction, flows.framing, payload_bytes);
    measure(ClosedLoop::new(flows, traffic, direction)?, pid, timing)
}

/// Binding requests that the server answers itself.
pub fn bindings(flows: &Flows, pid: u32, timing: Timing) -> anyhow::Result<Rate> {
    // For the generator an answer is a packet that comes back to a client.
    measure(ClosedLoop::new(flows, BindingTraffic::new(flows), Direction::ClientToClient)?, pid, timing)
}

fn measure<T: Traffic>(mut load: ClosedLoop<'_, T>, pid: u32, timing: Timing) -> anyhow::Result<Rate> {
    let mut window = best_window(&mut load, timing.trial)?;
    loop {
        let rate = measure_window(&mut load, window, pid, timing.measure)?;
        if rate.loss < LOSS_MAX || window == WINDOWS[0] {
            return Ok(rate);
        }
        window /= 2;
    }
}

fn best_window<T: Traffic>(load: &mut ClosedLoop<'_, T>, trial: Duration) -> anyhow::Result<usize> {
    let mut best = (0.0, WINDOWS[0]);
    for window in WINDOWS {
        let started = Instant::now();
        let tally = load.run(window, trial)?;
        let per_second = per_second(tally, started);
        if tally.loss() < LOSS_MAX && per_second > best.0 {
            best = (per_second, window);
        }
    }
    Ok(best.1)
}

fn measure_window<T: Traffic>(
    load: &mut ClosedLoop<'_, T>,
    window: usize,
    pid: u32,
    duration: Duration,
) -> anyhow::Result<Rate> {
    load.run(window, SETTLE)?;
    let before = CpuSample::now(pid)?;
    let started = Instant::now();
    let tally = load.run(window, duration)?;
    let per_second = per_second(tally, started);
    let spent = CpuSample::now(pid)?.since(before);
    ensure!(tally.delivered > 0, "nothing arrived in {duration:?}");
    let per_packet_us = |time: Duration| time.as_secs_f64() * 1e6 / tally.delivered as f64;
    Ok(Rate {
        per_second,
        core_us: per_packet_us(spent.core),
        threads_us: per_packet_us(spent.threads),
        loss: tally.loss(),
        window,
    })
}

fn per_second(tally: Tally, started: Instant) -> f64 {
    tally.delivered as f64 / started.elapsed().as_secs_f64()
}

/// A measurement with more loss than this does not count as sustained.
const LOSS_MAX: f64 = 0.005;
/// Packets in flight that are tried: from one per flow up to what default socket buffers hold.
const WINDOWS: [usize; 4] = [64, 128, 256, 512];
/// The queues fill before counting begins.
const SETTLE: Duration = Duration::from_millis(20);
