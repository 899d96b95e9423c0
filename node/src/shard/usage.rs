//! Who used how much, over all shards: each byte is told once, whatever becomes of who asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use trunkline_turn::credentials::User;
use trunkline_turn::{ServiceFlow, Usage};

use super::Shards;
use super::inbox::Command;

/// What a user of a key did since it was last asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageDelta {
    /// The key; none for users of a static secret or password.
    pub key_id: Option<String>,
    /// The name that quotas count by; empty where there were too many names to keep apart.
    pub user: String,
    /// How much.
    pub usage: Usage,
}

/// Where shards put what they took out of their counts. It is kept until somebody fetches it, so nothing is lost with
/// a caller that went away.
#[derive(Clone, Default)]
pub struct UsageTray(Arc<Mutex<HashMap<Name, Usage>>>);

/// Key and user.
type Name = (Option<String>, String);

impl UsageTray {
    /// Adds what a shard took.
    pub fn put(&self, taken: Vec<(Arc<User>, Usage)>) {
        let mut tray = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (user, usage) in taken {
            tray.entry((user.key_id.clone(), user.quota_name.clone())).or_default().add(&usage);
        }
    }

    fn fetch(&self) -> Vec<UsageDelta> {
        let tray = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        tray.into_iter().map(|((key_id, user), usage)| UsageDelta { key_id, user, usage }).collect()
    }
}

impl Shards {
    /// What was done since the last call, one entry for each user of each key, in no order. Ended allocations count;
    /// after [`Shards::join`] it gives what was left.
    pub async fn take_usage(&self) -> Vec<UsageDelta> {
        let ask = |inbox: &Arc<super::inbox::Inbox>| {
            let (done, is_done) = oneshot::channel();
            inbox.command(Command::TakeUsage(done));
            is_done
        };
        let asked: Vec<_> = self.inboxes.iter().map(ask).collect();
        for is_done in asked {
            // A shard that has ended has put everything there before.
            drop(is_done.await);
        }
        self.usage.fetch()
    }

    /// The client's flow of every allocation.
    pub async fn flows(&self) -> Vec<ServiceFlow> {
        let mut all = Vec::new();
        for inbox in &self.inboxes {
            let (answer, listed) = oneshot::channel();
            inbox.command(Command::Flows(answer));
            all.extend(listed.await.unwrap_or_default());
        }
        all
    }
}
