//! Refresh (RFC 8656 §8): lengthens, shortens or ends an allocation, or one family of it.

use trunkline_wire::Egress;
use trunkline_wire::stun::{Attributes, ErrorCode, attribute};

use crate::config::LIFETIME_S_DEFAULT;
use crate::credentials::Grant;
use crate::reply::Request;
use crate::server::{CloseReason, Server};
use crate::sockets::RelaySockets;

impl Server {
    pub(crate) fn handle_refresh(
        &mut self,
        request: &Request<'_>,
        attributes: &Attributes<'_>,
        grant: &Grant,
        sockets: &mut dyn RelaySockets,
        egress: &mut Egress,
    ) {
        let lifetime_s = self.lifetime_s(attributes);
        let Some(allocation) = self.allocations.by_flow(&request.flow) else {
            return self.refuse(request, egress, &grant.key, ErrorCode::AllocationMismatch);
        };
        let now = request.now;
        let mut refreshed = 0_usize;
        for relay in allocation.relays_of(attributes.requested_family) {
            relay.expires_ns = now.after_s(lifetime_s.into());
            refreshed = refreshed.saturating_add(1);
        }
        let (id, expires_ns) = (allocation.id, allocation.expires_ns());
        if refreshed == 0 {
            return self.refuse(request, egress, &grant.key, ErrorCode::PeerAddressFamilyMismatch);
        }
        if now.reached(expires_ns) {
            self.close(id, CloseReason::Released, sockets);
        } else {
            self.close_expired_relays(now, id, sockets);
            self.arm(now, id);
        }
        request.succeed(egress, &grant.key, |builder| builder.u32(attribute::LIFETIME, lifetime_s));
    }

    /// What a LIFETIME attribute is granted: zero stays zero, else between the default and the maximum
    /// (RFC 8656 §7.2, §8.2).
    pub(crate) fn lifetime_s(&self, attributes: &Attributes<'_>) -> u32 {
        match attributes.lifetime_s {
            Some(0) => 0,
            Some(wanted) => wanted.min(self.config.limits.lifetime_s_max).max(LIFETIME_S_DEFAULT),
            None => LIFETIME_S_DEFAULT,
        }
    }
}
