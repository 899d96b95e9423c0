//! New terms for a server that runs: what they leave alone goes on, the rest ends before the next packet.

use std::sync::Arc;

use trunkline_wire::AllocationId;

use crate::allocation::Allocation;
use crate::config::Terms;
use crate::credentials::{Credentials, User};
use crate::ports::PortTable;
use crate::server::{CloseReason, Server};
use crate::sockets::RelaySockets;

impl Server {
    /// The terms in force.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms {
            config: Arc::clone(&self.config),
            credentials: Arc::clone(&self.credentials),
            ports: Arc::clone(&self.ports),
            clients: Arc::clone(self.gate.policy()),
            draining: self.draining,
        }
    }

    /// Goes over to these terms. Allocations end of users whose credentials are gone, of clients that are no longer
    /// served, and on ports that are no longer ours; permissions and channels end for peers that are denied now.
    pub fn apply(&mut self, terms: &Terms, sockets: &mut dyn RelaySockets) {
        let peers_changed = self.config.policy != terms.config.policy;
        let clients_changed = self.gate.set(&terms.clients);
        self.config = Arc::clone(&terms.config);
        self.credentials = Arc::clone(&terms.credentials);
        self.ports = Arc::clone(&terms.ports);
        self.draining = terms.draining;
        self.budget.set_rate(self.config.limits.unauthenticated);
        for (id, reason) in self.ended_by_terms(clients_changed) {
            self.close(id, reason, sockets);
        }
        if peers_changed {
            let policy = &self.config.policy;
            self.allocations.iter_mut().for_each(|allocation| allocation.repermit(policy));
        }
    }

    fn ended_by_terms(&mut self, clients_changed: bool) -> Vec<(AllocationId, CloseReason)> {
        let Self { allocations, credentials, ports, gate, .. } = self;
        let mut denied = |a: &Allocation| clients_changed && !gate.admits(a.flow.remote.ip());
        let mut reason = |a: &Allocation| match () {
            () if is_revoked(credentials, &a.grant.user) => Some(CloseReason::Revoked),
            () if has_lost_port(ports, a) => Some(CloseReason::PortLost),
            () if denied(a) => Some(CloseReason::ClientDenied),
            () => None,
        };
        allocations.iter().filter_map(|a| reason(a).map(|reason| (a.id, reason))).collect()
    }
}

fn is_revoked(credentials: &Credentials, user: &User) -> bool {
    let key_is_gone = user.key_id.as_ref().is_some_and(|key| !credentials.keys.contains_key(key));
    key_is_gone || credentials.revoked.contains(&user.username)
}

fn has_lost_port(ports: &PortTable, allocation: &Allocation) -> bool {
    allocation.relayed_addresses().any(|at| !ports.is_ours(at))
}
