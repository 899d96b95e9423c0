//! The store's records as typed maps: what a replica knows, at one revision.
//!
//! Usage, idempotent answers, join tokens and events are not in here: they are read where they are needed.

use std::collections::BTreeMap;

use trunkline_fleet::FIRST_GENERATION;
use trunkline_proto::fleet::v1::Epoch;
use trunkline_proto::store::v1::{
    EpochRecord, FleetKey, Leader, LineageRecord, NodeRecord, NodeStatus, ReplicaRecord, Revocation,
    RolloutRecord, SettingsRecord, SlicesRecord, TableRecord, TurnKey,
};
use trunkline_wire::NodeId;

use crate::records::{self, Damaged, Kept, Record, parse_node};
use crate::store::{Entry, Event, Lineage, Revision};

/// Everything a replica plans and answers from.
#[derive(Clone, Default)]
pub struct State {
    /// The store's revision that this is.
    pub revision: Revision,
    /// What the store said of itself when all of it was read last.
    pub lineage: Option<Lineage>,
    /// Which store it knows itself to be.
    pub lineage_record: Option<Kept<LineageRecord>>,
    /// The configuration's version; absent in an empty store.
    pub epoch: Option<Kept<EpochRecord>>,
    /// Who plans.
    pub leader: Option<Kept<Leader>>,
    /// By name.
    pub replicas: BTreeMap<String, Kept<ReplicaRecord>>,
    /// Members.
    pub nodes: BTreeMap<NodeId, Kept<NodeRecord>>,
    /// What members last said.
    pub statuses: BTreeMap<NodeId, Kept<NodeStatus>>,
    /// By site.
    pub tables: BTreeMap<u16, Kept<TableRecord>>,
    /// By relay address.
    pub slices: BTreeMap<String, Kept<SlicesRecord>>,
    /// By id.
    pub turn_keys: BTreeMap<String, Kept<TurnKey>>,
    /// By username.
    pub revocations: BTreeMap<String, Kept<Revocation>>,
    /// By id.
    pub fleet_keys: BTreeMap<u8, Kept<FleetKey>>,
    /// By version.
    pub settings: BTreeMap<u64, Kept<SettingsRecord>>,
    /// The newest roll-out of settings.
    pub rollout: Option<Kept<RolloutRecord>>,
}

impl State {
    /// The configuration's version; (1, 0) in an empty store.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        let kept = self.epoch.as_ref().and_then(|kept| kept.record.epoch);
        kept.unwrap_or(Epoch { generation: FIRST_GENERATION, counter: 0 })
    }

    /// The store was restored: it cannot have become what it is by being written to.
    #[must_use]
    pub fn is_put_back(&self) -> bool {
        self.known_lineage().zip(self.lineage).is_some_and(|(known, now)| !now.follows(&known))
    }

    /// What it knows itself to be.
    #[must_use]
    pub fn known_lineage(&self) -> Option<Lineage> {
        let record = &self.lineage_record.as_ref()?.record;
        Some(Lineage { cluster: record.cluster, surplus: record.surplus })
    }

    /// Takes over what happened to a key. What is older than what is known is passed over, so events may come again.
    ///
    /// # Errors
    /// [`Damaged`]; the state is as it was.
    pub fn apply(&mut self, event: &Event) -> Result<(), Damaged> {
        match event {
            Event::Put(entry) => self.put(entry)?,
            Event::Deleted { key, revision } => self.delete(key, *revision),
        }
        let revision = match event {
            Event::Put(entry) => entry.revision,
            Event::Deleted { revision, .. } => *revision,
        };
        self.revision = self.revision.max(revision);
        Ok(())
    }

    /// Takes over a record; keys of other kinds are passed over.
    ///
    /// # Errors
    /// [`Damaged`].
    pub fn put(&mut self, entry: &Entry) -> Result<(), Damaged> {
        let (kind, name) = split(&entry.key);
        match kind {
            "lineage" => put_one(&mut self.lineage_record, entry),
            "epoch" => put_one(&mut self.epoch, entry),
            "leader" => put_one(&mut self.leader, entry),
            "rollout" => put_one(&mut self.rollout, entry),
            "replica" => put_in(&mut self.replicas, Some(name.to_owned()), entry),
            "node" => put_in(&mut self.nodes, parse_node(name), entry),
            "status" => put_in(&mut self.statuses, parse_node(name), entry),
            "table" => put_in(&mut self.tables, name.parse().ok(), entry),
            "slices" => put_in(&mut self.slices, Some(name.to_owned()), entry),
            "turn-key" => put_in(&mut self.turn_keys, Some(name.to_owned()), entry),
            "revocation" => put_in(&mut self.revocations, Some(name.to_owned()), entry),
            "fleet-key" => put_in(&mut self.fleet_keys, name.parse().ok(), entry),
            "settings" => put_in(&mut self.settings, name.parse().ok(), entry),
            _ => Ok(()),
        }
    }

    fn delete(&mut self, key: &str, at: Revision) {
        let (kind, name) = split(key);
        match kind {
            "lineage" => delete_one(&mut self.lineage_record, at),
            "epoch" => delete_one(&mut self.epoch, at),
            "leader" => delete_one(&mut self.leader, at),
            "rollout" => delete_one(&mut self.rollout, at),
            "replica" => delete_in(&mut self.replicas, Some(name.to_owned()), at),
            "node" => delete_in(&mut self.nodes, parse_node(name), at),
            "status" => delete_in(&mut self.statuses, parse_node(name), at),
            "table" => delete_in(&mut self.tables, name.parse().ok(), at),
            "slices" => delete_in(&mut self.slices, Some(name.to_owned()), at),
            "turn-key" => delete_in(&mut self.turn_keys, Some(name.to_owned()), at),
            "revocation" => delete_in(&mut self.revocations, Some(name.to_owned()), at),
            "fleet-key" => delete_in(&mut self.fleet_keys, name.parse().ok(), at),
            "settings" => delete_in(&mut self.settings, name.parse().ok(), at),
            _ => {}
        }
    }
}

/// What the keys of every kind that is in a [`State`] start with.
pub const MIRRORED: [&str; 13] = [
    "lineage",
    "epoch",
    "leader",
    "rollout",
    "replica/",
    "node/",
    "status/",
    "table/",
    "slices/",
    "turn-key/",
    "revocation/",
    "fleet-key/",
    "settings/",
];

fn split(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or((key, ""))
}

fn put_one<R: Record>(place: &mut Option<Kept<R>>, entry: &Entry) -> Result<(), Damaged> {
    if place.as_ref().is_none_or(|kept| kept.revision < entry.revision) {
        *place = Some(records::open(entry)?);
    }
    Ok(())
}

fn put_in<K: Ord, R: Record>(
    map: &mut BTreeMap<K, Kept<R>>,
    name: Option<K>,
    entry: &Entry,
) -> Result<(), Damaged> {
    let fault = || Damaged { key: entry.key.clone(), fault: "its name is not one".to_owned() };
    let name = name.ok_or_else(fault)?;
    if map.get(&name).is_none_or(|kept| kept.revision < entry.revision) {
        map.insert(name, records::open(entry)?);
    }
    Ok(())
}

fn delete_one<R>(place: &mut Option<Kept<R>>, at: Revision) {
    if place.as_ref().is_some_and(|kept| kept.revision < at) {
        *place = None;
    }
}

fn delete_in<K: Ord, R>(map: &mut BTreeMap<K, Kept<R>>, name: Option<K>, at: Revision) {
    if let Some(name) = name.filter(|name| map.get(name).is_some_and(|kept| kept.revision < at)) {
        map.remove(&name);
    }
}
