//! A server's reports on their way into the store: the newest counts, and not more often than needed.

use std::time::Duration;

use prost::Message;
use tokio::sync::watch;
use trunkline_proto::store::v1::NodeStatus;
use trunkline_wire::NodeId;

use crate::records;
use crate::store::{AnyStore, Change, Store, Transaction};

/// Writes what the sender holds whenever it changed, until the sender is gone.
pub async fn write(store: AnyStore, node: NodeId, mut statuses: watch::Receiver<NodeStatus>) {
    let key = records::key::<NodeStatus>(node);
    statuses.mark_changed();
    while statuses.changed().await.is_ok() {
        let value = statuses.borrow_and_update().encode_to_vec();
        let change = Change::Put { key: key.clone(), value, lease: None };
        let written = store.commit(Transaction { checks: vec![], changes: vec![change] }).await;
        if let Err(error) = written {
            tracing::debug!(%node, %error, "a report was not kept; the next one will be");
            tokio::time::sleep(AFTER_FAILURE).await;
            statuses.mark_changed();
        }
        tokio::time::sleep(AT_MOST_EVERY).await;
    }
}

/// Acknowledgements must reach the planner soon, and a store has better things to do than to keep up with load.
const AT_MOST_EVERY: Duration = Duration::from_millis(100);
const AFTER_FAILURE: Duration = Duration::from_millis(500);
