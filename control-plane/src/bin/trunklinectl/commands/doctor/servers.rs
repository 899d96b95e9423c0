//! What `doctor` makes of the servers.

use std::collections::{BTreeMap, BTreeSet};

use trunkline_proto::node::v1::Facts;
use trunkline_proto::operator::v1::Node;
use trunkline_proto::operator::v1::node::State;

use super::checks::{Gathered, Level, Seen, reports};
use crate::{time, words};

/// Whether it answers now.
#[must_use]
pub fn is_live(node: &Node) -> bool {
    reports(node) && node.report.is_some()
}

/// Servers that are not there, or say that something is wrong.
#[must_use]
pub fn health(gathered: &Gathered) -> Vec<Seen> {
    let mut seen = vec![];
    if gathered.nodes.is_empty() {
        let advice = "add one: trunklinectl nodes add 1.1".into();
        seen.push((Level::Warning, "there are none".into(), advice));
    }
    for node in &gathered.nodes {
        let name = words::node(node.node.as_ref());
        match node.state() {
            State::Dead => seen.push((
                Level::Problem,
                format!("server {name} has not reported for {}", time::span_ms(node.reported_ms_ago)),
                format!(
                    "start it again; if it is gone for good: trunklinectl nodes remove {name} --confirm-gone"
                ),
            )),
            State::Expected => {
                let advice = "start it with its join token; a new one: remove and add it again".into();
                seen.push((Level::Note, format!("server {name} has not joined yet"), advice));
            }
            State::Unspecified | State::Ready | State::Draining | State::Drained | State::Faulty => {}
        }
        let report = node.report.as_ref().filter(|_| reports(node));
        for fault in report.map(|report| report.faults.as_slice()).unwrap_or_default() {
            let advice = format!("look at the log of server {name}");
            seen.push((Level::Problem, format!("server {name}: {fault}"), advice));
        }
        seen.extend(journal(node));
        seen.extend(lag(gathered, node));
    }
    seen
}

/// Servers that were not heard since the store was put back to an older state.
#[must_use]
pub fn awaited(gathered: &Gathered) -> Vec<Seen> {
    let seen = |node| {
        let name = words::node(Some(node));
        (
            Level::Problem,
            format!(
                "server {name} has not reported since the store was put back: no slice leaves its quarantine before \
                 it does"
            ),
            format!("bring it back; if it is gone for good: trunklinectl nodes remove {name} --confirm-gone"),
        )
    };
    gathered.awaited.iter().map(seen).collect()
}

fn facts(node: &Node) -> Option<&Facts> {
    node.report.as_ref().filter(|_| is_live(node)).and_then(|report| report.facts.as_ref())
}

fn journal(node: &Node) -> Option<Seen> {
    let since = facts(node)?.journal_failing_since_unix_s;
    let name = words::node(node.node.as_ref());
    (since > 0).then(|| {
        (
            Level::Problem,
            format!("server {name} cannot journal usage since {} UTC: it would lose it", time::moment(since)),
            "make room on the disk of its --data-dir".into(),
        )
    })
}

/// A server takes an epoch within moments; one that is far behind refuses it or cannot be reached.
fn lag(gathered: &Gathered, node: &Node) -> Option<Seen> {
    let (newest, its) = (gathered.status.epoch?, node.epoch?);
    let is_behind = is_live(node)
        && (its.generation < newest.generation || its.counter + EPOCHS_BEHIND_MAX < newest.counter);
    let name = words::node(node.node.as_ref());
    is_behind.then(|| {
        (
            Level::Warning,
            format!(
                "server {name} runs epoch {}, the newest is {}",
                words::epoch(Some(&its)),
                words::epoch(Some(&newest))
            ),
            format!("look at the log of server {name} for what it refuses"),
        )
    })
}

/// Epochs that may be on their way.
const EPOCHS_BEHIND_MAX: u64 = 10;

/// Servers that listen nowhere, or not where most others do.
#[must_use]
pub fn ports(gathered: &Gathered) -> Vec<Seen> {
    let known: BTreeMap<String, BTreeSet<String>> = gathered
        .nodes
        .iter()
        .filter_map(|node| Some((words::node(node.node.as_ref()), facts(node)?)))
        .map(|(name, facts)| (name, facts.listening.iter().map(|text| without_address(text)).collect()))
        .collect();
    let mut seen = vec![];
    for (name, ports) in &known {
        if ports.is_empty() {
            let advice = format!("look at its log for why it listens nowhere: server {name}");
            seen.push((Level::Problem, format!("server {name} takes no clients"), advice));
            continue;
        }
        let usual = known.values().flatten().collect::<BTreeSet<_>>();
        let is_missing = |port: &&&String| {
            let with = known.values().filter(|ports| ports.contains(**port)).count();
            with * 2 > known.len() && !ports.contains(**port)
        };
        let missing: Vec<_> = usual.iter().filter(is_missing).map(|port| port.as_str()).collect();
        if !missing.is_empty() {
            let text = format!("server {name} does not listen on {}, and most others do", missing.join(", "));
            let advice = "give it the same ports, and a certificate for TLS, as the others".into();
            seen.push((Level::Warning, text, advice));
        }
    }
    seen
}

/// `udp 192.0.2.1:3478` is `udp 3478`.
fn without_address(text: &str) -> String {
    let protocol: String = text.chars().take_while(char::is_ascii_alphabetic).collect();
    let port = text.rsplit_once(':').map_or("", |(_, port)| port);
    format!("{protocol} {port}").trim().to_owned()
}

/// Frames between the servers of a site, and how packets are steered.
#[must_use]
pub fn network(gathered: &Gathered) -> Vec<Seen> {
    let mut seen = vec![];
    for node in &gathered.nodes {
        let Some(facts) = facts(node) else { continue };
        let name = words::node(node.node.as_ref());
        let site = node.node.as_ref().map(|node| node.site);
        let beside = gathered.nodes.iter().filter(|other| other.node.as_ref().map(|node| node.site) == site);
        if beside.count() > 1 && facts.mtu_bytes > 0 && facts.mtu_bytes < MTU_BYTES {
            seen.push((
                Level::Warning,
                format!(
                    "server {name} has an interface with an MTU of {} bytes: full packets between servers of its \
                     site are cut",
                    facts.mtu_bytes
                ),
                format!("set {MTU_BYTES} or more on it and on its switch: ip link set DEVICE mtu {MTU_BYTES}"),
            ));
        }
        if !facts.xdp.is_empty() && !facts.xdp.starts_with("driver") {
            let advice = if facts.xdp.starts_with("generic") {
                "a NIC whose driver knows XDP carries more".to_owned()
            } else {
                String::new()
            };
            seen.push((Level::Note, format!("server {name}: XDP is {}", facts.xdp), advice));
        }
    }
    seen
}

/// A full packet with what is put around it between servers.
const MTU_BYTES: u32 = 1_600;
