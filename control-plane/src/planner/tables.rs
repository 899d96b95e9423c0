//! Steering tables: from records to the pure planner and back.

use std::collections::{BTreeMap, BTreeSet};

use trunkline_fleet::table::{self, Limits, PlannedRow, Publishing, Server, SiteTable};
use trunkline_fleet::{Condition, Epoch};
use trunkline_proto::store::v1::TableRecord;
use trunkline_steer::{NOBODY, ROWS_DEFAULT, Row};
use trunkline_wire::NodeId;
use zeroize::Zeroizing;

use super::Draft;
use crate::configuration::RECORD_ROW_BYTES;
use crate::event::Happening;
use crate::records;
use crate::sealing::Sealing;
use crate::state::State;

pub(super) fn plan(
    state: &State,
    conditions: &BTreeMap<NodeId, Condition>,
    sealing: &Sealing,
    now_unix_s: u64,
    draft: &mut Draft,
) {
    let next_epoch = epoch(Some(draft.epoch)).unwrap_or_default();
    let sites: BTreeSet<u16> = conditions.keys().map(|node| node.site).collect();
    for site in sites {
        let kept = state.tables.get(&site).map(|kept| &kept.record);
        let known = kept.map(read);
        let servers = servers(state, conditions, site);
        let row_count = ROWS_DEFAULT as usize;
        let limits = Limits::default();
        let next = table::plan(known.as_ref(), &servers, row_count, now_unix_s, next_epoch, &limits);
        let Some(next) = next else { continue };
        let Some(sealed_hash_key) = hash_key(kept, site, sealing) else { continue };
        if !draft.add(records::put(site, &write(site, &next, sealed_hash_key))) {
            return;
        }
        tell(site, known.as_ref(), &next, draft);
    }
}

fn servers(state: &State, conditions: &BTreeMap<NodeId, Condition>, site: u16) -> BTreeMap<u16, Server> {
    let of_site = conditions.range(NodeId { site, server: 0 }..=NodeId { site, server: u16::MAX });
    let server = |(node, condition): (&NodeId, &Condition)| {
        let status = state.statuses.get(node).map(|kept| &kept.record);
        let report = status.and_then(|status| status.report.as_ref());
        let flows = report.map(|report| report.row.iter().copied().zip(report.row_flows.iter().copied()));
        let weight = state.nodes.get(node).map_or(1.0, |kept| kept.record.weight);
        let server = Server {
            condition: *condition,
            // Weights are checked before they are stored; one that is damaged must not stop the site's plan.
            weight_micro: table::weight_micro(weight).unwrap_or(1_000_000),
            acknowledged: epoch(status.and_then(|status| status.acknowledged)),
            row_flows: flows.into_iter().flatten().collect(),
        };
        (node.server, server)
    };
    of_site.map(server).collect()
}

fn read(record: &TableRecord) -> SiteTable {
    let row = |bytes: &[u8]| {
        let (row, moved) = bytes.split_first_chunk::<8>()?;
        let moved_unix_s = u32::from_be_bytes(moved.try_into().ok()?);
        Some(PlannedRow { row: Row::from_bytes(*row), moved_unix_s })
    };
    let publishing = epoch(record.publishing)
        .map(|epoch| Publishing { epoch, since_unix_s: record.publishing_since_unix_s });
    SiteTable { rows: record.rows.chunks_exact(RECORD_ROW_BYTES).filter_map(row).collect(), publishing }
}

fn write(site: u16, table: &SiteTable, sealed_hash_key: Vec<u8>) -> TableRecord {
    let mut rows = Vec::with_capacity(table.rows.len() * RECORD_ROW_BYTES);
    for planned in &table.rows {
        rows.extend_from_slice(&planned.row.to_bytes());
        rows.extend_from_slice(&planned.moved_unix_s.to_be_bytes());
    }
    let publishing = table.publishing.map(|publishing| {
        let Epoch { generation, counter } = publishing.epoch;
        trunkline_proto::fleet::v1::Epoch { generation, counter }
    });
    TableRecord {
        site: site.into(),
        rows,
        publishing,
        publishing_since_unix_s: table.publishing.map_or(0, |publishing| publishing.since_unix_s),
        sealed_hash_key,
    }
}

/// It stays for the life of the table: another would give every flow another row.
fn hash_key(kept: Option<&TableRecord>, site: u16, sealing: &Sealing) -> Option<Vec<u8>> {
    if let Some(record) = kept {
        return Some(record.sealed_hash_key.clone());
    }
    let mut secret = Zeroizing::new([0; 16]);
    let filled = getrandom::fill(&mut *secret);
    filled.inspect_err(|error| tracing::error!(%error, site, "no random bytes for the table's key")).ok()?;
    Some(sealing.seal(&records::key::<TableRecord>(site), &secret[..]))
}

fn tell(site: u16, before: Option<&SiteTable>, after: &SiteTable, draft: &mut Draft) {
    let subject = format!("table {site}");
    let Some(before) = before else {
        let happening = Happening::new(subject, "", format!("{} rows", after.rows.len()));
        draft.tell("MakeTable", happening, "the site has its first live server");
        return;
    };
    let moving = |table: &SiteTable| table.rows.iter().filter(|planned| planned.row.next != NOBODY).count();
    if after.publishing.is_some() {
        let happening = Happening::new(subject, "", format!("{} rows get a new owner", moving(after)));
        draft.tell("PublishMoves", happening, "first phase");
    } else {
        let happening = Happening::new(subject, "", format!("{} rows moved", moving(before)));
        draft.tell("FinishMoves", happening, "second phase");
    }
}

pub(super) fn epoch(message: Option<trunkline_proto::fleet::v1::Epoch>) -> Option<Epoch> {
    message.map(|message| Epoch { generation: message.generation, counter: message.counter })
}
