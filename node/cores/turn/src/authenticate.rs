//! The long-term credential mechanism (RFC 8489 §9.2.4), without any state for who is not authenticated.

use std::sync::Arc;

use trunkline_wire::Egress;
use trunkline_wire::stun::{Attributes, ErrorCode, Method};
use trunkline_wire::token::Nonce;

use crate::credentials::Grant;
use crate::reply::Request;
use crate::server::Server;

impl Server {
    /// Who signed the request. `None`: it was answered (or its budget is used up) and is done with.
    pub(crate) fn authenticate(
        &mut self,
        request: &Request<'_>,
        attributes: &Attributes<'_>,
        egress: &mut Egress,
    ) -> Option<Grant> {
        if !attributes.has_integrity() {
            self.challenge(request, egress, ErrorCode::Unauthenticated);
            return None;
        }
        let (Some(username), Some(realm), Some(nonce)) =
            (attributes.username, attributes.realm, attributes.nonce)
        else {
            self.refuse_bad_request(request, egress);
            return None;
        };
        let (config, client) = (Arc::clone(&self.config), request.flow.remote);
        if Nonce::open(&config.keyring, nonce, client, request.now, config.limits.nonce_lifetime_s).is_none()
        {
            self.challenge(request, egress, ErrorCode::StaleNonce);
            return None;
        }
        self.budget.replenish(client.ip());
        let grant = self
            .grant(request, attributes, username)
            .filter(|grant| realm == config.realm.as_bytes() && attributes.verify(&grant.key));
        let Some(grant) = grant else {
            self.challenge(request, egress, ErrorCode::Unauthenticated);
            return None;
        };
        if self.belongs_to_another(request, &grant) {
            self.refuse(request, egress, &grant.key, ErrorCode::WrongCredentials);
            return None;
        }
        if !attributes.unknown().is_empty() {
            self.refuse_unknown(request, egress, Some(&grant.key), attributes.unknown());
            return None;
        }
        Some(grant)
    }

    /// The user behind a username. A live allocation keeps its user's key, so that a credential's expiry ends new
    /// refreshes and nothing else.
    fn grant(
        &mut self,
        request: &Request<'_>,
        attributes: &Attributes<'_>,
        username: &[u8],
    ) -> Option<Grant> {
        let held = self.allocations.by_flow(&request.flow).map(|allocation| &allocation.grant);
        if let Some(held) = held.filter(|held| held.user.username.as_bytes() == username) {
            let extends =
                request.message.method() == Some(Method::Refresh) && attributes.lifetime_s != Some(0);
            return (!extends || !held.user.expired(request.now)).then(|| held.clone());
        }
        self.credentials.lookup(username, &self.config.realm, request.now).ok()
    }

    /// The same 5-tuple with another username: 441 (RFC 8656 §7.2).
    fn belongs_to_another(&mut self, request: &Request<'_>, grant: &Grant) -> bool {
        self.allocations
            .by_flow(&request.flow)
            .is_some_and(|allocation| allocation.grant.user.username != grant.user.username)
    }
}
