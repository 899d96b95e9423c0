//! Each check finds its fault, and is silent without it.

use trunkline_proto::fleet::v1::{Epoch, NodeId};
use trunkline_proto::node::v1::{Facts, Report};
use trunkline_proto::operator::v1::{Replica, Rollout, StoreMember};

use super::*;

const NOW_MS: u64 = 1_000_000_000_000;

fn node(server: u32) -> Node {
    let facts = Facts {
        certificate_expires_unix_s: NOW_MS / 1_000 + 20 * DAY_S,
        mtu_bytes: 9_000,
        xdp: "driver".into(),
        listening: vec![format!("udp 10.0.0.{server}:3478"), format!("tls [::{server}]:5349")],
        journal_failing_since_unix_s: 0,
    };
    let report = Report { unix_ms: NOW_MS - 1_000, facts: Some(facts), ..Report::default() };
    Node {
        node: Some(NodeId { site: 1, server }),
        state: State::Ready.into(),
        epoch: Some(Epoch { generation: 1, counter: 40 }),
        version: "0.1.0".into(),
        report: Some(report),
        reported_ms_ago: 1_000,
        ..Node::default()
    }
}

fn healthy() -> Gathered {
    let clock = Clock { earliest_ms: NOW_MS - 5, latest_ms: NOW_MS + 5 };
    let replica = |name: &str| Replica { name: name.into(), version: "0.1.0".into(), ..Replica::default() };
    let member = StoreMember { is_healthy: true, latency_ms: 2, ..StoreMember::default() };
    let status = Status {
        epoch: Some(Epoch { generation: 1, counter: 41 }),
        leader: "a".into(),
        replicas: vec![replica("a"), replica("b")],
        unix_ms: NOW_MS,
        store: "etcd".into(),
        store_members: vec![member.clone(), member.clone(), member],
        certificate_expires_unix_s: NOW_MS / 1_000 + 60 * DAY_S,
        ..Status::default()
    };
    let answer = |name: &str| ReplicaAnswer {
        name: name.into(),
        address: "10.0.0.5:7443".into(),
        answer: Ok((status.clone(), clock)),
    };
    Gathered {
        now_unix_ms: NOW_MS,
        own_certificate: Some(("alice/cert.pem".into(), NOW_MS / 1_000 + 300 * DAY_S)),
        clock,
        replicas: vec![answer("a"), answer("b")],
        nodes: vec![node(1), node(2), node(3)],
        listed: clock,
        awaited: vec![],
        status,
    }
}

/// What is found once `break_it` has done its work, besides what is fine.
fn found(break_it: impl FnOnce(&mut Gathered)) -> Vec<(Level, &'static str, String)> {
    let mut gathered = healthy();
    break_it(&mut gathered);
    let findings = all(&gathered).into_iter().filter(|finding| finding.level != Level::Fine);
    findings.map(|finding| (finding.level, finding.check, finding.text)).collect()
}

fn report(gathered: &mut Gathered) -> &mut Report {
    gathered.nodes[0].report.get_or_insert_default()
}

fn facts(gathered: &mut Gathered) -> &mut Facts {
    report(gathered).facts.get_or_insert_default()
}

#[test]
fn a_healthy_fleet_has_no_findings() {
    assert_eq!(found(|_| {}), []);
    assert_eq!(all(&healthy()).len(), 10);
}

/// What breaks it, and what is found then.
type Case = (fn(&mut Gathered), Level, &'static str, &'static str);

#[test]
fn every_fault_of_the_control_plane_is_found_by_its_check() {
    let cases: [Case; 13] = [
        (
            |all| all.own_certificate = Some(("alice/cert.pem".into(), NOW_MS / 1_000)),
            Level::Problem,
            "certificates",
            "your certificate alice/cert.pem ended on 2001-09-09",
        ),
        (
            |all| facts(all).certificate_expires_unix_s = NOW_MS / 1_000 + 3 * DAY_S,
            Level::Warning,
            "certificates",
            "the certificate of server 1.1 ends in 3 d",
        ),
        (
            |all| {
                if let Ok((status, _)) = &mut all.replicas[1].answer {
                    status.certificate_expires_unix_s = NOW_MS / 1_000 + 3_600;
                }
            },
            Level::Problem,
            "certificates",
            "the certificate of replica b ends in 60 min",
        ),
        (|all| report(all).unix_ms += 60_000, Level::Problem, "clocks", "server 1.1 is 59 s ahead"),
        (|all| all.status.unix_ms -= 5_000, Level::Warning, "clocks", "is 4 s behind"),
        (|all| all.status.leader.clear(), Level::Problem, "replicas", "no replica plans"),
        (
            |all| all.replicas[0].answer = Err("cannot connect".into()),
            Level::Problem,
            "replicas",
            "replica a at 10.0.0.5:7443: cannot connect",
        ),
        (|all| all.status.replicas.truncate(1), Level::Warning, "replicas", "one replica"),
        (|all| all.status.store_members[2].is_healthy = false, Level::Problem, "store", "does not answer"),
        (|all| all.status.store_members.truncate(2), Level::Warning, "store", "2 members survive"),
        (|all| all.status.store_members[0].latency_ms = 400, Level::Warning, "store", "400 ms"),
        (|all| all.nodes[2].version = "0.2.0".into(), Level::Warning, "versions", "0.1.0, 0.2.0"),
        (
            |all| {
                let mut stopped = Rollout { to_version: 3, reason: "refused".into(), ..Rollout::default() };
                stopped.set_state(rollout::State::Stopped);
                all.status.rollout = Some(stopped);
            },
            Level::Problem,
            "settings",
            "version 3 stopped: refused",
        ),
    ];
    all_found(&cases);
}

#[test]
fn every_fault_of_a_server_is_found_by_its_check() {
    let cases: [Case; 8] = [
        (|all| all.nodes[1].set_state(State::Dead), Level::Problem, "servers", "server 1.2 has not reported"),
        (
            |all| all.awaited.push(NodeId { site: 1, server: 3 }),
            Level::Problem,
            "slices",
            "server 1.3 has not reported since the store was put back",
        ),
        (
            |all| report(all).faults.push("disk full".into()),
            Level::Problem,
            "servers",
            "server 1.1: disk full",
        ),
        (
            |all| facts(all).journal_failing_since_unix_s = 9,
            Level::Problem,
            "servers",
            "cannot journal usage",
        ),
        (
            |all| all.nodes[0].epoch = Some(Epoch { generation: 1, counter: 2 }),
            Level::Warning,
            "servers",
            "1/2",
        ),
        (|all| facts(all).listening.clear(), Level::Problem, "ports", "server 1.1 takes no clients"),
        (
            |all| drop(facts(all).listening.pop()),
            Level::Warning,
            "ports",
            "server 1.1 does not listen on tls 5349",
        ),
        (|all| facts(all).mtu_bytes = 1_500, Level::Warning, "network", "MTU of 1500 bytes"),
    ];
    all_found(&cases);
}

fn all_found(cases: &[Case]) {
    for (break_it, level, check, text) in cases {
        let found = found(break_it);
        let is_it = |(a, b, c): &(Level, &str, String)| a == level && b == check && c.contains(text);
        assert!(found.iter().any(is_it), "no {check} with {text:?} in {found:?}");
    }
}

#[test]
fn a_server_alone_in_its_site_needs_no_large_frames() {
    let found = found(|all| {
        all.nodes.truncate(1);
        facts(all).mtu_bytes = 1_500;
    });
    assert_eq!(found, []);
}

#[test]
fn every_problem_says_what_to_do() {
    let mut gathered = healthy();
    gathered.own_certificate = Some(("cert.pem".into(), 1));
    gathered.status.leader.clear();
    gathered.status.store_members[0].is_healthy = false;
    gathered.nodes[1].set_state(State::Dead);
    report(&mut gathered).faults.push("disk full".into());
    facts(&mut gathered).listening.clear();
    let problems: Vec<_> =
        all(&gathered).into_iter().filter(|finding| finding.level == Level::Problem).collect();
    assert!(problems.len() >= 6);
    assert!(problems.iter().all(|finding| !finding.advice.is_empty()));
}
