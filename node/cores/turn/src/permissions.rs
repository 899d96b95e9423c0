//! CreatePermission and ChannelBind (RFC 8656 §10, §12).

use std::net::SocketAddr;

use trunkline_wire::channel_data::ChannelNumber;
use trunkline_wire::stun::{Attributes, ErrorCode};
use trunkline_wire::{AllocationId, Egress, Now};

use crate::credentials::Grant;
use crate::policy::PermittedIp;
use crate::reply::Request;
use crate::server::Server;

impl Server {
    /// All or nothing: one peer that cannot be permitted and none is.
    pub(crate) fn handle_create_permission(
        &mut self,
        request: &Request<'_>,
        attributes: &Attributes<'_>,
        grant: &Grant,
        egress: &mut Egress,
    ) {
        let result = match self.allocations.by_flow(&request.flow).map(|allocation| allocation.id) {
            None => Err(ErrorCode::AllocationMismatch),
            Some(_) if attributes.peer.is_none() => Err(ErrorCode::BadRequest),
            Some(id) => self.permit_all(request.now, id, attributes),
        };
        self.answer(request, egress, grant, result);
    }

    pub(crate) fn handle_channel_bind(
        &mut self,
        request: &Request<'_>,
        attributes: &Attributes<'_>,
        grant: &Grant,
        egress: &mut Egress,
    ) {
        let result = match self.allocations.by_flow(&request.flow).map(|allocation| allocation.id) {
            None => Err(ErrorCode::AllocationMismatch),
            Some(id) => match (ChannelNumber::requested(attributes), attributes.peer) {
                (Some(channel), Some(peer)) => self.bind_channel(request.now, id, channel, peer),
                _ => Err(ErrorCode::BadRequest),
            },
        };
        self.answer(request, egress, grant, result);
    }

    fn answer(
        &mut self,
        request: &Request<'_>,
        egress: &mut Egress,
        grant: &Grant,
        result: Result<(), ErrorCode>,
    ) {
        match result {
            Ok(()) => request.succeed(egress, &grant.key, |builder| builder),
            Err(code) => self.refuse(request, egress, &grant.key, code),
        }
    }

    fn permit_all(
        &mut self,
        now: Now,
        id: AllocationId,
        attributes: &Attributes<'_>,
    ) -> Result<(), ErrorCode> {
        let most = self.config.limits.permissions_max;
        let mut permitted: Vec<PermittedIp> = Vec::new();
        for peer in attributes.peers() {
            let ip = self.permit(id, peer)?;
            if !permitted.contains(&ip) {
                permitted.push(ip);
            }
            if permitted.len() > most {
                return Err(ErrorCode::InsufficientCapacity);
            }
        }
        self.install(now, id, &permitted)
    }

    fn bind_channel(
        &mut self,
        now: Now,
        id: AllocationId,
        channel: ChannelNumber,
        peer: SocketAddr,
    ) -> Result<(), ErrorCode> {
        let ip = self.permit(id, peer)?;
        let channels_max = self.config.limits.channels_max;
        let allocation = self.allocations.by_id(id).ok_or(ErrorCode::AllocationMismatch)?;
        if !allocation.has_binding(channel, peer) && allocation.channels() >= channels_max {
            allocation.sweep(now);
            if allocation.channels() >= channels_max {
                return Err(ErrorCode::InsufficientCapacity);
            }
        }
        if allocation.conflicts(now, channel, peer) {
            return Err(ErrorCode::BadRequest);
        }
        self.install(now, id, &[ip])?;
        let allocation = self.allocations.by_id(id).ok_or(ErrorCode::AllocationMismatch)?;
        allocation.bind(now, channel, ip.at(peer.port()));
        Ok(())
    }

    /// The policy first (403), then the family (443).
    fn permit(&mut self, id: AllocationId, peer: SocketAddr) -> Result<PermittedIp, ErrorCode> {
        let ip = self.config.policy.permit(peer.ip()).map_err(|_| ErrorCode::Forbidden)?;
        let allocation = self.allocations.by_id(id).ok_or(ErrorCode::AllocationMismatch)?;
        allocation.relay_towards(ip.ip()).map(|_| ip).ok_or(ErrorCode::PeerAddressFamilyMismatch)
    }

    /// Installs or refreshes permissions within the caps on how many and on how many new ones a second.
    fn install(&mut self, now: Now, id: AllocationId, permitted: &[PermittedIp]) -> Result<(), ErrorCode> {
        let limits = self.config.limits;
        let allocation = self.allocations.by_id(id).ok_or(ErrorCode::AllocationMismatch)?;
        let new = permitted.iter().filter(|ip| allocation.permission(now, ip.ip()).is_none()).count();
        if new > 0 && allocation.permissions().saturating_add(new) > limits.permissions_max {
            allocation.sweep(now);
            if allocation.permissions().saturating_add(new) > limits.permissions_max {
                return Err(ErrorCode::InsufficientCapacity);
            }
        }
        if !allocation.new_peers.take(now, limits.new_peers, u64::try_from(new).unwrap_or(u64::MAX)) {
            return Err(ErrorCode::InsufficientCapacity);
        }
        for ip in permitted {
            allocation.install_permission(now, *ip);
        }
        self.arm(now, id);
        Ok(())
    }
}
