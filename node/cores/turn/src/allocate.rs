//! Allocate (RFC 8656 §7): a relayed transport address for a client, of one family or both.

use std::net::IpAddr;

use trunkline_wire::stun::attribute::{FAMILY_IPV4, FAMILY_IPV6, PROTOCOL_UDP};
use trunkline_wire::stun::{Attributes, Builder, ErrorCode, EvenPort, attribute};
use trunkline_wire::token::ReservationToken;
use trunkline_wire::{ClientFlow, Egress, NodeId, Now};

use crate::allocation::{Allocation, Answer, NewAllocation, Relay};
use crate::credentials::Grant;
use crate::ports::{Parity, PortLease, RESERVATION_S};
use crate::reply::Request;
use crate::server::{Event, Server};
use crate::sockets::{OpenError, RelaySockets};
use crate::timers::Timer;

/// What an Allocate asks for, once its attributes make sense together.
#[derive(Clone, Copy)]
enum Wanted {
    /// One address of a family, with an even port or not.
    One { family: Family, even_port: Option<EvenPort> },
    /// IPv4, and IPv6 if possible.
    Both { even: bool },
    /// The port kept under a token.
    Reserved { token: [u8; 8] },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// Ports that turn out to be used by something else on this machine are tried this many times.
const OPEN_TRIES: usize = 16;

/// A relay and, where R = 1 asked for it, the token of the next port.
struct Opened {
    relay: Relay,
    reservation_token: Option<[u8; 8]>,
}

impl Server {
    pub(crate) fn handle_allocate(
        &mut self,
        request: &Request<'_>,
        attributes: &Attributes<'_>,
        grant: Grant,
        sockets: &mut dyn RelaySockets,
        egress: &mut Egress,
    ) {
        if let Some(allocation) = self.allocations.by_flow(&request.flow) {
            if allocation.answer.transaction == request.transaction() {
                return succeed(request, egress, allocation, &self.config.software);
            }
            return self.refuse(request, egress, &grant.key, ErrorCode::AllocationMismatch);
        }
        let key = grant.key.clone();
        if let Err(code) = self.allocate(request, attributes, grant, sockets) {
            return self.refuse(request, egress, &key, code);
        }
        if let Some(allocation) = self.allocations.by_flow(&request.flow) {
            succeed(request, egress, allocation, &self.config.software);
        }
    }

    fn allocate(
        &mut self,
        request: &Request<'_>,
        attributes: &Attributes<'_>,
        grant: Grant,
        sockets: &mut dyn RelaySockets,
    ) -> Result<(), ErrorCode> {
        let wanted = Wanted::from_attributes(attributes)?;
        if self.draining || self.allocations.len() >= self.config.limits.allocations_max {
            return Err(ErrorCode::InsufficientCapacity);
        }
        let charge = self
            .shared
            .ledger
            .charge(&grant.user, request.flow.remote.ip())
            .map_err(|_| ErrorCode::AllocationQuotaReached)?;
        // A lifetime of zero asks for an allocation that is over at once; it gets the default (RFC 8656 §7.2).
        let lifetime_s = self.lifetime_s(attributes).max(crate::config::LIFETIME_S_DEFAULT);
        let mut answer = Answer {
            transaction: request.transaction(),
            lifetime_s,
            reservation_token: None,
            address_error: None,
        };
        let relays = self.open_wanted(request, wanted, &grant, sockets, &mut answer)?;
        let (flow, now) = (request.flow, request.now);
        let id = self.allocations.insert(now, NewAllocation { flow, grant, relays, answer, charge });
        self.counters.allocations_opened = self.counters.allocations_opened.wrapping_add(1);
        self.arm(now, id);
        self.push_event(Event::Opened { id, transport: flow.transport });
        Ok(())
    }

    fn open_wanted(
        &mut self,
        request: &Request<'_>,
        wanted: Wanted,
        grant: &Grant,
        sockets: &mut dyn RelaySockets,
        answer: &mut Answer,
    ) -> Result<[Option<Relay>; 2], ErrorCode> {
        let expires_ns = request.now.after_s(answer.lifetime_s.into());
        match wanted {
            Wanted::Reserved { token } => {
                let relay = self.open_reserved(request.now, token, grant, expires_ns, sockets)?;
                Ok(if relay.lease.at().is_ipv4() { [Some(relay), None] } else { [None, Some(relay)] })
            }
            Wanted::One { family, even_port } => {
                let opened = self.open_relay(request, family, even_port, grant, expires_ns, sockets)?;
                answer.reservation_token = opened.reservation_token;
                Ok(match family {
                    Family::V4 => [Some(opened.relay), None],
                    Family::V6 => [None, Some(opened.relay)],
                })
            }
            Wanted::Both { even } => {
                let even_port = even.then_some(EvenPort::Even);
                let v4 = self.open_relay(request, Family::V4, even_port, grant, expires_ns, sockets);
                let v6 = self.open_relay(request, Family::V6, even_port, grant, expires_ns, sockets);
                answer.address_error = match (&v4, &v6) {
                    (Err(code), Err(_)) => return Err(*code),
                    (Err(code), Ok(_)) => Some((FAMILY_IPV4, *code)),
                    (Ok(_), Err(code)) => Some((FAMILY_IPV6, *code)),
                    (Ok(_), Ok(_)) => None,
                };
                Ok([v4.ok().map(|opened| opened.relay), v6.ok().map(|opened| opened.relay)])
            }
        }
    }

    fn open_relay(
        &mut self,
        request: &Request<'_>,
        family: Family,
        even_port: Option<EvenPort>,
        grant: &Grant,
        expires_ns: u64,
        sockets: &mut dyn RelaySockets,
    ) -> Result<Opened, ErrorCode> {
        let ips = self.relay_ips(family, &request.flow);
        if ips.is_empty() {
            return Err(ErrorCode::AddressFamilyNotSupported);
        }
        let parity = if even_port.is_some() { Parity::Even } else { Parity::Any };
        for _ in 0..OPEN_TRIES {
            let random = self.entropy.next_u64();
            let lease = ips
                .iter()
                .find_map(|ip| self.ports.lease(*ip, self.shard, parity, random))
                .ok_or(ErrorCode::InsufficientCapacity)?;
            let next = match even_port {
                Some(EvenPort::EvenAndNext) => match self.lease_next(&lease) {
                    Some(next) => Some(next),
                    None => continue,
                },
                Some(EvenPort::Even) | None => None,
            };
            match sockets.open(lease.at(), self.allocations.next_id()) {
                Ok(socket) => {
                    let relay = Relay { socket, lease, expires_ns };
                    let Some(next) = next else { return Ok(Opened { relay, reservation_token: None }) };
                    let reservation_token = self.keep(request.now, next, grant);
                    if reservation_token.is_some() {
                        return Ok(Opened { relay, reservation_token });
                    }
                    sockets.close(socket);
                }
                Err(OpenError::InUse) => {}
                Err(OpenError::Exhausted) => return Err(ErrorCode::InsufficientCapacity),
            }
        }
        Err(ErrorCode::InsufficientCapacity)
    }

    fn open_reserved(
        &mut self,
        now: Now,
        token: [u8; 8],
        grant: &Grant,
        expires_ns: u64,
        sockets: &mut dyn RelaySockets,
    ) -> Result<Relay, ErrorCode> {
        let lease = ReservationToken::open(&self.config.keyring, token)
            .and_then(|_| self.shared.reservations.redeem(now, token, &grant.user.username))
            .filter(|lease| self.ports.is_ours(lease.at()))
            .ok_or(ErrorCode::InsufficientCapacity)?;
        lease.move_to(self.shard);
        let socket = sockets
            .open(lease.at(), self.allocations.next_id())
            .map_err(|_| ErrorCode::InsufficientCapacity)?;
        Ok(Relay { socket, lease, expires_ns })
    }

    /// The port behind an even one.
    fn lease_next(&self, lease: &PortLease) -> Option<PortLease> {
        let mut next = lease.at();
        next.set_port(next.port().checked_add(1)?);
        self.ports.lease_exactly(next, self.shard)
    }

    fn keep(&mut self, now: Now, lease: PortLease, grant: &Grant) -> Option<[u8; 8]> {
        let node: NodeId = self.config.node;
        let token = ReservationToken { node, port: lease.at().port() }.seal(&self.config.keyring);
        let username = grant.user.username.clone();
        let kept = self.shared.reservations.keep(now, token, lease, username);
        if kept {
            self.timers.arm(now.after_s(RESERVATION_S), Timer::Reservation);
        }
        kept.then_some(token)
    }

    /// The relay addresses of a family: the one the client talks to first, if it is one.
    fn relay_ips(&self, family: Family, flow: &ClientFlow) -> Vec<IpAddr> {
        let ours = self.listeners.get(usize::from(flow.listener.0)).map(|listener| listener.ip());
        let mut ips: Vec<IpAddr> =
            self.ports.ips().filter(|ip| ip.is_ipv4() == (family == Family::V4)).collect();
        if let Some(place) = ips.iter().position(|ip| Some(*ip) == ours) {
            ips.swap(0, place);
        }
        ips
    }
}

impl Wanted {
    fn from_attributes(attributes: &Attributes<'_>) -> Result<Self, ErrorCode> {
        match attributes.requested_transport {
            None => return Err(ErrorCode::BadRequest),
            Some(PROTOCOL_UDP) => {}
            Some(_) => return Err(ErrorCode::UnsupportedTransportProtocol),
        }
        let (family, additional) = (attributes.requested_family, attributes.additional_family);
        let even_port = attributes.even_port;
        if let Some(token) = attributes.reservation_token {
            let alone = even_port.is_none() && family.is_none() && additional.is_none();
            return if alone { Ok(Self::Reserved { token }) } else { Err(ErrorCode::BadRequest) };
        }
        match (family, additional) {
            (Some(_), Some(_)) => Err(ErrorCode::BadRequest),
            (None, Some(FAMILY_IPV6)) if even_port == Some(EvenPort::EvenAndNext) => {
                Err(ErrorCode::BadRequest)
            }
            (None, Some(FAMILY_IPV6)) => Ok(Self::Both { even: even_port.is_some() }),
            (None, Some(_)) => Err(ErrorCode::BadRequest),
            (None | Some(FAMILY_IPV4), None) => Ok(Self::One { family: Family::V4, even_port }),
            (Some(FAMILY_IPV6), None) => Ok(Self::One { family: Family::V6, even_port }),
            (Some(_), None) => Err(ErrorCode::AddressFamilyNotSupported),
        }
    }
}

/// The success of an Allocate, the same for the first time and for a retransmission.
fn succeed(request: &Request<'_>, egress: &mut Egress, allocation: &Allocation, software: &str) {
    let answer = allocation.answer;
    let relays = allocation.relays.iter().flatten().map(|relay| relay.lease.at());
    request.succeed(egress, &allocation.grant.key, |builder: Builder<'_>| {
        let mut builder = builder;
        for at in relays {
            builder = builder.xor_address(attribute::XOR_RELAYED_ADDRESS, at);
        }
        if let Some((family, code)) = answer.address_error {
            builder = builder.address_error_code(family, code);
        }
        builder = builder.u32(attribute::LIFETIME, answer.lifetime_s);
        if let Some(token) = answer.reservation_token {
            builder = builder.attribute(attribute::RESERVATION_TOKEN, &token);
        }
        builder = builder.xor_address(attribute::XOR_MAPPED_ADDRESS, allocation.flow.remote);
        if software.is_empty() {
            builder
        } else {
            builder.attribute(attribute::SOFTWARE, software.as_bytes())
        }
    });
}
