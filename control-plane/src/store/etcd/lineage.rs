//! Where etcd's log stands beside its revision.
//!
//! `etcdctl snapshot restore` makes the cluster's id of the names and addresses it is given, so a store that is restored
//! in its place keeps its id, and its terms begin where they began. What it cannot keep is the length of the log.

use etcd_client::Error;
use tonic::Code;

use super::super::{Lineage, StoreError};
use super::Shared;
use super::members::Client;

/// The highest of a few readings: writes in between make one too low, never too high.
pub(super) async fn read(etcd: &Shared) -> Result<Option<Lineage>, StoreError> {
    let mut highest: Option<Lineage> = None;
    for _ in 0..READINGS {
        let call = |member: Client| read_once(member, etcd.keys.full(""));
        let Some(lineage) = etcd.members.call(call).await? else { return Ok(None) };
        if highest.is_none_or(|highest| highest.surplus < lineage.surplus) {
            highest = Some(lineage);
        }
    }
    Ok(highest)
}

/// `None` where this replica may not ask.
async fn read_once(mut member: Client, key: String) -> Result<Option<Lineage>, Error> {
    // A member that lags behind knows all that came before once it has answered this.
    member.kv.get(if key.is_empty() { "epoch".to_owned() } else { key }, None).await?;
    let status = match member.maintenance.status().await {
        Err(Error::GRpcStatus(status))
            if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated) =>
        {
            return Ok(None);
        }
        other => other?,
    };
    let Some(header) = status.header() else { return Ok(None) };
    let applied = i64::try_from(status.raft_applied_index()).unwrap_or(i64::MAX);
    // Before etcd 3.4 members do not say.
    let known = (applied > 0).then(|| applied.saturating_sub(header.revision()));
    Ok(known.map(|surplus| Lineage { cluster: header.cluster_id(), surplus }))
}

const READINGS: u32 = 3;
