//! What an epoch of the control plane means for the data path, and how every shard goes over to it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use trunkline_turn::credentials::Credentials;
use trunkline_turn::ports::{PortTable, RelayBlock};
use trunkline_turn::quota::{Ledger, Quotas};
use trunkline_turn::{ClientPolicy, Config, Terms};
use trunkline_wire::NodeId;

use super::Shards;
use super::fleet::{Members, Strays};
use super::inbox::Command;

/// A whole configuration of the data path. All of it is in force, or none.
#[derive(Clone)]
pub struct Applied {
    /// Keys, peer policy and limits. The node and the realm are those of the start.
    pub config: Arc<Config>,
    /// Allocations at once of a user, an address and a key.
    pub quotas: Quotas,
    /// Which credentials are good.
    pub credentials: Arc<Credentials>,
    /// Which clients are served.
    pub clients: Arc<ClientPolicy>,
    /// Relay addresses and who owns their slices.
    pub blocks: Vec<RelayBlock>,
    /// Where the other servers take encapsulated packets.
    pub members: HashMap<NodeId, SocketAddr>,
    /// Refuse new allocations.
    pub draining: bool,
}

/// What one shard is handed.
#[derive(Clone)]
pub struct Change {
    /// For its TURN core.
    pub terms: Terms,
    /// For its outbox.
    pub members: Arc<Members>,
    /// For the first shard: the sockets that see strays, each in a place that it keeps.
    pub strays: Vec<Option<Arc<OwnedFd>>>,
}

/// The configuration in force, and what is made of it for all shards.
pub struct InForce {
    applied: Arc<Applied>,
    ports: Arc<PortTable>,
    ledger: Arc<Ledger>,
    strays: Strays,
}

impl InForce {
    /// What the shards start with.
    pub fn new(applied: Applied, ports: Arc<PortTable>, ledger: Arc<Ledger>, strays: Strays) -> Self {
        Self { applied: Arc::new(applied), ports, ledger, strays }
    }

    fn replace(&mut self, applied: Applied) {
        if applied.blocks != self.applied.blocks {
            self.ports = self.ports.successor(applied.blocks.clone());
        }
        self.ledger.set_quotas(applied.quotas);
        self.strays.follow(&self.ports);
        self.applied = Arc::new(applied);
    }

    /// The whole of it, for a shard.
    pub fn change(&self) -> Change {
        let applied = &self.applied;
        let terms = Terms {
            config: Arc::clone(&applied.config),
            credentials: Arc::clone(&applied.credentials),
            ports: Arc::clone(&self.ports),
            clients: Arc::clone(&applied.clients),
            draining: applied.draining,
        };
        let members = Arc::new(Members::new(&applied.members));
        Change { terms, members, strays: self.strays.sockets() }
    }
}

impl Shards {
    /// Puts a configuration in force on every shard, each switching between two packets. When this returns, all have.
    /// Live allocations go on, except those that it ends: of users whose credentials are gone, of clients no longer
    /// served, on ports no longer ours.
    pub async fn apply(&self, applied: Arc<Applied>) {
        self.amend(|current| *current = Arc::unwrap_or_clone(applied)).await;
    }

    /// As [`Shards::apply`], with what `change` makes of the configuration in force.
    pub async fn amend(&self, change: impl FnOnce(&mut Applied)) {
        for done in self.begin(change) {
            // A shard that ended meanwhile has nothing in force.
            drop(done.await);
        }
    }

    /// Tells every shard before any of them is waited for, so that a caller that goes away leaves none behind; the
    /// lock keeps two changes in the same order on all of them.
    fn begin(&self, change: impl FnOnce(&mut Applied)) -> Vec<oneshot::Receiver<()>> {
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let mut applied = (*in_force.applied).clone();
        change(&mut applied);
        in_force.replace(applied);
        let change = in_force.change();
        let tell = |inbox: &Arc<super::inbox::Inbox>| {
            let (done, is_done) = oneshot::channel();
            inbox.command(Command::Apply(Box::new(change.clone()), done));
            is_done
        };
        self.inboxes.iter().map(tell).collect()
    }

    /// The configuration in force, or about to be.
    pub fn applied(&self) -> Arc<Applied> {
        Arc::clone(&self.in_force().applied)
    }

    /// The slices of which any port is leased or reserved: address and `port >> SLICE_BITS`, in order. Once a
    /// configuration in which a slice is draining was applied, it does not come back here after it has gone.
    pub fn slices_in_use(&self) -> Vec<(IpAddr, usize)> {
        self.ports().slices_in_use()
    }

    /// Relay ports in use, of those that can be leased.
    pub fn port_usage(&self) -> (usize, usize) {
        self.ports().usage()
    }

    /// The relay ports as they are divided now.
    pub fn ports(&self) -> Arc<PortTable> {
        Arc::clone(&self.in_force().ports)
    }

    fn in_force(&self) -> std::sync::MutexGuard<'_, InForce> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shared by the handles of a node.
pub type SharedInForce = Arc<Mutex<InForce>>;
