//! `nodes`: the servers of the fleet; and `weight`.

use clap::{Args, Subcommand};
use serde_json::Value;
use trunkline_control_plane::connector::Endpoint;
use trunkline_proto::fleet::v1::NodeId;
use trunkline_proto::operator::v1::{
    AddNodeRequest, AddNodeResponse, ListNodesRequest, ListNodesResponse, MutationResponse, Node,
    RemoveNodeRequest, SetWeightRequest,
};

use crate::commands::status;
use crate::fault::Fault;
use crate::output::{self, Columns, Output, clean, rate};
use crate::session::Session;
use crate::{json, time, words};

/// The servers of the fleet.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Nodes {
    #[command(subcommand)]
    command: Option<NodesCommand>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Subcommand)]
enum NodesCommand {
    /// Lists the servers.
    List(List),
    /// Makes room for a server, and the one-time token that it joins with.
    #[command(after_help = "\
Examples:
  trunklinectl nodes add 1.3
  trunklinectl nodes add 2.1 --weight 0.5 --token-lifetime 600
The token is shown once. Run the printed command on the new server before it expires.")]
    Add(Add),
    /// Forgets a server: its rows move to others, and its slices after their quarantine.
    ///
    /// Drain it first (`trunklinectl drain NODE`), else its calls end.
    #[command(after_help = "\
Examples:
  trunklinectl drain 1.3 && trunklinectl nodes remove 1.3
  trunklinectl nodes remove 1.3 --confirm-gone    # it is broken, switched off, and will not come back")]
    Remove(Remove),
}

#[derive(Debug, Args)]
struct List {
    /// Show the list again whenever it changes.
    #[arg(long)]
    watch: bool,
    /// Only servers of this site.
    #[arg(long, value_name = "SITE")]
    site: Option<u32>,
    /// Only this server.
    #[arg(long, value_name = "NODE", value_parser = words::parse_node)]
    node: Option<NodeId>,
}

#[derive(Debug, Args)]
struct Add {
    /// The new server: SITE.SERVER.
    #[arg(value_name = "NODE", value_parser = words::parse_node)]
    node: NodeId,
    /// Its share of the site's new flows, relative to the other servers' [default: 1].
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true)]
    weight: Option<f64>,
    /// How long the token is good, in seconds; 86,400 at most.
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    token_lifetime: u32,
}

#[derive(Debug, Args)]
struct Remove {
    /// The server: SITE.SERVER.
    #[arg(value_name = "NODE", value_parser = words::parse_node)]
    node: NodeId,
    /// The machine is switched off and will not come back with its old data: give its slices to others although it
    /// cannot say that it does not use them any more.
    #[arg(long)]
    confirm_gone: bool,
}

/// A server's share.
#[derive(Debug, Args)]
pub struct Weight {
    /// The server: SITE.SERVER.
    #[arg(value_name = "NODE", value_parser = words::parse_node)]
    node: NodeId,
    /// Its share of the site's new flows, relative to the other servers': above 0, up to 1,000.
    #[arg(value_name = "WEIGHT", allow_negative_numbers = true)]
    weight: f64,
}

/// Runs `nodes`.
///
/// # Errors
/// What the control plane refused, or that it does not answer.
pub async fn run(session: &mut Session, output: Output, nodes: Nodes) -> Result<(), Fault> {
    match nodes.command {
        None => list(session, output, &nodes.list).await,
        Some(NodesCommand::List(of)) => list(session, output, &of).await,
        Some(NodesCommand::Add(what)) => add(session, output, &what).await,
        Some(NodesCommand::Remove(what)) => {
            let request = RemoveNodeRequest {
                mutation: session.mutation()?,
                node: Some(what.node),
                confirm_gone: what.confirm_gone,
            };
            let done =
                session.ask(request, async |client, request| client.remove_node(request).await).await?;
            output.message(&done, summary)
        }
    }
}

/// Runs `weight`.
///
/// # Errors
/// What the control plane refused, or that it does not answer.
pub async fn weight(session: &mut Session, output: Output, what: &Weight) -> Result<(), Fault> {
    let request =
        SetWeightRequest { mutation: session.mutation()?, node: Some(what.node), weight: what.weight };
    let done = session.ask(request, async |client, request| client.set_weight(request).await).await?;
    output.message(&done, summary)
}

/// What a change did, in a sentence.
#[must_use]
pub fn summary(done: &MutationResponse) -> String {
    let said = if done.summary.is_empty() { "done" } else { done.summary.trim_end_matches('.') };
    format!("{} (epoch {})\n", clean(said), words::epoch(done.epoch.as_ref()))
}

/// The servers of a site, or one, or all.
///
/// # Errors
/// What the control plane refused, or that it does not answer.
pub async fn ask(session: &mut Session, site: Option<u32>, node: Option<NodeId>) -> Result<Vec<Node>, Fault> {
    let request = ListNodesRequest { site, node };
    let answer = session.ask(request, async |client, request| client.list_nodes(request).await).await?;
    Ok(answer.nodes)
}

async fn list(session: &mut Session, output: Output, list: &List) -> Result<(), Fault> {
    let request = ListNodesRequest { site: list.site, node: list.node };
    if !list.watch {
        let answer = session.ask(request, async |client, request| client.list_nodes(request).await).await?;
        return output.message(&answer, |answer| table(&answer.nodes));
    }
    let show = |answer: ListNodesResponse| {
        output.item(&answer, |answer| {
            let clear = if output::is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            let now = time::moment(time::now_unix_s());
            format!("{clear}{now} UTC\n{}\n", table(&answer.nodes))
        })
    };
    session.listen(request, async |client, request| client.watch_nodes(request).await, show).await
}

fn table(nodes: &[Node]) -> String {
    let mut columns = Columns::new(&[
        "NODE",
        "STATE",
        ">WEIGHT",
        ">ROWS",
        ">SLICES",
        ">ALLOCATIONS",
        ">LOAD",
        ">TRAFFIC",
        ">PORTS",
        ">EPOCH",
        ">SEEN",
        "VERSION",
        "ADDRESSES",
        "RELAYS",
        "FAULTS",
    ]);
    for node in nodes {
        columns.row(row(node));
    }
    columns.or_none("There are no servers. Add one: trunklinectl nodes add 1.1")
}

fn row(node: &Node) -> [String; 15] {
    let report = node.report.as_ref();
    let reported =
        |show: &dyn Fn(&trunkline_proto::node::v1::Report) -> String| report.map_or_else(|| "-".into(), show);
    [
        words::node(node.node.as_ref()),
        words::state(node).into(),
        node.weight.to_string(),
        node.rows.to_string(),
        node.slices.to_string(),
        reported(&|report| report.allocations.to_string()),
        reported(&|report| format!("{:.1} %", f64::from(report.load_permille) / 10.0)),
        reported(&|report| rate(report.bits_per_s)),
        reported(&|report| format!("{:.1} %", f64::from(report.ports_in_use_permille) / 10.0)),
        words::epoch(node.epoch.as_ref()),
        reported(&|_| time::span_ms(node.reported_ms_ago)),
        node.version.clone(),
        node.host_addresses.join(" "),
        relays(node),
        reported(&|report| report.faults.join("; ")),
    ]
}

/// Relay addresses: its own, then those that it shares.
fn relays(node: &Node) -> String {
    let shared = node.relay_addresses.iter().map(|address| format!("{address} (shared)"));
    node.own_relay_addresses.iter().cloned().chain(shared).collect::<Vec<_>>().join(" ")
}

async fn add(session: &mut Session, output: Output, add: &Add) -> Result<(), Fault> {
    let request = AddNodeRequest {
        mutation: session.mutation()?,
        node: Some(add.node),
        weight: add.weight,
        token_lifetime_s: add.token_lifetime,
    };
    let answer = session.ask(request, async |client, request| client.add_node(request).await).await?;
    let endpoints = endpoints(session).await;
    let command = join_command(&endpoints, &answer.token);
    let message = json::of(&answer)?;
    output.either(
        || {
            let mut document = message;
            if let Value::Object(fields) = &mut document {
                fields.insert("command".into(), command.clone().into());
            }
            document
        },
        || added(add.node, &answer, &command),
    )
}

fn added(node: NodeId, answer: &AddNodeResponse, command: &str) -> String {
    format!(
        "Server {} may join until {} UTC. On that server:\n\n  {command}\n",
        words::node(Some(&node)),
        time::moment(answer.token_expires_unix_s),
    )
}

/// Where a server finds replicas: what they say of themselves, else what this command was given.
async fn endpoints(session: &mut Session) -> Vec<String> {
    let replicas = status::ask(session).await.map(|status| status.replicas).unwrap_or_default();
    let advertised: Vec<_> = replicas
        .iter()
        .filter(|replica| !replica.address.is_empty())
        .map(|replica| format!("https://{}", replica.address))
        .collect();
    if !advertised.is_empty() {
        return advertised;
    }
    let given = session.replicas().endpoints().iter();
    given.filter(|address| matches!(address, Endpoint::Tls(_))).map(ToString::to_string).collect()
}

fn join_command(endpoints: &[String], token: &str) -> String {
    let endpoints: String =
        endpoints.iter().map(|endpoint| format!(" --control-plane {}", clean(endpoint))).collect();
    format!("trunkline node{endpoints} --join {} --data-dir trunkline-data", clean(token))
}

#[cfg(test)]
mod tests {
    use trunkline_proto::fleet::v1::Epoch;
    use trunkline_proto::node::v1::Report;

    use super::*;

    #[test]
    fn a_server_that_never_reported_has_dashes_instead_of_zeros() {
        let expected = Node { node: Some(NodeId { site: 1, server: 3 }), weight: 1.0, ..Node::default() };
        let report =
            Report { allocations: 12, load_permille: 125, bits_per_s: 2_000_000, ..Report::default() };
        let mut ready = Node { report: Some(report), weight: 0.5, rows: 100, ..expected.clone() };
        ready.epoch = Some(Epoch { generation: 1, counter: 9 });
        ready.set_state(trunkline_proto::operator::v1::node::State::Ready);
        let expected = row(&expected);
        assert_eq!(expected[5], "-");
        assert_eq!(expected[9], "-");
        let ready = row(&ready);
        assert_eq!(
            ready[..8],
            ["1.3", "ready", "0.5", "100", "0", "12", "12.5 %", "2.0 Mbit/s"].map(str::to_owned)
        );
        assert_eq!(ready[9], "1/9");
    }

    #[test]
    fn the_command_to_join_names_every_replica() {
        assert_eq!(
            join_command(&["https://a:7443".into(), "https://b:7443".into()], "tl1.1.3.aa"),
            "trunkline node --control-plane https://a:7443 --control-plane https://b:7443 --join tl1.1.3.aa \
             --data-dir trunkline-data"
        );
    }
}
