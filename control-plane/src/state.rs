//! The store's records as typed maps: what a replica knows, at one revision.
//!
//! Usage, idempotent answers, join tokens and events are not in here: they are read where they are needed.

use std::collections::BTreeMap;

use trunkline_proto::fleet::v1::Epoch;
use trunkline_proto::store::v1::{
    EpochRecord, FleetKey, Leader, NodeRecord, NodeStatus, ReplicaRecord, Revocation, RolloutRecord,
    SettingsRecord, SlicesRecord, TableRecord, TurnKey,
};
use trunkline_wire::NodeId;

use crate::records::Kept;
use crate::store::Revision;

/// Everything a replica plans and answers from.
#[derive(Clone, Default)]
pub struct State {
    /// The store's revision that this is.
    pub revision: Revision,
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
        kept.unwrap_or(Epoch { generation: 1, counter: 0 })
    }
}
