//! `sites`: the fleet by datacenter.

use trunkline_proto::operator::v1::{ListSitesRequest, ListSitesResponse};

use crate::fault::Fault;
use crate::output::{Columns, Output, rate};
use crate::session::Session;

/// Shows them.
///
/// # Errors
/// What the control plane refused, or that it does not answer.
pub async fn run(session: &mut Session, output: Output) -> Result<(), Fault> {
    let answer =
        session.ask(ListSitesRequest {}, async |client, request| client.list_sites(request).await).await?;
    output.message(&answer, text)
}

fn text(answer: &ListSitesResponse) -> String {
    let mut columns =
        Columns::new(&[">SITE", ">SERVERS", ">READY", ">ALLOCATIONS", ">TRAFFIC", ">ROWS", ">MOVING"]);
    for site in &answer.sites {
        columns.row([
            site.site.to_string(),
            site.nodes.to_string(),
            site.nodes_ready.to_string(),
            site.allocations.to_string(),
            rate(site.bits_per_s),
            site.rows.to_string(),
            site.rows_moving.to_string(),
        ]);
    }
    columns.or_none("There are no sites. Add a server: trunklinectl nodes add 1.1")
}
