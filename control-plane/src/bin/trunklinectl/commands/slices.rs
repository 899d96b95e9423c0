//! `slices`: which server owns which ports of the shared relay addresses.

use clap::Args;
use trunkline_proto::fleet::v1::NodeId;
use trunkline_proto::fleet::v1::slice::State;
use trunkline_proto::operator::v1::{ListSlicesRequest, ListSlicesResponse};

use crate::fault::Fault;
use crate::output::{Columns, Output};
use crate::session::Session;
use crate::{time, words};

/// Which slices to show.
#[derive(Debug, Args)]
pub struct Slices {
    /// Only slices of this server: SITE.SERVER.
    #[arg(value_name = "NODE", value_parser = words::parse_node)]
    node: Option<NodeId>,
    /// Only slices of this relay address.
    #[arg(long, value_name = "IP")]
    address: Option<std::net::IpAddr>,
}

/// Runs `slices`.
///
/// # Errors
/// What the control plane refused, or that it does not answer.
pub async fn run(session: &mut Session, output: Output, slices: &Slices) -> Result<(), Fault> {
    let address = slices.address.map(|address| address.to_string()).unwrap_or_default();
    let answer = ask(session, slices.node, address).await?;
    output.message(&answer, text)
}

/// The slices of one server, of one address, or all.
///
/// # Errors
/// What the control plane refused, or that it does not answer.
pub async fn ask(
    session: &mut Session,
    node: Option<NodeId>,
    address: String,
) -> Result<ListSlicesResponse, Fault> {
    let request = ListSlicesRequest { node, address };
    session.ask(request, async |client, request| client.list_slices(request).await).await
}

fn text(answer: &ListSlicesResponse) -> String {
    let mut columns = Columns::new(&["ADDRESS", "PORTS", "STATE", "OWNER", ">LEASE", "UNTIL"]);
    for view in &answer.slices {
        let Some(slice) = &view.slice else { continue };
        let first = u64::from(slice.index) << 10;
        let state = match slice.state() {
            State::Unspecified => "unknown",
            State::Owned => "owned",
            State::Draining => "draining",
            State::Quarantine => "quarantine",
            State::Free => "free",
        };
        columns.row([
            slice.address.clone(),
            format!("{first}-{}", first + 1_023),
            state.into(),
            words::node(slice.owner.as_ref()),
            slice.lease.to_string(),
            time::moment(view.until_unix_s),
        ]);
    }
    let mut text = columns.or_none("There are no slices: no server shares a relay address.");
    for node in &answer.awaited_nodes {
        let name = words::node(Some(node));
        text.push_str(&format!(
            "Server {name} has not reported since the store was put back: no slice leaves its quarantine before it \
             does. Remove it or bring it back: trunklinectl nodes remove {name} --confirm-gone\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use trunkline_proto::fleet::v1::Slice;
    use trunkline_proto::operator::v1::SliceView;

    use super::*;

    #[test]
    fn a_slice_is_shown_as_its_ports() {
        let mut slice = Slice { address: "198.51.100.1".into(), index: 9, lease: 4, ..Slice::default() };
        slice.owner = Some(NodeId { site: 1, server: 2 });
        slice.set_state(State::Owned);
        let answer = ListSlicesResponse {
            slices: vec![SliceView { slice: Some(slice), until_unix_s: 0 }],
            awaited_nodes: vec![NodeId { site: 2, server: 1 }],
        };
        assert!(
            text(&answer).contains("198.51.100.1  9216-10239  owned  1.2        4  -\n"),
            "{}",
            text(&answer)
        );
        assert!(
            text(&answer).contains("trunklinectl nodes remove 2.1 --confirm-gone\n"),
            "{}",
            text(&answer)
        );
    }
}
