//! What a set of options means: checked once, as a whole, before anything is opened.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use trunkline_control_plane::identity::LOCAL_NODE;
use trunkline_proto::fleet::v1::Settings;
use trunkline_turn::config::{LIFETIME_S_DEFAULT, Limits};
use trunkline_turn::credentials::Credentials;
use trunkline_turn::policer::{PolicerLimits, Rate};
use trunkline_turn::policy::{NeverPermitted, PeerPolicy};
use trunkline_turn::ports::{RELAY_PORT_MIN, RelayBlock, SLICE_BITS};
use trunkline_turn::quota::Quotas;
use trunkline_wire::NodeId;
use trunkline_wire::token::FleetKey;

use crate::options::{Fleet, Mode, Options, SliceLease};

/// What is wrong with a set of options.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Fault {
    /// No realm, no credentials (RFC 8489 §9.2).
    #[error("--realm is empty; give a short name such as \"trunkline\"")]
    RealmEmpty,
    /// Longer than clients take (RFC 8489 §14.9).
    #[error("--realm has {0} bytes; {REALM_BYTES_MAX} at most, up to {REALM_BYTES_SHORT} recommended")]
    RealmTooLong(usize),
    /// One without the other.
    #[error("{0} is given without {1}; a certificate and its private key come together")]
    HalfCertificate(&'static str, &'static str),
    /// Not where a server can listen.
    #[error(
        "{option} {port}: must be 1 to {highest} (where relay addresses are shared, the ports from {RELAY_PORT_MIN} on are relay ports)"
    )]
    BadPort {
        /// The option.
        option: &'static str,
        /// Its value.
        port: u16,
        /// The highest one there can be.
        highest: u16,
    },
    /// Both listen on TCP.
    #[error("--turn-port and --tls-port are both {0}; they must differ")]
    SamePort(u16),
    /// Threads are counted in a byte.
    #[error("--threads {0}: {THREADS_MAX} at most")]
    TooManyThreads(usize),
    /// Below what every allocation is given (RFC 8656 §7.2).
    #[error(
        "--max-lifetime {0}: at least {LIFETIME_S_DEFAULT} seconds, the default lifetime of an allocation"
    )]
    LifetimeTooShort(u32),
    /// Out of bounds.
    #[error("{option} {value}: must be {min} to {max}")]
    OutOfBounds {
        /// The option.
        option: &'static str,
        /// Its value.
        value: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// It means nothing to this command.
    #[error("{option} is an option of `trunkline {command}` alone")]
    OtherCommand {
        /// The option, or the table of the file.
        option: &'static str,
        /// The command that takes it.
        command: &'static str,
    },
    /// Nobody to take a configuration from.
    #[error("--control-plane is missing; name a replica, such as --control-plane https://10.0.0.5:7443")]
    NoControlPlane,
    /// Slices of an address that is wholly ours.
    #[error("{0} is both --relay-address and --shared-relay-address; an address is shared or it is not")]
    SharedAndOwn(IpAddr),
    /// Two passwords for one name.
    #[error("--user {0} is given twice")]
    UserTwice(String),
    /// The range is closed to everybody.
    #[error(
        "--allow-peer {0}: loopback, link-local (cloud metadata), multicast and reserved addresses are never peers, because they reach the server itself or its own network rather than another machine"
    )]
    NeverPermitted(ipnet::IpNet),
    /// Not whole slices.
    #[error(
        "slice {0} {1}-{2}: a slice is {SLICE_PORTS} ports that start at a multiple of {SLICE_PORTS}, from {RELAY_PORT_MIN} on (such as 10240-11263)"
    )]
    NotWholeSlices(IpAddr, u16, u16),
    /// Two owners for one port.
    #[error("slice {0} {1}-{2} overlaps another slice")]
    SliceTwice(IpAddr, u16, u16),
    /// An owner that nothing can be sent to.
    #[error("node {0} owns a slice but is not a member of the fleet")]
    UnknownOwner(NodeId),
    /// Two members of one name.
    #[error("node {0} is named twice in the fleet")]
    MemberTwice(NodeId),
}

impl Options {
    /// Checks that the options are those of a command, and everything that [`Options::check`] checks.
    ///
    /// # Errors
    /// The first [`Fault`].
    pub fn check_for(&self, mode: Mode) -> Result<(), Fault> {
        let given = [
            ("control_plane", "--control-plane", !self.control_plane.is_empty()),
            ("join", "--join", self.join.is_some()),
            ("encapsulation_address", "--encapsulation-address", self.encapsulation_address.is_some()),
            ("shared_relay_address", "--shared-relay-address", !self.shared_relay_address.is_empty()),
            ("json", "--json", self.json),
            ("fleet", "[fleet]", self.fleet.is_some()),
        ];
        let other = match mode {
            Mode::Up => Mode::Node.name(),
            Mode::Node => Mode::Up.name(),
        };
        if let Some((_, option, _)) = given.into_iter().find(|(field, _, is)| *is && mode.refuses(field)) {
            return Err(Fault::OtherCommand { option, command: other });
        }
        if mode == Mode::Node && self.control_plane.is_empty() {
            return Err(Fault::NoControlPlane);
        }
        self.check()
    }

    /// Checks everything that can be wrong without looking at the machine.
    ///
    /// # Errors
    /// The first [`Fault`].
    pub fn check(&self) -> Result<(), Fault> {
        self.check_realm()?;
        self.check_ports()?;
        self.check_limits()?;
        self.check_peers()?;
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => return Err(Fault::HalfCertificate("--tls-cert", "--tls-key")),
            (None, Some(_)) => return Err(Fault::HalfCertificate("--tls-key", "--tls-cert")),
            (Some(_), Some(_)) | (None, None) => {}
        }
        if let Some(twice) = self.relay_address.iter().find(|ip| self.shared_relay_address.contains(ip)) {
            return Err(Fault::SharedAndOwn(*twice));
        }
        let mut names = HashSet::new();
        match self.user.iter().find(|user| !names.insert(&user.name)) {
            Some(user) => Err(Fault::UserTwice(user.name.clone())),
            None => self.fleet.as_ref().map_or(Ok(()), check_fleet),
        }
    }

    fn check_realm(&self) -> Result<(), Fault> {
        match self.realm.len() {
            0 => return Err(Fault::RealmEmpty),
            bytes if bytes > REALM_BYTES_MAX => return Err(Fault::RealmTooLong(bytes)),
            bytes if bytes > REALM_BYTES_SHORT => tracing::warn!(
                bytes,
                "the realm is longer than {REALM_BYTES_SHORT} bytes: answers to unauthenticated requests are more than twice as large as the smallest request"
            ),
            _ => {}
        }
        Ok(())
    }

    fn check_ports(&self) -> Result<(), Fault> {
        let mut ports = vec![("--turn-port", self.turn_port), ("--tls-port", self.tls_port)];
        let encapsulation = self.fleet.as_ref().map(|fleet| fleet.encapsulation_address);
        let encapsulation = encapsulation.or(self.encapsulation_address);
        ports.extend(encapsulation.map(|address| ("encapsulation-address", address.port())));
        // Alone, a node passes over the ports that it listens on; in a fleet they may lie in another's slice.
        let is_shared = self.fleet.is_some() || !self.shared_relay_address.is_empty();
        let highest = if is_shared { RELAY_PORT_MIN - 1 } else { u16::MAX };
        match ports.into_iter().find(|(_, port)| !(1..=highest).contains(port)) {
            Some((option, port)) => Err(Fault::BadPort { option, port, highest }),
            None if self.turn_port == self.tls_port => Err(Fault::SamePort(self.turn_port)),
            None => Ok(()),
        }
    }

    fn check_limits(&self) -> Result<(), Fault> {
        if self.threads > THREADS_MAX {
            return Err(Fault::TooManyThreads(self.threads));
        }
        if self.max_lifetime < LIFETIME_S_DEFAULT {
            return Err(Fault::LifetimeTooShort(self.max_lifetime));
        }
        let bounds = [
            ("--max-permissions", self.max_permissions as u64, 1, 65_536),
            ("--max-channels", self.max_channels as u64, 0, 16_384),
            ("--max-allocations", self.max_allocations as u64, 1, 10_000_000),
            ("--nonce-lifetime", self.nonce_lifetime, 30, 30 * 86_400),
            ("--grace", self.grace, 0, 30 * 86_400),
        ];
        match bounds.into_iter().find(|(_, value, min, max)| !(*min..=*max).contains(value)) {
            Some((option, value, min, max)) => Err(Fault::OutOfBounds { option, value, min, max }),
            None => Ok(()),
        }
    }

    /// Threads that relay.
    #[must_use]
    pub fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX),
            threads => threads,
        }
    }

    /// Bounds of an allocation and of a shard: the fleet's, where they are not zero, else the options.
    #[must_use]
    pub fn limits(&self, settings: &Settings) -> Limits {
        let (bytes, packets) = (
            over(settings.max_bandwidth_bytes_per_s, self.max_bandwidth),
            over(settings.max_packets_per_s, self.max_packet_rate),
        );
        Limits {
            allocations_max: self.max_allocations,
            lifetime_s_max: over(settings.max_lifetime_s, self.max_lifetime),
            nonce_lifetime_s: self.nonce_lifetime,
            permissions_max: self.max_permissions,
            channels_max: self.max_channels,
            new_peers: rate(self.new_peers_per_second, self.new_peers_per_second.saturating_mul(6).max(64)),
            policer: PolicerLimits {
                // A fifth of a second, and room for the largest datagram twice.
                bytes: rate(bytes, (bytes / 5).max(131_072)),
                packets: rate(packets, (packets / 5).max(64)),
            },
            unauthenticated: rate(self.unauthenticated_rate, self.unauthenticated_rate.saturating_mul(4)),
        }
    }

    /// Allocations at once of a user, an address and a key, chosen as in [`Options::limits`].
    #[must_use]
    pub fn quotas(&self, settings: &Settings) -> Quotas {
        Quotas {
            per_user: over(settings.user_quota, self.user_quota),
            per_address: over(settings.address_quota, self.address_quota),
            per_key: over(settings.key_quota, self.key_quota),
        }
    }

    /// Credentials that options give; keys come from the store.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        Credentials {
            static_secret: self.static_auth_secret.as_ref().map(|secret| secret.0.clone()),
            users: self.user.iter().map(|user| (user.name.clone(), user.password.clone())).collect(),
            ..Credentials::default()
        }
    }

    /// The name of a server that is its own control plane.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.fleet.as_ref().map_or(LOCAL_NODE, |fleet| fleet.node.0)
    }

    /// Relay addresses of which ports are leased to this server by the `[fleet]` table.
    #[must_use]
    pub fn leased_addresses(&self) -> Vec<IpAddr> {
        let node = self.node();
        let slices = self.fleet.iter().flat_map(|fleet| &fleet.slices);
        slices.filter(|slice| slice.node.0 == node).map(|slice| slice.address).collect()
    }

    /// The slice table: addresses in the fleet's slices as leased there, `relay_addresses` besides them wholly ours.
    #[must_use]
    pub fn relay_blocks(&self, relay_addresses: &[IpAddr]) -> Vec<RelayBlock> {
        let slices: &[SliceLease] = self.fleet.as_ref().map_or(&[], |fleet| &fleet.slices);
        let mut blocks: Vec<RelayBlock> = vec![];
        for slice in slices {
            let at = blocks.iter().position(|block| block.ip == slice.address).unwrap_or_else(|| {
                blocks.push(RelayBlock::unowned(slice.address));
                blocks.len() - 1
            });
            for owner in &mut blocks[at].owners[slice_indexes(slice)] {
                *owner = Some(slice.node.0);
            }
        }
        let leased: HashSet<IpAddr> = slices.iter().map(|slice| slice.address).collect();
        let ours = relay_addresses.iter().filter(|ip| !leased.contains(ip));
        blocks.extend(ours.map(|ip| RelayBlock::owned_by(*ip, self.node())));
        blocks
    }

    /// Checks the peer ranges against what can never be permitted.
    fn check_peers(&self) -> Result<(), Fault> {
        let allow = self.allow_peer.iter().map(|range| range.0).collect();
        let policy = PeerPolicy::new([], [], allow, vec![]);
        policy.map(drop).map_err(|NeverPermitted(net)| Fault::NeverPermitted(net))
    }

    /// Where the other servers take packets that are theirs.
    #[must_use]
    pub fn members(&self) -> HashMap<NodeId, SocketAddr> {
        let members = self.fleet.iter().flat_map(|fleet| &fleet.members);
        members.map(|member| (member.node.0, member.encapsulation_address)).collect()
    }
}

fn check_fleet(fleet: &Fleet) -> Result<(), Fault> {
    let mut nodes = HashSet::from([fleet.node.0]);
    if let Some(twice) = fleet.members.iter().find(|member| !nodes.insert(member.node.0)) {
        return Err(Fault::MemberTwice(twice.node.0));
    }
    let mut taken = HashSet::new();
    for slice in &fleet.slices {
        let (address, first, last) = (slice.address, slice.first_port, slice.last_port);
        let is_whole = first % SLICE_PORTS == 0 && last % SLICE_PORTS == SLICE_PORTS - 1 && first < last;
        if !is_whole || first < RELAY_PORT_MIN {
            return Err(Fault::NotWholeSlices(address, first, last));
        }
        if !slice_indexes(slice).all(|index| taken.insert((address, index))) {
            return Err(Fault::SliceTwice(address, first, last));
        }
        if !nodes.contains(&slice.node.0) {
            return Err(Fault::UnknownOwner(slice.node.0));
        }
    }
    Ok(())
}

fn slice_indexes(slice: &SliceLease) -> std::ops::RangeInclusive<usize> {
    usize::from(slice.first_port >> SLICE_BITS)..=usize::from(slice.last_port >> SLICE_BITS)
}

impl Fleet {
    /// The key of the table, which seals tokens in the place of the control plane's.
    #[must_use]
    pub const fn sealing_key(&self) -> FleetKey {
        FleetKey { id: STATIC_FLEET_KEY_ID, secret: self.key.0 }
    }
}

/// A setting, where it is set.
fn over<T: Default + PartialEq>(setting: T, option: T) -> T {
    if setting == T::default() { option } else { setting }
}

fn rate(per_s: u64, burst: u64) -> Rate {
    if per_s == 0 { Rate::UNLIMITED } else { Rate { per_s, burst } }
}

/// REALM is below 128 characters (RFC 8489 §14.9).
const REALM_BYTES_MAX: usize = 128;
/// A 401 stays within twice the smallest Allocate up to here.
const REALM_BYTES_SHORT: usize = 12;
/// A shard is one thread, and more than processors does not help.
const THREADS_MAX: usize = 64;
const SLICE_PORTS: u16 = 1 << SLICE_BITS;
/// Names the key of the `[fleet]` table in tokens; a node's own key has another id.
const STATIC_FLEET_KEY_ID: u8 = 2;

#[cfg(test)]
mod tests;
