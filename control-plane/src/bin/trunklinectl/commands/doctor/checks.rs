//! What `doctor` makes of what it gathered: no calls in here.

use trunkline_proto::fleet::v1::NodeId;
use trunkline_proto::operator::v1::node::State;
use trunkline_proto::operator::v1::{Node, Status, rollout};

use super::servers;
use crate::{time, words};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Nothing is wrong.
    Fine,
    /// Good to know.
    Note,
    /// Not as it should be.
    Warning,
    /// Somebody must do something.
    Problem,
}

impl Level {
    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }

    /// What a terminal shows it with.
    #[must_use]
    pub fn colour(self) -> &'static str {
        match self {
            Self::Fine => "\x1b[32m",
            Self::Note => "\x1b[36m",
            Self::Warning => "\x1b[33m",
            Self::Problem => "\x1b[1;31m",
        }
    }
}

/// One thing that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at.
    pub check: &'static str,
    /// What was seen.
    pub text: String,
    /// What to do; empty where nothing is to be done.
    pub advice: String,
}

/// This machine's clock before a question and after its answer.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Before.
    pub earliest_ms: u64,
    /// After.
    pub latest_ms: u64,
}

impl Clock {
    /// How far `theirs`, read in between, is certainly off: positive is ahead.
    fn off_by_ms(self, theirs: u64) -> i64 {
        let difference = |a: u64, b: u64| i64::try_from(a.saturating_sub(b)).unwrap_or(i64::MAX);
        if theirs > self.latest_ms {
            difference(theirs, self.latest_ms)
        } else {
            -difference(self.earliest_ms, theirs)
        }
    }
}

/// What one replica said for itself.
pub struct ReplicaAnswer {
    /// The replica.
    pub name: String,
    /// Where it was asked.
    pub address: String,
    /// What it said and when, or why it did not.
    pub answer: Result<(Status, Clock), String>,
}

/// Everything that is judged.
pub struct Gathered {
    /// By this machine's clock.
    pub now_unix_ms: u64,
    /// File and expiry.
    pub own_certificate: Option<(String, u64)>,
    /// Of the replica that answered first.
    pub status: Status,
    /// When that was.
    pub clock: Clock,
    /// Of every replica.
    pub replicas: Vec<ReplicaAnswer>,
    /// Every server.
    pub nodes: Vec<Node>,
    /// When that was.
    pub listed: Clock,
    /// Servers that slices wait for since the store was put back.
    pub awaited: Vec<NodeId>,
}

/// Every check, in the order of the way from here to the servers.
#[must_use]
pub fn all(gathered: &Gathered) -> Vec<Finding> {
    let checks: [(&'static str, &str, Vec<Seen>); 10] = [
        ("certificates", "none ends within a week", certificates(gathered)),
        ("clocks", "they agree", clocks(gathered)),
        ("replicas", "all answer, and one plans", replicas(gathered)),
        ("store", "every member is healthy", store(&gathered.status)),
        ("versions", "all the same", versions(gathered)),
        ("settings", "in force everywhere", settings(&gathered.status)),
        ("servers", "all are there and report no fault", servers::health(gathered)),
        ("slices", "wait for no server", servers::awaited(gathered)),
        ("ports", "every server listens, and where the others do", servers::ports(gathered)),
        ("network", "frames of 1,600 bytes fit between servers", servers::network(gathered)),
    ];
    let finding = |check, seen: Seen| Finding { level: seen.0, check, text: seen.1, advice: seen.2 };
    let of_check = |(check, fine, mut seen): (&'static str, &str, Vec<Seen>)| {
        if seen.is_empty() {
            seen.push((Level::Fine, fine.to_owned(), String::new()));
        }
        seen.into_iter().map(|seen| finding(check, seen)).collect::<Vec<_>>()
    };
    checks.into_iter().flat_map(of_check).collect()
}

/// How bad, what, and what to do.
pub type Seen = (Level, String, String);

fn certificates(gathered: &Gathered) -> Vec<Seen> {
    let now_s = gathered.now_unix_ms / 1_000;
    let mut seen = vec![];
    if let Some((file, expires)) = &gathered.own_certificate {
        let advice = "issue another one: trunklinectl ca issue operator NAME --role ROLE --replace";
        seen.extend(expiry(&format!("your certificate {file}"), *expires, now_s, advice));
    }
    for replica in &gathered.replicas {
        let Ok((status, _)) = &replica.answer else { continue };
        let advice = format!("issue another one: trunklinectl ca issue replica {} --replace", replica.name);
        let of = format!("the certificate of replica {}", replica.name);
        seen.extend(expiry(&of, status.certificate_expires_unix_s, now_s, &advice));
    }
    for node in &gathered.nodes {
        let facts = node.report.as_ref().and_then(|report| report.facts.as_ref());
        let name = words::node(node.node.as_ref());
        let advice =
            "a server renews it by itself while a replica with --issuer-cert answers it: look at its log";
        let of = format!("the certificate of server {name}");
        seen.extend(expiry(&of, facts.map_or(0, |facts| facts.certificate_expires_unix_s), now_s, advice));
    }
    seen
}

fn expiry(of: &str, expires_unix_s: u64, now_s: u64, advice: &str) -> Option<Seen> {
    // 0 is none, over a Unix socket.
    let (level, text) = match expires_unix_s.checked_sub(now_s) {
        _ if expires_unix_s == 0 => return None,
        None | Some(0) => (Level::Problem, format!("{of} ended on {} UTC", time::moment(expires_unix_s))),
        Some(left) if left > WEEK_S => return None,
        Some(left) => {
            let level = if left <= DAY_S { Level::Problem } else { Level::Warning };
            (level, format!("{of} ends in {}", time::span_ms(left * 1_000)))
        }
    };
    Some((level, text, advice.to_owned()))
}

fn clocks(gathered: &Gathered) -> Vec<Seen> {
    let here = gathered.clock.off_by_ms(gathered.status.unix_ms);
    let mut seen: Vec<Seen> = skew("the replica that answered", "this machine's", here).into_iter().collect();
    for replica in &gathered.replicas {
        if let Ok((status, clock)) = &replica.answer {
            seen.extend(skew(
                &format!("replica {}", replica.name),
                "this machine's",
                clock.off_by_ms(status.unix_ms),
            ));
        }
    }
    for node in gathered.nodes.iter().filter(|node| servers::is_live(node)) {
        let Some(report) = node.report.as_ref().filter(|report| report.unix_ms > 0) else { continue };
        let now = report.unix_ms.saturating_add(node.reported_ms_ago);
        let name = format!("server {}", words::node(node.node.as_ref()));
        seen.extend(skew(&name, "this machine's", gathered.listed.off_by_ms(now)));
    }
    seen.dedup();
    seen
}

fn skew(whose: &str, than: &str, off_by_ms: i64) -> Option<Seen> {
    let level = match off_by_ms.unsigned_abs() {
        0..=SKEW_WARNING_MS => return None,
        ms if ms <= SKEW_PROBLEM_MS => Level::Warning,
        _ => Level::Problem,
    };
    let way = if off_by_ms > 0 { "ahead of" } else { "behind" };
    let text = format!("the clock of {whose} is {} {way} {than}", time::span_ms(off_by_ms.unsigned_abs()));
    Some((
        level,
        text,
        "run an NTP client there, or here: credentials and certificates end by the clock".into(),
    ))
}

fn replicas(gathered: &Gathered) -> Vec<Seen> {
    let status = &gathered.status;
    let mut seen = vec![];
    if status.leader.is_empty() {
        seen.push((
            Level::Problem,
            "no replica plans".into(),
            "one becomes leader within seconds when it can write to the store: look at the replicas' logs"
                .into(),
        ));
    }
    for replica in &gathered.replicas {
        if let Err(fault) = &replica.answer {
            let text = format!("replica {} at {}: {fault}", replica.name, replica.address);
            seen.push((
                Level::Problem,
                text,
                "is it running, and is its --advertise address reachable?".into(),
            ));
        }
    }
    if status.store == "etcd" && status.replicas.len() == 1 {
        let advice = "start another one, on another machine, over the same etcd".into();
        seen.push((Level::Warning, "there is one replica".into(), advice));
    }
    seen
}

fn store(status: &Status) -> Vec<Seen> {
    let mut seen = vec![];
    for member in status.store_members.iter().filter(|member| !member.is_healthy) {
        let text = format!("{} member {} does not answer", status.store, member.address);
        seen.push((Level::Problem, text, "start it again, or replace it: etcdctl member list".into()));
    }
    for member in status.store_members.iter().filter(|member| member.latency_ms > STORE_SLOW_MS) {
        let text = format!("{} member {} takes {} ms", status.store, member.address, member.latency_ms);
        seen.push((Level::Warning, text, "give it a faster disk and network".into()));
    }
    let members = status.store_members.len();
    if status.store == "etcd" && members > 0 && members.is_multiple_of(2) {
        let text = format!("{members} members survive no more failures than {}", members - 1);
        seen.push((Level::Warning, text, "run three or five".into()));
    }
    if status.store == "etcd" && members == 1 {
        seen.push((Level::Warning, "there is one member".into(), "run three or five".into()));
    }
    for member in status.store_members.iter().filter(|member| member.database_bytes > STORE_LARGE_BYTES) {
        let size = crate::output::bytes(member.database_bytes);
        let text = format!("{} member {} holds {size}", status.store, member.address);
        seen.push((Level::Warning, text, "compact and defragment it: etcdctl defrag".into()));
    }
    seen
}

fn versions(gathered: &Gathered) -> Vec<Seen> {
    let replicas = gathered.status.replicas.iter().map(|replica| replica.version.as_str());
    let nodes = gathered.nodes.iter().map(|node| node.version.as_str());
    let versions: std::collections::BTreeSet<_> =
        replicas.chain(nodes).filter(|version| !version.is_empty()).collect();
    if versions.len() <= 1 {
        return vec![];
    }
    let text = format!("several run: {}", versions.into_iter().collect::<Vec<_>>().join(", "));
    vec![(
        Level::Warning,
        text,
        "finish the upgrade: replicas first, then servers, one after the other".into(),
    )]
}

fn settings(status: &Status) -> Vec<Seen> {
    let Some(rollout) = &status.rollout else { return vec![] };
    match rollout.state() {
        rollout::State::Unspecified | rollout::State::Done => vec![],
        rollout::State::Running => {
            let text = format!(
                "version {} is being rolled out: {} of {} servers have it",
                rollout.to_version, rollout.nodes_done, rollout.nodes_total
            );
            vec![(Level::Note, text, String::new())]
        }
        rollout::State::Stopped => {
            let text = format!("the roll-out of version {} stopped: {}", rollout.to_version, rollout.reason);
            let advice = "mend the settings and apply them again: trunklinectl config apply FILE";
            vec![(Level::Problem, text, advice.into())]
        }
    }
}

/// Whether it is in a state in which it reports.
#[must_use]
pub fn reports(node: &Node) -> bool {
    !matches!(node.state(), State::Expected | State::Dead | State::Unspecified)
}

const DAY_S: u64 = 86_400;
const WEEK_S: u64 = 7 * DAY_S;
/// Two reports of a server are this far apart.
const SKEW_WARNING_MS: u64 = 2_000;
const SKEW_PROBLEM_MS: u64 = 10_000;
/// etcd's own advice for a heartbeat is 100 ms.
const STORE_SLOW_MS: u32 = 100;
/// etcd refuses writes beyond 2 GiB by default.
const STORE_LARGE_BYTES: u64 = 1_500_000_000;

#[cfg(test)]
mod tests;
