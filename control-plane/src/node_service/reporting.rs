//! A server's reports on their way into the store: the newest counts, and not more often than needed.

use std::time::Duration;

use prost::Message;
use tokio::sync::watch;
use trunkline_proto::store::v1::{NodeRecord, NodeStatus};
use trunkline_wire::NodeId;

use crate::core::Core;
use crate::records;
use crate::store::{Change, Expected, Store, StoreError, Transaction};

/// Writes what the sender holds whenever it changed, until the sender is gone or the server is no member any more: each
/// write demands the member's record, so nothing is left behind of one that was removed.
pub async fn write(core: Core, node: NodeId, mut statuses: watch::Receiver<NodeStatus>) {
    let (key, member) = (records::key::<NodeStatus>(node), records::key::<NodeRecord>(node));
    let added = core.state().nodes.get(&node).map(|kept| kept.record.added_unix_s);
    statuses.mark_changed();
    while statuses.changed().await.is_ok() {
        let state = core.state();
        let known = state.nodes.get(&node).filter(|kept| Some(kept.record.added_unix_s) == added);
        let Some(known) = known else { return };
        let value = statuses.borrow_and_update().encode_to_vec();
        let change = Change::Put { key: key.clone(), value, lease: None };
        let checks = vec![(member.clone(), Expected::At(known.revision))];
        let written = core.store().commit(Transaction { checks, changes: vec![change] }).await;
        if let Err(error) = written {
            tracing::debug!(%node, %error, "a report was not kept; the next one will be");
            let is_behind = matches!(error, StoreError::Conflict);
            tokio::time::sleep(if is_behind { CATCH_UP } else { AFTER_FAILURE }).await;
            statuses.mark_changed();
        }
        tokio::time::sleep(AT_MOST_EVERY).await;
    }
}

/// Acknowledgements must reach the planner soon, and a store has better things to do than to keep up with load.
const AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// Until the mirror has the member's newer record.
const CATCH_UP: Duration = Duration::from_millis(20);
const AFTER_FAILURE: Duration = Duration::from_millis(500);
