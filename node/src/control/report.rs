//! How this server is: what it says every two seconds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use trunkline_proto::node::v1::{Facts, Report};
use trunkline_turn::Counters;

use super::membership;
use crate::shard::Shards;
use crate::usage::unix_now;

/// What is known about this server's health. Shared by everybody who finds something out.
pub struct Health {
    /// The certificate that it shows to replicas; none where it shows none.
    certificate: Option<PathBuf>,
    listening: Vec<String>,
    draining: AtomicBool,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    /// By what is faulty.
    faults: BTreeMap<&'static str, String>,
    slices_in_use: Vec<(IpAddr, usize)>,
    before: Option<Reading>,
}

/// Counts at one moment.
struct Reading {
    at: Instant,
    bytes: u64,
    packets: u64,
    cpu_s: f64,
}

impl Health {
    /// Nothing is wrong yet.
    #[must_use]
    pub fn new(certificate: Option<PathBuf>, listening: Vec<String>) -> Self {
        Self { certificate, listening, draining: AtomicBool::new(false), found: Mutex::default() }
    }

    /// Says that something is faulty, or is not any more.
    pub fn set_fault(&self, what: &'static str, fault: Option<String>) {
        let mut found = self.found();
        match fault {
            Some(fault) => drop(found.faults.insert(what, fault)),
            None => drop(found.faults.remove(what)),
        }
    }

    /// Whether the control plane wants no new allocations here.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn set_draining(&self, is: bool) {
        self.draining.store(is, Ordering::Relaxed);
    }

    /// As last reported; nothing before the shards run.
    pub(super) fn slices_in_use(&self) -> Vec<(IpAddr, usize)> {
        self.found().slices_in_use.clone()
    }

    pub(super) fn set_slices_in_use(&self, in_use: Vec<(IpAddr, usize)>) {
        self.found().slices_in_use = in_use;
    }

    /// Everything but the epoch, the claims and the rows, which are the session's.
    pub(super) async fn report(&self, shards: &Shards, journal_failing_since_unix_s: u64) -> Report {
        let counters = shards.metrics();
        let (used, all) = shards.port_usage();
        let rates = self.rates(&counters);
        Report {
            allocations: shards.allocation_count(),
            load_permille: rates.load_permille,
            bits_per_s: rates.bits_per_s,
            packets_per_s: rates.packets_per_s,
            dropped_packets_total: counters.drops.total(),
            ports_in_use_permille: permille(used, all),
            unix_ms: u64::try_from(unix_now().as_millis()).unwrap_or(u64::MAX),
            faults: self.faults(journal_failing_since_unix_s),
            facts: Some(self.facts(journal_failing_since_unix_s)),
            ..Report::default()
        }
    }

    fn rates(&self, counters: &Counters) -> Rates {
        let now = Reading {
            at: Instant::now(),
            bytes: counters.to_peer.bytes.wrapping_add(counters.to_client.bytes),
            packets: counters.to_peer.packets.wrapping_add(counters.to_client.packets),
            cpu_s: shard_cpu_s(),
        };
        let mut found = self.found();
        let rates = found.before.as_ref().map_or_else(Rates::default, |before| Rates::between(before, &now));
        found.before = Some(now);
        rates
    }

    fn faults(&self, journal_failing_since_unix_s: u64) -> Vec<String> {
        let mut faults: Vec<String> = self.found().faults.values().cloned().collect();
        if journal_failing_since_unix_s != 0 {
            faults.push("usage cannot be journalled; it is kept in memory".to_owned());
        }
        faults
    }

    fn facts(&self, journal_failing_since_unix_s: u64) -> Facts {
        let expires = self.certificate.as_deref().and_then(membership::expires_unix_s);
        Facts {
            certificate_expires_unix_s: expires.unwrap_or_default(),
            mtu_bytes: smallest_mtu(),
            xdp: "none: this version has no XDP program".to_owned(),
            listening: self.listening.clone(),
            journal_failing_since_unix_s,
        }
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Since the report before.
#[derive(Default)]
struct Rates {
    load_permille: u32,
    bits_per_s: u64,
    packets_per_s: u64,
}

impl Rates {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "rates for people and weights; floats saturate when they become integers"
    )]
    fn between(before: &Reading, now: &Reading) -> Self {
        let s = now.at.duration_since(before.at).as_secs_f64().max(0.001);
        let per_s = |before: u64, now: u64| now.saturating_sub(before) as f64 / s;
        Self {
            load_permille: ((now.cpu_s - before.cpu_s).max(0.0) / s * 1_000.0) as u32,
            bits_per_s: (per_s(before.bytes, now.bytes) * 8.0) as u64,
            packets_per_s: per_s(before.packets, now.packets) as u64,
        }
    }
}

/// Processor time of all threads that relay.
fn shard_cpu_s() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let of_one = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("stat")).ok()?;
        cpu_ticks(&text)
    };
    let ticks: u64 = tasks.filter_map(Result::ok).filter_map(of_one).sum();
    #[allow(clippy::cast_precision_loss, reason = "exact for millions of years")]
    let s = ticks as f64 / TICKS_PER_S;
    s
}

/// utime + stime of proc(5)'s `stat`, where the thread relays.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (head, rest) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut times = rest.split_whitespace().skip(11).map(str::parse::<u64>);
    let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
    (name == "shard").then(|| user.saturating_add(system))
}

fn smallest_mtu() -> u32 {
    let Ok(interfaces) = std::fs::read_dir("/sys/class/net") else { return 0 };
    let of_one = |interface: std::fs::DirEntry| {
        let is_loopback = interface.file_name() == "lo";
        let text = std::fs::read_to_string(interface.path().join("mtu")).ok().filter(|_| !is_loopback)?;
        text.trim().parse().ok()
    };
    interfaces.filter_map(Result::ok).filter_map(of_one).min().unwrap_or_default()
}

fn permille(part: usize, all: usize) -> u32 {
    part.saturating_mul(1_000)
        .checked_div(all)
        .and_then(|share| u32::try_from(share).ok())
        .unwrap_or_default()
}

/// `sysconf(_SC_CLK_TCK)` on every Linux.
const TICKS_PER_S: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_that_of_threads_that_relay() {
        let fields = "S 1 1 1 0 -1 4194368 97 0 0 0 250 50 0 0 20 0 3 0 100";
        assert_eq!(cpu_ticks(&format!("42 (shard) {fields}")), Some(300));
        assert_eq!(cpu_ticks(&format!("42 (tokio (x)) {fields}")), None);
        assert_eq!(cpu_ticks("42 (shard) S 1"), None);
    }

    #[test]
    fn a_fault_is_reported_until_it_is_gone() {
        let health = Health::new(None, vec![]);
        health.set_fault("cache", Some("the disk is full".to_owned()));
        assert_eq!(
            health.faults(7),
            ["the disk is full", "usage cannot be journalled; it is kept in memory"]
        );
        health.set_fault("cache", None);
        assert!(health.faults(0).is_empty());
    }

    #[test]
    fn rates_are_per_second() {
        let at = Instant::now();
        let before = Reading { at, bytes: 1_000, packets: 10, cpu_s: 1.0 };
        let now =
            Reading { at: at + std::time::Duration::from_secs(2), bytes: 3_000, packets: 30, cpu_s: 2.0 };
        let rates = Rates::between(&before, &now);
        assert_eq!((rates.load_permille, rates.bits_per_s, rates.packets_per_s), (500, 8_000, 10));
        assert_eq!((permille(1, 3), permille(5, 0)), (333, 0));
    }
}
