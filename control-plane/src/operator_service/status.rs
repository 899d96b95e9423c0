//! The control plane itself, as operators see it.

use std::sync::atomic::Ordering;

use trunkline_proto::operator::v1::{Replica, Status, StoreMember};

use super::{Surroundings, rollout};
use crate::core::Core;
use crate::event::unix_ms;
use crate::store::{AnyStore, Store};

/// What this replica knows of itself, the others and the store.
pub async fn view(core: &Core, surroundings: &Surroundings) -> Status {
    let state = core.state();
    let replicas = state.replicas.values().map(|kept| &kept.record).map(|record| Replica {
        name: record.name.clone(),
        address: record.address.clone(),
        version: record.version.clone(),
        connected_nodes: record.connected_nodes,
    });
    let members = core.store().members().await;
    let member = |member: crate::store::StoreMember| StoreMember {
        address: member.address,
        is_healthy: member.is_healthy,
        is_leader: member.is_leader,
        latency_ms: u32::try_from(member.latency.as_millis()).unwrap_or(u32::MAX),
        database_bytes: member.database_bytes,
    };
    Status {
        epoch: Some(state.epoch()),
        leader: state.leader.as_ref().map(|kept| kept.record.replica.clone()).unwrap_or_default(),
        replicas: replicas.collect(),
        unix_ms: unix_ms(),
        store: match core.store() {
            AnyStore::Embedded(_) => "embedded",
            AnyStore::Etcd(_) => "etcd",
        }
        .to_owned(),
        store_members: members.into_iter().map(member).collect(),
        rollout: rollout::view(&state),
        certificate_expires_unix_s: surroundings.certificate_expires_unix_s.load(Ordering::Relaxed),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
