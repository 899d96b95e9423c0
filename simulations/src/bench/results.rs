//! What was measured, by test, metric and server: one value per round, and the median of them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::server::Server;

/// One row group of the comparison.
#[allow(missing_docs, reason = "`title` says what each is")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Test {
    ClientToPeer160,
    PeerToClient160,
    ClientToPeer1200,
    PeerToClient1200,
    ClientToClient160,
    Binding,
    Allocations,
    Memory,
    Latency,
}

impl Test {
    /// All tests in the order in which they run. Latency comes after the rate that it depends on.
    pub const ALL: [Self; 9] = [
        Self::ClientToPeer160,
        Self::PeerToClient160,
        Self::ClientToPeer1200,
        Self::PeerToClient1200,
        Self::ClientToClient160,
        Self::Binding,
        Self::Allocations,
        Self::Memory,
        Self::Latency,
    ];

    /// The name on the command line and in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientToPeer160 => "client-to-peer-160",
            Self::PeerToClient160 => "peer-to-client-160",
            Self::ClientToPeer1200 => "client-to-peer-1200",
            Self::PeerToClient1200 => "peer-to-client-1200",
            Self::ClientToClient160 => "client-to-client-160",
            Self::Binding => "binding",
            Self::Allocations => "allocations",
            Self::Memory => "memory",
            Self::Latency => "latency",
        }
    }

    /// The name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::ClientToPeer160 => "client → peer, 160 B",
            Self::PeerToClient160 => "peer → client, 160 B",
            Self::ClientToPeer1200 => "client → peer, 1,200 B",
            Self::PeerToClient1200 => "peer → client, 1,200 B",
            Self::ClientToClient160 => "client → client, both relayed, 160 B",
            Self::Binding => "Binding requests",
            Self::Allocations => "Allocate, 401, Allocate, Refresh 0",
            Self::Memory => "idle allocation",
            Self::Latency => "one way, client → peer, 160 B, half of coturn's rate",
        }
    }

    /// Whether the server can take part.
    pub fn suits(self, server: Server) -> bool {
        match self {
            Self::Binding | Self::Allocations | Self::Memory => server.speaks_turn(),
            Self::ClientToPeer160
            | Self::PeerToClient160
            | Self::ClientToPeer1200
            | Self::PeerToClient1200
            | Self::ClientToClient160
            | Self::Latency => true,
        }
    }
}

/// What a number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Packets, answers or cycles per second.
    PerSecond,
    /// µs of the server's core for each, softirq included.
    CoreUs,
    /// µs of the server's threads for each.
    ThreadsUs,
    /// Resident bytes for each.
    ResidentBytes,
    /// Median, in µs.
    P50Us,
    /// 99th percentile, in µs.
    P99Us,
    /// Per cent of packets lost.
    LossPercent,
    /// Packets in flight at the highest rate.
    InFlight,
    /// How busy the server's core was: near 100 means that it was the limit, and not the generator.
    BusyPercent,
    /// Resident bytes of the server before the first allocation.
    BytesBefore,
    /// How many allocations were made.
    Count,
}

impl Metric {
    /// The unit as the table names it.
    pub fn unit(self) -> &'static str {
        match self {
            Self::PerSecond => "per second",
            Self::CoreUs => "core µs each",
            Self::ThreadsUs => "thread µs each",
            Self::ResidentBytes => "resident bytes",
            Self::P50Us => "p50 µs",
            Self::P99Us => "p99 µs",
            Self::LossPercent => "loss %",
            Self::InFlight => "in flight",
            Self::BusyPercent => "core busy %",
            Self::BytesBefore => "bytes before",
            Self::Count => "allocations",
        }
    }

    /// Whether it is a result for people, or only says how the measurement went.
    pub fn is_result(self) -> bool {
        match self {
            Self::PerSecond
            | Self::CoreUs
            | Self::ThreadsUs
            | Self::ResidentBytes
            | Self::P50Us
            | Self::P99Us => true,
            Self::LossPercent | Self::InFlight | Self::BusyPercent | Self::BytesBefore | Self::Count => false,
        }
    }

    /// How much better `value` is than `reference`: above 1 is better, whichever way the metric points. `None` for
    /// what only describes the measurement.
    pub fn advantage(self, value: f64, reference: f64) -> Option<f64> {
        let advantage = match self {
            Self::PerSecond => value / reference,
            Self::CoreUs | Self::ThreadsUs | Self::ResidentBytes | Self::P50Us | Self::P99Us => {
                reference / value
            }
            Self::LossPercent | Self::InFlight | Self::BusyPercent | Self::BytesBefore | Self::Count => {
                return None;
            }
        };
        advantage.is_finite().then_some(advantage)
    }

    /// The value with as many digits as it deserves.
    pub fn format(self, value: f64) -> String {
        match self {
            Self::PerSecond | Self::ResidentBytes | Self::InFlight | Self::BytesBefore | Self::Count => {
                thousands(value)
            }
            Self::CoreUs | Self::ThreadsUs | Self::LossPercent => format!("{value:.2}"),
            Self::P50Us | Self::P99Us | Self::BusyPercent => format!("{value:.1}"),
        }
    }
}

/// Every measured value.
#[derive(Debug, Default)]
pub struct Results {
    values: BTreeMap<(Test, Metric), BTreeMap<Server, Vec<f64>>>,
}

impl Results {
    /// Adds what one round yielded.
    pub fn add(&mut self, test: Test, server: Server, measured: &[(Metric, f64)]) {
        for (metric, value) in measured {
            let servers = self.values.entry((test, *metric)).or_default();
            servers.entry(server).or_default().push(*value);
        }
    }

    /// The median over the rounds so far.
    pub fn median(&self, test: Test, metric: Metric, server: Server) -> Option<f64> {
        median(self.values.get(&(test, metric))?.get(&server)?)
    }

    /// The median's advantage over coturn's; see [`Metric::advantage`].
    pub fn advantage(&self, test: Test, metric: Metric, server: Server) -> Option<f64> {
        let reference = self.median(test, metric, Server::Coturn)?;
        metric.advantage(self.median(test, metric, server)?, reference)
    }

    /// Tests and metrics that have values, in their order.
    pub fn rows(&self) -> impl Iterator<Item = (Test, Metric)> + '_ {
        self.values.keys().copied()
    }

    /// Values of all rounds, by server.
    pub fn rounds(&self, test: Test, metric: Metric) -> &BTreeMap<Server, Vec<f64>> {
        static NONE: BTreeMap<Server, Vec<f64>> = BTreeMap::new();
        self.values.get(&(test, metric)).unwrap_or(&NONE)
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some((lower + upper) / 2.0)
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_the_mean_of_the_two_middles() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 9.0, 1.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn advantage_is_above_one_for_more_packets_and_for_fewer_microseconds() {
        let mut results = Results::default();
        for (server, rate, cost) in [(Server::Coturn, 100.0, 4.0), (Server::Forwarder, 150.0, 2.0)] {
            let measured = [(Metric::PerSecond, rate), (Metric::CoreUs, cost)];
            results.add(Test::Binding, server, &measured);
        }
        let advantage = |metric| results.advantage(Test::Binding, metric, Server::Forwarder);
        assert_eq!(advantage(Metric::PerSecond), Some(1.5));
        assert_eq!(advantage(Metric::CoreUs), Some(2.0));
        assert_eq!(results.advantage(Test::Binding, Metric::CoreUs, Server::Trunkline), None);
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([thousands(7.4), thousands(1234.0), thousands(1e6)], ["7", "1,234", "1,000,000"]);
    }
}
