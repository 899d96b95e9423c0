//! Who used how much since it was last asked: exact to the byte, without a scan and without a heap allocation for a
//! packet. Allocations with something new are on a list; what ended ones had left over is kept by user.

use std::collections::HashMap;
use std::sync::Arc;

use crate::allocation::{Allocation, Allocations};
use crate::counters::Traffic;
use crate::credentials::User;

/// What a user did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Relayed to peers.
    pub to_peer: Traffic,
    /// Relayed to clients.
    pub to_client: Traffic,
    /// Allocations begun.
    pub allocations: u64,
}

impl Usage {
    /// Adds what else was done.
    pub fn add(&mut self, other: &Self) {
        self.to_peer.add(other.to_peer);
        self.to_client.add(other.to_client);
        self.allocations = self.allocations.wrapping_add(other.allocations);
    }

    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Users of ended allocations that are kept apart. Who asks every second never sees so many; beyond it traffic
/// counts for the key alone.
const USERS_MAX: usize = 65_536;

/// What is not asked for yet of allocations that have ended, by user.
#[derive(Default)]
pub(crate) struct Ended(HashMap<Arc<User>, Usage>);

impl Ended {
    /// Keeps what was left over.
    pub fn keep(&mut self, user: &Arc<User>, usage: &Usage) {
        if usage.is_none() {
            return;
        }
        if let Some(kept) = self.0.get_mut(user) {
            return kept.add(usage);
        }
        let user = if self.0.len() < USERS_MAX { Arc::clone(user) } else { nameless(user) };
        self.0.entry(user).or_default().add(usage);
    }
}

/// Stands for the users of a key whose names are not kept.
fn nameless(user: &User) -> Arc<User> {
    Arc::new(User {
        username: String::new(),
        key_id: user.key_id.clone(),
        quota_name: String::new(),
        expires_unix_s: None,
    })
}

impl Allocation {
    /// What it did since the last call.
    pub fn take_usage(&mut self) -> Usage {
        let usage = Usage {
            to_peer: self.to_peer.since(self.asked.to_peer),
            to_client: self.to_client.since(self.asked.to_client),
            allocations: 1_u64.saturating_sub(self.asked.allocations),
        };
        self.asked = Usage { to_peer: self.to_peer, to_client: self.to_client, allocations: 1 };
        usage
    }
}

impl Allocations {
    /// What was done since the last call. A user may come more than once.
    pub fn take_usage(&mut self) -> Vec<(Arc<User>, Usage)> {
        let mut taken: Vec<_> = std::mem::take(&mut self.ended.0).into_iter().collect();
        taken.reserve(self.used_count());
        self.drain_used(|allocation| {
            taken.push((Arc::clone(&allocation.grant.user), allocation.take_usage()));
        });
        taken
    }
}
