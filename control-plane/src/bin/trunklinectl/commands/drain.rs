//! `drain` and `undrain`: new allocations go to others, and the command waits until the last one here has ended.

use clap::Args;
use serde_json::Value;
use trunkline_proto::fleet::v1::NodeId;
use trunkline_proto::operator::v1::node::State;
use trunkline_proto::operator::v1::set_drain_request::Target;
use trunkline_proto::operator::v1::{ListNodesResponse, Node, SetDrainRequest};

use crate::commands::nodes;
use crate::fault::Fault;
use crate::output::{self, Output};
use crate::session::Session;
use crate::waiting::{LOOK, Progress, until_interrupted};
use crate::{json, words};

/// Which servers to drain.
#[derive(Debug, Args)]
pub struct Drain {
    #[command(flatten)]
    target: DrainTarget,
    /// Return at once instead of waiting until the servers are empty.
    #[arg(long)]
    no_wait: bool,
}

/// Which servers to undrain.
#[derive(Debug, Args)]
pub struct Undrain {
    #[command(flatten)]
    target: DrainTarget,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct DrainTarget {
    /// One server: SITE.SERVER.
    #[arg(value_name = "NODE", value_parser = words::parse_node)]
    node: Option<NodeId>,
    /// Every server of a site.
    #[arg(long, value_name = "SITE")]
    site: Option<u32>,
}

impl DrainTarget {
    fn message(&self) -> Option<Target> {
        self.node.map(Target::Node).or(self.site.map(Target::Site))
    }
}

/// Runs `drain`.
///
/// # Errors
/// What the control plane refused, or that it does not answer; or that nobody waits any more.
pub async fn drain(session: &mut Session, output: Output, drain: &Drain) -> Result<(), Fault> {
    let request =
        SetDrainRequest { mutation: session.mutation()?, drain: true, target: drain.target.message() };
    let done = session.ask(request, async |client, request| client.set_drain(request).await).await?;
    if drain.no_wait {
        return output.message(&done, nodes::summary);
    }
    output.note(nodes::summary(&done).trim_end());
    let goes_on =
        "the drain stays in place; look with `trunklinectl nodes`, end it with `trunklinectl undrain`";
    let empty = until_interrupted(wait(session, output, &drain.target), goes_on).await?;
    let message = json::of(&done)?;
    let servers = json::of(&ListNodesResponse { nodes: empty.clone() })?;
    output.either(|| with(message, "nodes", servers["nodes"].clone()), || finished(&empty))?;
    match empty.iter().find(|node| node.state() == State::Dead) {
        Some(dead) => Err(Fault::Incomplete(format!(
            "server {} does not answer: nobody knows of its allocations, and no rows are left on it",
            words::node(dead.node.as_ref())
        ))),
        None => Ok(()),
    }
}

/// Runs `undrain`.
///
/// # Errors
/// What the control plane refused, or that it does not answer.
pub async fn undrain(session: &mut Session, output: Output, undrain: &Undrain) -> Result<(), Fault> {
    let request =
        SetDrainRequest { mutation: session.mutation()?, drain: false, target: undrain.target.message() };
    let done = session.ask(request, async |client, request| client.set_drain(request).await).await?;
    output.message(&done, nodes::summary)
}

/// The document with one more field.
#[must_use]
pub fn with(mut document: Value, field: &str, value: Value) -> Value {
    if let Value::Object(fields) = &mut document {
        fields.insert(field.into(), value);
    }
    document
}

async fn wait(session: &mut Session, output: Output, target: &DrainTarget) -> Result<Vec<Node>, Fault> {
    let mut progress = Progress::new(output);
    let site = target.site.or(target.node.map(|node| node.site));
    // A replica that is a moment behind does not show the drain yet.
    let mut has_begun = false;
    loop {
        let is_wanted = |node: &Node| target.node.is_none() || node.node == target.node;
        let (nodes, others): (Vec<_>, Vec<_>) =
            nodes::ask(session, site, None).await?.into_iter().partition(is_wanted);
        let heirs = if others.iter().any(takes_rows) { Heirs::Some } else { Heirs::None };
        let serves = nodes.iter().any(takes_rows);
        let is_over = !serves && nodes.iter().all(|node| is_empty(node, heirs));
        progress.show(remaining(&nodes, heirs));
        if is_over || (has_begun && serves) {
            progress.end();
        }
        match (is_over, serves) {
            (true, _) => return Ok(nodes),
            (false, true) if has_begun => {
                let text = "somebody undrained it meanwhile: see `trunklinectl events`";
                return Err(Fault::Incomplete(text.into()));
            }
            (false, true) => {}
            (false, false) => has_begun = true,
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether another server of the site can take the rows. Where there is none, they stay where they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heirs {
    Some,
    None,
}

fn takes_rows(node: &Node) -> bool {
    matches!(node.state(), State::Ready | State::Faulty)
}

/// Whether nothing is left to wait for.
fn is_empty(node: &Node, heirs: Heirs) -> bool {
    let has_rows = node.rows > 0 && heirs == Heirs::Some;
    match node.state() {
        // One that never joined has no allocations; a dead one tells nobody.
        State::Drained | State::Expected | State::Dead => !has_rows,
        // Without rows it would be called drained: here it keeps them, for want of others.
        State::Draining => {
            !has_rows && heirs == Heirs::None && node.report.is_some() && allocations(node) == 0
        }
        State::Unspecified | State::Ready | State::Faulty => false,
    }
}

fn allocations(node: &Node) -> u64 {
    node.report.as_ref().map_or(0, |report| report.allocations)
}

fn remaining(nodes: &[Node], heirs: Heirs) -> String {
    let allocations = words::count(nodes.iter().map(allocations).sum(), "allocation");
    let rows: u64 = nodes.iter().map(|node| u64::from(node.rows)).sum();
    let left = match heirs {
        Heirs::Some => format!("{allocations}, {} left", words::count(rows, "row")),
        Heirs::None => format!("{allocations} left; no other server of the site is there to take the rows"),
    };
    let is_busy = |node: &&Node| !is_empty(node, heirs);
    let names: Vec<_> = nodes.iter().filter(is_busy).map(|node| words::node(node.node.as_ref())).collect();
    if nodes.len() > 1 && !names.is_empty() { format!("{left} (on {})", names.join(", ")) } else { left }
}

fn finished(nodes: &[Node]) -> String {
    let names: Vec<_> = nodes.iter().map(|node| words::node(node.node.as_ref())).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    output::clean(&format!("{} {verb} empty", names.join(", "))) + "\n"
}

#[cfg(test)]
mod tests {
    use trunkline_proto::node::v1::Report;

    use super::*;

    fn node(state: State, rows: u32, allocations: u64) -> Node {
        let report = Some(Report { allocations, ..Report::default() });
        let id = Some(NodeId { site: 1, server: 2 });
        Node { node: id, state: state.into(), rows, report, ..Node::default() }
    }

    #[test]
    fn a_drain_ends_when_neither_rows_nor_allocations_are_left() {
        let is_empty = |node: &Node| super::is_empty(node, Heirs::Some);
        assert!(!is_empty(&node(State::Draining, 0, 1)));
        assert!(!is_empty(&node(State::Drained, 1, 0)));
        assert!(is_empty(&node(State::Drained, 0, 0)));
        assert!(!is_empty(&node(State::Dead, 7, 0)));
        assert!(is_empty(&node(State::Dead, 0, 9)));
        assert!(!is_empty(&node(State::Faulty, 0, 0)));
    }

    #[test]
    fn rows_that_nobody_can_take_are_not_waited_for() {
        assert!(is_empty(&node(State::Draining, 16_384, 0), Heirs::None));
        assert!(!is_empty(&node(State::Draining, 16_384, 1), Heirs::None));
        assert!(!is_empty(&node(State::Draining, 16_384, 0), Heirs::Some));
        assert!(remaining(&[node(State::Draining, 16_384, 0)], Heirs::None).contains("no other server"));
    }

    #[test]
    fn progress_counts_allocations_and_rows() {
        let one = [node(State::Draining, 1, 12)];
        assert_eq!(remaining(&one, Heirs::Some), "12 allocations, 1 row left");
        let two = [node(State::Draining, 4, 1), node(State::Drained, 0, 0)];
        assert_eq!(remaining(&two, Heirs::Some), "1 allocation, 4 rows left (on 1.2)");
    }
}
