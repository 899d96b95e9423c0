//! Leases of slices: from records to the pure planner and back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use trunkline_fleet::slices::{self, RelaySlices, SliceLease, SliceMember, SliceState, Slices};
use trunkline_fleet::{Condition, Epoch};
use trunkline_proto::fleet::v1::Slice;
use trunkline_proto::fleet::v1::slice::State as Stored;
use trunkline_proto::store::v1::{NodeRecord, SliceRecord, SlicesRecord};
use trunkline_wire::NodeId;

use super::{Draft, tables};
use crate::event::Happening;
use crate::operator_service::Sightings;
use crate::records::{self, Kept, node_id, node_message};
use crate::state::State;

pub(super) fn plan(
    state: &State,
    conditions: &BTreeMap<NodeId, Condition>,
    seen: &Sightings,
    now_unix_s: u64,
    draft: &mut Draft,
) {
    let known = read(state);
    let members = members(state, conditions, seen);
    let next_epoch = tables::epoch(Some(draft.epoch)).unwrap_or_default();
    for (address, next) in slices::plan(&known, &members, now_unix_s, next_epoch) {
        if !draft.add(records::put(address, &write(address, &next))) {
            return;
        }
        tell(address, known.get(&address), &next, draft);
    }
}

/// Every address as the store has it; a record that cannot be read is left alone.
pub(super) fn read(state: &State) -> Slices {
    let table = |record: &SlicesRecord| -> RelaySlices {
        let slice = |kept: &SliceRecord| {
            let slice = kept.slice.as_ref()?;
            Some((u8::try_from(slice.index).ok()?, lease(slice, kept)))
        };
        record.slices.iter().filter_map(slice).collect()
    };
    let records = state.slices.iter();
    records.filter_map(|(address, kept)| Some((address.parse().ok()?, table(&kept.record)))).collect()
}

fn lease(slice: &Slice, kept: &SliceRecord) -> SliceLease {
    let state = match slice.state() {
        Stored::Unspecified | Stored::Free => SliceState::Free,
        Stored::Owned => SliceState::Owned,
        Stored::Draining => SliceState::Draining,
        Stored::Quarantine => SliceState::Quarantine,
    };
    SliceLease {
        state,
        owner: slice.owner.as_ref().and_then(node_id),
        lease: slice.lease,
        since: tables::epoch(kept.granted).unwrap_or_default(),
        until_unix_s: kept.until_unix_s,
    }
}

pub(super) fn write(address: IpAddr, table: &RelaySlices) -> SlicesRecord {
    let slice = |(index, lease): (&u8, &SliceLease)| {
        let state = match lease.state {
            SliceState::Free => Stored::Free,
            SliceState::Owned => Stored::Owned,
            SliceState::Draining => Stored::Draining,
            SliceState::Quarantine => Stored::Quarantine,
        };
        let Epoch { generation, counter } = lease.since;
        SliceRecord {
            slice: Some(Slice {
                address: address.to_string(),
                index: (*index).into(),
                state: state.into(),
                owner: lease.owner.map(node_message),
                lease: lease.lease,
            }),
            until_unix_s: lease.until_unix_s,
            granted: Some(trunkline_proto::fleet::v1::Epoch { generation, counter }),
            ..SliceRecord::default()
        }
    };
    SlicesRecord { address: address.to_string(), slices: table.iter().map(slice).collect() }
}

/// Every server that was added: one that has not joined in this store may have joined in what it has forgotten.
pub(super) fn members(
    state: &State,
    conditions: &BTreeMap<NodeId, Condition>,
    seen: &Sightings,
) -> BTreeMap<NodeId, SliceMember> {
    let member = |(node, kept): (&NodeId, &Kept<NodeRecord>)| {
        let standing = SliceMember {
            can_take: conditions.get(node) == Some(&Condition::Live),
            is_drained: kept.record.draining,
            is_heard: seen.is_heard(state, *node),
            ..SliceMember::default()
        };
        (*node, reported(state, *node, &kept.record, standing))
    };
    state.nodes.iter().map(member).collect()
}

fn reported(state: &State, node: NodeId, record: &NodeRecord, standing: SliceMember) -> SliceMember {
    let status = state.statuses.get(&node).map(|kept| &kept.record);
    let report = status.and_then(|status| status.report.as_ref());
    let claims = report.into_iter().flat_map(|report| &report.claims).filter_map(|claim| {
        Some(((claim.address.parse().ok()?, u8::try_from(claim.index).ok()?), claim.lease))
    });
    SliceMember {
        relay_addresses: record.relay_addresses.iter().filter_map(|address| address.parse().ok()).collect(),
        reported: tables::epoch(report.and_then(|report| report.epoch)),
        claims: claims.collect(),
        ports_in_use_permille: report.map_or(0, |report| report.ports_in_use_permille),
        ..standing
    }
}

fn tell(address: IpAddr, before: Option<&RelaySlices>, after: &RelaySlices, draft: &mut Draft) {
    let of = |table: Option<&RelaySlices>, index: u8| {
        table.and_then(|table| table.get(&index)).copied().unwrap_or_default()
    };
    let words = |lease: SliceLease| match (lease.state, lease.owner) {
        (SliceState::Free, _) => "free".to_owned(),
        (SliceState::Quarantine, _) => "quarantine".to_owned(),
        (SliceState::Owned, Some(owner)) => format!("node {owner}'s"),
        (SliceState::Draining, Some(owner)) => format!("draining at node {owner}"),
        (SliceState::Owned | SliceState::Draining, None) => "nobody's".to_owned(),
    };
    for (index, lease) in after {
        let (was, is) = (words(of(before, *index)), words(*lease));
        if was != is {
            draft.tell("Slice", Happening::new(format!("slice {address} {index}"), was, is), "");
        }
    }
}
