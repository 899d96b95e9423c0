//! `allocations`: live ones, found by whom they belong to, and closed.

use clap::{Args, Subcommand};
use trunkline_proto::fleet::v1::{AllocationFilter, NodeId};
use trunkline_proto::operator::v1::{
    CloseAllocationRequest, ListAllocationsRequest, ListAllocationsResponse,
};

use crate::commands::nodes::summary;
use crate::fault::Fault;
use crate::output::{Columns, Output, bytes};
use crate::session::Session;
use crate::{time, words};

/// Live allocations; without a subcommand they are listed.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Allocations {
    #[command(subcommand)]
    command: Option<AllocationsCommand>,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, Subcommand)]
enum AllocationsCommand {
    /// Lists them.
    List(Filter),
    /// Ends one.
    #[command(after_help = "Example:\n  trunklinectl allocations close 1.2 0000002a00000001")]
    Close {
        /// Its server: SITE.SERVER.
        #[arg(value_name = "NODE", value_parser = words::parse_node)]
        node: NodeId,
        /// Its id on that server, from the list.
        id: String,
    },
}

#[derive(Debug, Args)]
struct Filter {
    /// Of this user: the whole username, or the name behind its expiry.
    #[arg(long)]
    user: Option<String>,
    /// Of this key.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// With this client or relayed address, with or without its port.
    #[arg(long, value_name = "IP[:PORT]")]
    address: Option<String>,
    /// On this server.
    #[arg(long, value_name = "NODE", value_parser = words::parse_node)]
    node: Option<NodeId>,
    /// How many of each server.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000)]
    limit: u32,
}

/// Runs `allocations`.
///
/// # Errors
/// What the control plane refused, or that it does not answer; or that some servers did not.
pub async fn run(session: &mut Session, output: Output, allocations: Allocations) -> Result<(), Fault> {
    match allocations.command {
        None => list(session, output, allocations.filter).await,
        Some(AllocationsCommand::List(filter)) => list(session, output, filter).await,
        Some(AllocationsCommand::Close { node, id }) => {
            let request = CloseAllocationRequest { mutation: session.mutation()?, node: Some(node), id };
            let done =
                session.ask(request, async |client, request| client.close_allocation(request).await).await?;
            output.message(&done, summary)
        }
    }
}

async fn list(session: &mut Session, output: Output, filter: Filter) -> Result<(), Fault> {
    let filter = AllocationFilter {
        user: filter.user.unwrap_or_default(),
        key_id: filter.key.unwrap_or_default(),
        address: filter.address.unwrap_or_default(),
        node: filter.node,
        limit: filter.limit,
    };
    let request = ListAllocationsRequest { filter: Some(filter) };
    let answer = session.ask(request, async |client, request| client.list_allocations(request).await).await?;
    output.message(&answer, text)?;
    if answer.silent.is_empty() {
        return Ok(());
    }
    let silent: Vec<_> = answer.silent.iter().map(|node| words::node(Some(node))).collect();
    let text = format!("no answer from {}: their allocations are not in the list", silent.join(", "));
    Err(Fault::Incomplete(text))
}

fn text(answer: &ListAllocationsResponse) -> String {
    let mut columns = Columns::new(&[
        "NODE",
        "ID",
        "USERNAME",
        "CLIENT",
        "VIA",
        "RELAYED",
        ">AGE",
        ">EXPIRES IN",
        ">TO PEER",
        ">TO CLIENT",
        ">PERMISSIONS",
        ">CHANNELS",
    ]);
    for allocation in &answer.allocations {
        let client = if allocation.client.is_empty() { "-" } else { &allocation.client };
        columns.row([
            words::node(allocation.node.as_ref()),
            allocation.id.clone(),
            allocation.username.clone(),
            client.into(),
            allocation.transport.clone(),
            allocation.relayed.join(" "),
            time::span_ms(allocation.age_s.saturating_mul(1_000)),
            time::span_ms(allocation.expires_in_s.saturating_mul(1_000)),
            bytes(allocation.bytes_to_peer),
            bytes(allocation.bytes_to_client),
            allocation.permissions.to_string(),
            allocation.channels.to_string(),
        ]);
    }
    columns.or_none("No allocation.")
}

#[cfg(test)]
mod tests {
    use trunkline_proto::fleet::v1::Allocation;

    use super::*;

    #[test]
    fn a_client_that_a_viewer_may_not_see_is_a_dash() {
        let allocation =
            Allocation { username: "alice".into(), bytes_to_peer: 2_000, ..Allocation::default() };
        let answer = ListAllocationsResponse { allocations: vec![allocation], silent: vec![] };
        let text = text(&answer);
        assert!(text.contains("alice     -"), "{text}");
        assert!(text.contains("2.0 kB"), "{text}");
    }
}
