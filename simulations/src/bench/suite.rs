//! The whole comparison: rounds, tests and servers in their order, with a line of progress for each measurement.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::allocations;
use super::flows::{Direction, Flows};
use super::lab::Lab;
use super::latency;
use super::rate::{self, Rate, Timing};
use super::results::{Metric, Results, Test};
use super::server::{Programs, Server, Started};

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How often each measurement is taken.
    pub rounds: usize,
    /// How long each measurement takes.
    pub timing: Timing,
    /// How many allocations the memory test makes.
    pub idle_allocations: usize,
    /// Which measurements to take; all if empty.
    pub only: Vec<Selection>,
    /// The rate of the latency test, if it shall not follow from coturn's.
    pub latency_per_second: Option<f64>,
    /// What to start.
    pub programs: Programs,
}

/// A choice such as `coturn`, `coturn/binding` or `*/client-to-peer`: parts of the names of server and test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    server: String,
    test: String,
}

impl std::str::FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (server, test) = text.split_once('/').unwrap_or((text, ""));
        let part = |name: &str| if name == "*" { String::new() } else { name.to_owned() };
        let selection = Self { server: part(server), test: part(test) };
        let servers = || Server::ALL.into_iter().flat_map(|server| Test::ALL.map(|test| (server, test)));
        if servers().any(|(server, test)| selection.includes(server, test)) {
            return Ok(selection);
        }
        let names = |names: &mut dyn Iterator<Item = &'static str>| names.collect::<Vec<_>>().join(", ");
        Err(format!(
            "nothing is called so; servers: {}; tests: {}",
            names(&mut Server::ALL.iter().map(|server| server.name())),
            names(&mut Test::ALL.iter().map(|test| test.name())),
        ))
    }
}

impl Selection {
    fn includes(&self, server: Server, test: Test) -> bool {
        server.name().contains(&self.server) && test.name().contains(&self.test)
    }
}

impl Plan {
    fn includes(&self, server: Server, test: Test) -> bool {
        let selected = self.only.is_empty() || self.only.iter().any(|only| only.includes(server, test));
        selected && test.suits(server)
    }

    fn measurements(&self) -> Vec<(Test, Server)> {
        let all = Test::ALL.into_iter().flat_map(|test| Server::ALL.map(|server| (test, server)));
        all.filter(|(test, server)| self.includes(*server, *test)).collect()
    }
}

/// What a run of the plan yielded.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Everything that could be measured.
    pub results: Results,
    /// One line for each measurement that failed.
    pub failures: Vec<String>,
    /// How many measurements other processes disturbed: they took much of the server's core.
    pub disturbed: usize,
}

/// Runs the plan. A measurement that fails is tried again, and at last left out.
pub fn run(plan: &Plan) -> anyhow::Result<Outcome> {
    let lab = Lab::new().context("cannot build the namespaces")?;
    let measurements = plan.measurements();
    let total = measurements.len() * plan.rounds;
    let mut outcome = Outcome::default();
    let started = Instant::now();
    for round in 0..plan.rounds {
        for (number, (test, server)) in measurements.iter().enumerate() {
            let done = round * measurements.len() + number + 1;
            eprint!("[{done}/{total}, {:.0} s] {server}/{}: ", started.elapsed().as_secs_f64(), test.name());
            match measure_with_patience(plan, &lab, &outcome.results, *test, *server) {
                Ok(measured) => {
                    eprintln!(
                        "{}{}",
                        describe(&measured),
                        if is_disturbed(&measured) { " (disturbed)" } else { "" }
                    );
                    outcome.disturbed += usize::from(is_disturbed(&measured));
                    outcome.results.add(*test, *server, &measured);
                }
                Err(error) => {
                    eprintln!("failed");
                    let failure = format!("{server}/{}, round {}: {error:#}", test.name(), round + 1);
                    outcome.failures.push(failure);
                }
            }
        }
    }
    Ok(outcome)
}

fn measure_with_patience(
    plan: &Plan,
    lab: &Lab,
    results: &Results,
    test: Test,
    server: Server,
) -> anyhow::Result<Measured> {
    let mut attempt = 1;
    loop {
        let error = match measure(plan, lab, results, test, server) {
            Ok(measured) => return Ok(measured),
            Err(error) => error,
        };
        if attempt == ATTEMPTS_MAX {
            return Err(error);
        }
        eprint!("({error:#}; again) ");
        attempt += 1;
    }
}

type Measured = Vec<(Metric, f64)>;

fn measure(
    plan: &Plan,
    lab: &Lab,
    results: &Results,
    test: Test,
    server: Server,
) -> anyhow::Result<Measured> {
    let latency_per_second = match test {
        Test::Latency => latency_rate(plan, lab, results)?,
        _other => 0.0,
    };
    let started = Started::new(server, lab, &plan.programs)?;
    let measured = match test {
        Test::ClientToPeer160 => relayed(plan, lab, &started, Direction::ClientToPeer, 160),
        Test::PeerToClient160 => relayed(plan, lab, &started, Direction::PeerToClient, 160),
        Test::ClientToPeer1200 => relayed(plan, lab, &started, Direction::ClientToPeer, 1200),
        Test::PeerToClient1200 => relayed(plan, lab, &started, Direction::PeerToClient, 1200),
        Test::ClientToClient160 => relayed(plan, lab, &started, Direction::ClientToClient, 160),
        Test::Binding => {
            rate::bindings(&Flows::unallocated(lab)?, started.pid(), plan.timing).map(|rate| of_rate(&rate))
        }
        Test::Allocations => {
            let (pid, duration) = (started.pid(), plan.timing.measure);
            lab.on_client(move || allocations::per_second(pid, duration))?.map(|rate| of_rate(&rate))
        }
        Test::Memory => {
            let (pid, count) = (started.pid(), idle_allocations(plan, lab));
            let memory = lab.on_client(move || allocations::idle_memory(pid, count))?;
            memory.map(|memory| {
                vec![
                    (Metric::ResidentBytes, memory.each),
                    (Metric::BytesBefore, memory.before as f64),
                    (Metric::Count, count as f64),
                ]
            })
        }
        Test::Latency => one_way(plan, lab, &started, latency_per_second),
    };
    measured.map_err(|error| error.context(format!("with this log of the server:\n{}", started.log())))
}

fn relayed(
    plan: &Plan,
    lab: &Lab,
    started: &Started,
    direction: Direction,
    payload_bytes: usize,
) -> anyhow::Result<Measured> {
    let flows = Flows::open(started.server, lab, direction)?;
    let rate = rate::relayed(&flows, direction, payload_bytes, started.pid(), plan.timing)?;
    Ok(of_rate(&rate))
}

fn one_way(plan: &Plan, lab: &Lab, started: &Started, per_second: f64) -> anyhow::Result<Measured> {
    let flows = Flows::open(started.server, lab, Direction::ClientToPeer)?;
    let latency = latency::one_way(&flows, LATENCY_PAYLOAD_BYTES, per_second, plan.timing.measure)?;
    Ok(vec![
        (Metric::P50Us, latency.p50_us),
        (Metric::P99Us, latency.p99_us),
        (Metric::LossPercent, latency.loss * 100.0),
    ])
}

/// As many as planned, or as the descriptors allow to a server with two sockets per allocation, as coturn has: the
/// same number for every server.
fn idle_allocations(plan: &Plan, lab: &Lab) -> usize {
    let affordable = lab.descriptors_max.saturating_sub(DESCRIPTORS_SPARE) / 2;
    plan.idle_allocations.min(affordable as usize)
}

/// Half of what coturn sustains; measured for this purpose if no round has yet.
fn latency_rate(plan: &Plan, lab: &Lab, results: &Results) -> anyhow::Result<f64> {
    if let Some(per_second) = plan.latency_per_second {
        return Ok(per_second);
    }
    if let Some(per_second) = results.median(Test::ClientToPeer160, Metric::PerSecond, Server::Coturn) {
        return Ok(per_second / 2.0);
    }
    let started = Started::new(Server::Coturn, lab, &plan.programs)?;
    let measured = relayed(plan, lab, &started, Direction::ClientToPeer, LATENCY_PAYLOAD_BYTES)?;
    let per_second = measured.iter().find(|(metric, _)| *metric == Metric::PerSecond);
    Ok(per_second.context("a rate has a number of packets per second")?.1 / 2.0)
}

fn of_rate(rate: &Rate) -> Measured {
    vec![
        (Metric::PerSecond, rate.per_second),
        (Metric::CoreUs, rate.core_us),
        (Metric::ThreadsUs, rate.threads_us),
        (Metric::LossPercent, rate.loss * 100.0),
        (Metric::InFlight, rate.window as f64),
        (Metric::BusyPercent, rate.per_second * rate.core_us / 1e4),
    ]
}

/// Whether the server's core did much that was not the server's.
fn is_disturbed(measured: &Measured) -> bool {
    let value = |wanted| measured.iter().find(|(metric, _)| *metric == wanted).map(|(_, value)| *value);
    let times = value(Metric::CoreUs).zip(value(Metric::ThreadsUs));
    times.is_some_and(|(core_us, threads_us)| core_us > threads_us * DISTURBED_RATIO)
}

fn describe(measured: &Measured) -> String {
    let parts = measured.iter().map(|(metric, value)| format!("{} {}", metric.format(*value), metric.unit()));
    parts.collect::<Vec<_>>().join(", ")
}

impl Timing {
    /// What the published figures are taken with.
    pub const FULL: Self = Self { trial: Duration::from_millis(200), measure: Duration::from_millis(2000) };
    /// Enough to see whether everything works.
    pub const QUICK: Self = Self { trial: Duration::from_millis(50), measure: Duration::from_millis(300) };
}

/// Beyond the coarse ticks in which the kernel counts a core's time.
const DISTURBED_RATIO: f64 = 1.15;
/// A busy machine may spoil one measurement; what fails again is the server's fault.
const ATTEMPTS_MAX: u32 = 3;
/// For everything in a server that is not an allocation, and those that are still under way.
const DESCRIPTORS_SPARE: u64 = 512;
const LATENCY_PAYLOAD_BYTES: usize = 160;
