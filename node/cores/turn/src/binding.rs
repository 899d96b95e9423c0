//! Binding (RFC 8489 §3): tells a client its address as we see it.

use trunkline_wire::Egress;
use trunkline_wire::stun::{Attributes, Builder, attribute};

use crate::reply::Request;
use crate::server::Server;

impl Server {
    pub(crate) fn handle_binding(
        &mut self,
        request: &Request<'_>,
        attributes: &Attributes<'_>,
        egress: &mut Egress,
    ) {
        if !attributes.unknown().is_empty() {
            return self.refuse_unknown(request, egress, None, attributes.unknown());
        }
        let mapped = request.flow.remote;
        self.succeed_unproven(request, egress, |builder: Builder<'_>| {
            builder.xor_address(attribute::XOR_MAPPED_ADDRESS, mapped)
        });
    }
}
