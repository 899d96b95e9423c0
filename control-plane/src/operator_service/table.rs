//! Steering tables and sites as operators see them.

use std::collections::{BTreeMap, BTreeSet};

use trunkline_fleet::table::{quotas, weight_micro};
use trunkline_proto::operator::v1::node::State as Condition;
use trunkline_proto::operator::v1::{GetTableRequest, ListSitesResponse, Row, RowShare, Site, Table};
use trunkline_proto::store::v1::TableRecord;
use trunkline_wire::NodeId;

use super::sightings::Sightings;
use super::{Fault, nodes};
use crate::state::State;

/// Rows that a server is the current owner of.
#[must_use]
pub fn rows_of(state: &State, node: NodeId) -> u32 {
    let Some(kept) = state.tables.get(&node.site) else { return 0 };
    let server = node.server.to_be_bytes();
    count(kept.record.rows.chunks_exact(ROW_BYTES).filter(|row| row.starts_with(&server)).count())
}

/// The table of a site.
///
/// # Errors
/// There is no such site, or no table yet.
pub fn view(state: &State, seen: &Sightings, request: &GetTableRequest) -> Result<Table, Fault> {
    let site = u16::try_from(request.site).ok().filter(|site| *site != 0);
    let site =
        site.ok_or_else(|| Fault::malformed("site", format!("{} is not 1 to 65,535", request.site)))?;
    let missing = || {
        let problem = match state.nodes.keys().any(|node| node.site == site) {
            true => format!("site {site} has no table yet: none of its servers has joined"),
            false => format!("there is no site {site}; `trunklinectl sites` lists them"),
        };
        Fault::unknown("site", problem)
    };
    let record = &state.tables.get(&site).ok_or_else(missing)?.record;
    let rows = rows(record);
    Ok(Table {
        site: site.into(),
        row_count: count(rows.len()),
        epoch: Some(state.epoch()),
        shares: shares(state, seen, site, &rows),
        rows: rows.into_iter().filter(|row| row.moved_unix_s >= request.moved_since_unix_s).collect(),
    })
}

/// Every site, with what its servers report together.
#[must_use]
pub fn sites(state: &State, seen: &Sightings) -> ListSitesResponse {
    let sites: BTreeSet<u16> = state.nodes.keys().map(|node| node.site).collect();
    ListSitesResponse { sites: sites.into_iter().map(|site| view_of_site(state, seen, site)).collect() }
}

fn view_of_site(state: &State, seen: &Sightings, site: u16) -> Site {
    let rows = state.tables.get(&site).map(|kept| rows(&kept.record)).unwrap_or_default();
    let mut view = Site {
        site: site.into(),
        rows: count(rows.len()),
        rows_moving: count(rows.iter().filter(|row| row.next != 0).count()),
        ..Site::default()
    };
    for (node, kept) in state.nodes.iter().filter(|(node, _)| node.site == site) {
        let status = state.statuses.get(node).map(|kept| kept.record.clone()).unwrap_or_default();
        let condition = nodes::condition(&kept.record, &status, seen.silent_for(state, *node), 0);
        view.nodes += 1;
        view.nodes_ready += u32::from(condition == Condition::Ready);
        // What a dead server reported last is no longer so.
        if let Some(report) = status.report.filter(|_| seen.is_alive(state, *node)) {
            view.allocations = view.allocations.saturating_add(report.allocations);
            view.bits_per_s = view.bits_per_s.saturating_add(report.bits_per_s);
        }
    }
    view
}

/// Rows of a record: eight bytes as in `SteeringTable.rows`, then when it moved.
fn rows(record: &TableRecord) -> Vec<Row> {
    let row = |(index, bytes): (usize, &[u8])| {
        let [c0, c1, n0, n1, p0, p1, q0, q1, m0, m1, m2, m3] = bytes.try_into().unwrap_or([0; ROW_BYTES]);
        let number = |high, low| u32::from(u16::from_be_bytes([high, low]));
        Row {
            index: count(index),
            current: number(c0, c1),
            next: number(n0, n1),
            previous_1: number(p0, p1),
            previous_2: number(q0, q1),
            moved_unix_s: u32::from_be_bytes([m0, m1, m2, m3]).into(),
        }
    };
    record.rows.chunks_exact(ROW_BYTES).enumerate().map(row).collect()
}

/// What each server has, and what the weights of those that take rows ask for.
fn shares(state: &State, seen: &Sightings, site: u16, rows: &[Row]) -> Vec<RowShare> {
    let mut owned: BTreeMap<u32, u32> = BTreeMap::new();
    for row in rows {
        *owned.entry(row.current).or_default() += 1;
    }
    let members = state.nodes.iter().filter(|(node, _)| node.site == site);
    let weights: BTreeMap<u16, u64> = members
        .map(|(node, kept)| {
            let takes = kept.record.joined && !kept.record.draining && seen.is_alive(state, *node);
            let weight = weight_micro(kept.record.weight).unwrap_or_default();
            (node.server, if takes { weight } else { 0 })
        })
        .collect();
    let quotas = quotas(&weights, rows.len());
    let servers: BTreeSet<u32> =
        owned.keys().copied().chain(weights.keys().map(|server| u32::from(*server))).collect();
    let share = |server: u32| RowShare {
        server,
        rows: owned.get(&server).copied().unwrap_or_default(),
        quota: u16::try_from(server).ok().and_then(|server| quotas.get(&server).copied()).unwrap_or_default(),
    };
    servers.into_iter().filter(|server| *server != 0).map(share).collect()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// As `TableRecord.rows` says.
const ROW_BYTES: usize = 12;
