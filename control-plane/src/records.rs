//! Records of the store: which key holds what, bytes to typed record and back.

use prost::Message;
use trunkline_proto::store::v1::{
    AdminToken, EpochRecord, FleetKey, JoinToken, Leader, LineageRecord, NodeRecord, NodeStatus,
    ReplicaRecord, Revocation, RolloutRecord, SettingsRecord, SlicesRecord, TableRecord, TurnKey,
    UsageCursor,
};
use trunkline_wire::NodeId;

use crate::store::{Change, Entry, Revision};

/// A kind of record and where it lives.
pub trait Record: Message + Default + Clone {
    /// What every key of this kind starts with.
    const PREFIX: &'static str;
}

/// A record and the revision it was read at.
#[derive(Clone)]
pub struct Kept<R> {
    /// The record.
    pub record: R,
    /// When it was put.
    pub revision: Revision,
}

/// Bytes that are not the record they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store's record {key:?} is damaged: {fault}")]
pub struct Damaged {
    /// The record's key.
    pub key: String,
    /// What is wrong with it.
    pub fault: String,
}

macro_rules! records {
    ($($record:ty => $prefix:literal,)+) => { $(impl Record for $record { const PREFIX: &'static str = $prefix; })+ };
}

records! {
    TurnKey => "turn-key/",
    Revocation => "revocation/",
    FleetKey => "fleet-key/",
    AdminToken => "admin-token",
    EpochRecord => "epoch",
    LineageRecord => "lineage",
    Leader => "leader",
    ReplicaRecord => "replica/",
    NodeRecord => "node/",
    NodeStatus => "status/",
    TableRecord => "table/",
    SlicesRecord => "slices/",
    SettingsRecord => "settings/",
    RolloutRecord => "rollout",
    JoinToken => "join-token/",
    UsageCursor => "usage-cursor/",
}

/// The key of the record of this kind with this name; kinds with one record alone have the empty name.
#[must_use]
pub fn key<R: Record>(name: impl std::fmt::Display) -> String {
    format!("{}{name}", R::PREFIX)
}

/// The change that puts this record.
#[must_use]
pub fn put<R: Record>(name: impl std::fmt::Display, record: &R) -> Change {
    Change::Put { key: key::<R>(name), value: record.encode_to_vec(), lease: None }
}

/// Reads a record.
///
/// # Errors
/// [`Damaged`] names the key.
pub fn open<R: Record>(entry: &Entry) -> Result<Kept<R>, Damaged> {
    let record = R::decode(&entry.value[..])
        .map_err(|error| Damaged { key: entry.key.clone(), fault: error.to_string() })?;
    Ok(Kept { record, revision: entry.revision })
}

/// The inverse of `NodeId`'s `Display`: `1.2`.
#[must_use]
pub fn parse_node(text: &str) -> Option<NodeId> {
    let (site, server) = text.split_once('.')?;
    Some(NodeId { site: site.parse().ok()?, server: server.parse().ok()? })
}

/// A message's NodeId; `None` where a half is above 65,535 or zero is not allowed.
#[must_use]
pub fn node_id(message: &trunkline_proto::fleet::v1::NodeId) -> Option<NodeId> {
    Some(NodeId { site: u16::try_from(message.site).ok()?, server: u16::try_from(message.server).ok()? })
}

/// As a message.
#[must_use]
pub fn node_message(node: NodeId) -> trunkline_proto::fleet::v1::NodeId {
    trunkline_proto::fleet::v1::NodeId { site: node.site.into(), server: node.server.into() }
}
