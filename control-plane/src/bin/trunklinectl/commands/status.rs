//! `status`: the control plane itself.

use std::fmt::Write;

use trunkline_proto::operator::v1::{GetStatusRequest, Rollout, Status};

use crate::fault::Fault;
use crate::output::{Columns, Output, bytes, clean};
use crate::session::Session;
use crate::{time, words};

/// Shows it.
///
/// # Errors
/// What the control plane refused, or that it does not answer.
pub async fn run(session: &mut Session, output: Output) -> Result<(), Fault> {
    let status = ask(session).await?;
    output.message(&status, text)
}

/// What the control plane says of itself.
///
/// # Errors
/// What it refused, or that it does not answer.
pub async fn ask(session: &mut Session) -> Result<Status, Fault> {
    session.ask(GetStatusRequest {}, async |client, request| client.get_status(request).await).await
}

fn text(status: &Status) -> String {
    let mut text = String::new();
    let leader = if status.leader.is_empty() { "none" } else { &status.leader };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "epoch    {}", words::epoch(status.epoch.as_ref()));
    let _ = writeln!(text, "leader   {}", clean(leader));
    let _ = writeln!(text, "version  {}", clean(&status.version));
    let _ = writeln!(text, "clock    {} UTC", time::moment(status.unix_ms / 1_000));
    let _ = writeln!(text, "settings {}", rollout(status.rollout.as_ref()));
    text.push('\n');
    text.push_str(&replicas(status));
    text.push('\n');
    text.push_str(&store(status));
    text
}

fn replicas(status: &Status) -> String {
    let mut columns = Columns::new(&["REPLICA", "ADDRESS", "VERSION", ">SERVERS", ""]);
    for replica in &status.replicas {
        let role = if replica.name == status.leader { "leader" } else { "" };
        columns.row([
            replica.name.clone(),
            replica.address.clone(),
            replica.version.clone(),
            replica.connected_nodes.to_string(),
            role.into(),
        ]);
    }
    columns.or_none("No replica has written its name into the store.")
}

fn store(status: &Status) -> String {
    let mut columns = Columns::new(&["STORE", "ADDRESS", "STATE", ">LATENCY", ">SIZE"]);
    for member in &status.store_members {
        let state = match (member.is_healthy, member.is_leader) {
            (true, true) => "leader",
            (true, false) => "healthy",
            (false, _) => "does not answer",
        };
        columns.row([
            status.store.clone(),
            member.address.clone(),
            state.into(),
            format!("{} ms", member.latency_ms),
            bytes(member.database_bytes),
        ]);
    }
    columns.or_none(&format!("The store is {}.", clean(&status.store)))
}

/// A roll-out of settings, in words.
#[must_use]
pub fn rollout(rollout: Option<&Rollout>) -> String {
    use trunkline_proto::operator::v1::rollout::State;
    let Some(rollout) = rollout else { return "the defaults".into() };
    let (done, total, to) = (rollout.nodes_done, rollout.nodes_total, rollout.to_version);
    match rollout.state() {
        State::Unspecified if to == 0 => "the defaults".into(),
        State::Unspecified => format!("version {to}"),
        State::Running => format!("version {to} is being rolled out: {done} of {total} servers have it"),
        State::Done => format!("version {to} on all servers"),
        State::Stopped => format!(
            "the roll-out of version {to} STOPPED at {done} of {total} servers: {}",
            clean(&rollout.reason)
        ),
    }
}

#[cfg(test)]
mod tests {
    use trunkline_proto::operator::v1::{Replica, StoreMember, rollout::State};

    use super::*;

    #[test]
    fn the_leader_and_members_that_do_not_answer_are_seen() {
        let replica = |name: &str| Replica {
            name: name.into(),
            address: "10.0.0.5:7443".into(),
            version: "0.1.0".into(),
            connected_nodes: 4,
        };
        let status = Status {
            leader: "b".into(),
            replicas: vec![replica("a"), replica("b")],
            store: "etcd".into(),
            store_members: vec![StoreMember { address: "http://e1:2379".into(), ..StoreMember::default() }],
            ..Status::default()
        };
        let text = text(&status);
        assert!(text.contains("b        10.0.0.5:7443  0.1.0          4  leader\n"), "{text}");
        assert!(text.contains("http://e1:2379  does not answer"), "{text}");
        assert!(text.contains("settings the defaults"), "{text}");
    }

    #[test]
    fn a_stopped_roll_out_says_why() {
        let mut stopped = Rollout { to_version: 3, nodes_done: 1, nodes_total: 4, ..Rollout::default() };
        stopped.set_state(State::Stopped);
        stopped.reason = "node 1.1 refused it".into();
        assert_eq!(
            rollout(Some(&stopped)),
            "the roll-out of version 3 STOPPED at 1 of 4 servers: node 1.1 refused it"
        );
    }
}
