//! What a configuration of the control plane means on this machine: the fleet's settings, and this machine's options.
//!
//! Peers are allowed and denied by both; a limit of the settings wins over the option unless it is zero; credentials
//! that options give are good besides the fleet's keys.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::IpNet;
use trunkline_control_plane::records::node_id;
use trunkline_proto::fleet::v1 as fleet;
use trunkline_proto::fleet::v1::slice::State;
use trunkline_turn::client_policy::{AutonomousSystems, ClientRules};
use trunkline_turn::credentials::{Credentials, Secret};
use trunkline_turn::policy::{NeverPermitted, PeerPolicy};
use trunkline_turn::ports::{RELAY_PORT_MIN, RelayBlock, SLICE_BITS, SLICES};
use trunkline_turn::{ClientPolicy, Config};
use trunkline_wire::NodeId;
use trunkline_wire::token::{FleetKey, Keyring};

use crate::options::Options;
use crate::places::Places;
use crate::shard::Applied;

/// A configuration that this server cannot run with: the field, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {fault}")]
pub struct Unusable {
    /// "settings.policy.peer_allow".
    pub field: &'static str,
    /// In words.
    pub fault: String,
}

/// What this machine adds to every configuration.
pub struct Machine {
    /// The command line and the file.
    pub options: Options,
    /// This server's name in its tokens.
    pub node: NodeId,
    /// This server's name in the control plane: the same, but for a `[fleet]` table, which the control plane of
    /// `trunkline up` knows nothing of.
    pub member: NodeId,
    /// Its addresses.
    pub places: Places,
    /// Whose addresses are whose.
    pub systems: Option<Arc<dyn AutonomousSystems>>,
    /// Set once the process ends: no new allocations, whatever a configuration says.
    pub ending: Arc<AtomicBool>,
}

impl Machine {
    /// What the shards are given.
    ///
    /// # Errors
    /// [`Unusable`] names the field of the configuration.
    pub fn applied(&self, configuration: &fleet::Configuration) -> Result<Applied, Unusable> {
        let nothing = fleet::Settings::default();
        let settings = configuration.settings.as_ref().unwrap_or(&nothing);
        let blocks = self.blocks(configuration)?;
        let config = Config {
            node: self.node,
            realm: self.options.realm.clone(),
            software: format!("Trunkline {}", env!("CARGO_PKG_VERSION")),
            keyring: self.keyring(configuration)?,
            policy: self.peers(configuration, settings, &blocks)?,
            limits: self.options.limits(settings),
        };
        Ok(Applied {
            config: Arc::new(config),
            quotas: self.options.quotas(settings),
            credentials: Arc::new(self.credentials(configuration)),
            clients: Arc::new(self.clients(settings)?),
            blocks,
            members: self.members(configuration)?,
            draining: configuration.draining || self.ending.load(Ordering::Relaxed),
        })
    }

    fn keyring(&self, configuration: &fleet::Configuration) -> Result<Keyring, Unusable> {
        if let Some(table) = &self.options.fleet {
            return Ok(Keyring::new(table.sealing_key(), vec![]));
        }
        let keys = configuration.fleet_keys.iter().flat_map(|keys| &keys.keys).map(fleet_key);
        let mut keys = keys.collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(Unusable { field: "fleet_keys", fault: "there is none to seal with".to_owned() });
        }
        Ok(Keyring::new(keys.remove(0), keys))
    }

    fn credentials(&self, configuration: &fleet::Configuration) -> Credentials {
        let keys = configuration.keys.iter().map(|key| (key.id.clone(), Secret::new(key.secret.clone())));
        let revoked = configuration.revocations.iter().map(|revocation| revocation.username.clone());
        Credentials { keys: keys.collect(), revoked: revoked.collect(), ..self.options.credentials() }
    }

    fn peers(
        &self,
        configuration: &fleet::Configuration,
        settings: &fleet::Settings,
        blocks: &[RelayBlock],
    ) -> Result<PeerPolicy, Unusable> {
        let of_members = configuration.members.iter().flat_map(|member| &member.host_addresses);
        let mut own = all::<IpAddr>("members.host_addresses", of_members)?;
        own.extend(self.members(configuration)?.values().map(SocketAddr::ip));
        own.extend(&self.places.machine);
        own.extend(&self.places.service);
        let policy = settings.policy.clone().unwrap_or_default();
        let ranges = |field, texts: &[String], options: &[crate::options::PeerRange]| {
            let mut ranges = all::<IpNet>(field, texts)?;
            ranges.extend(options.iter().map(|range| range.0));
            Ok(ranges)
        };
        let allow = ranges("settings.policy.peer_allow", &policy.peer_allow, &self.options.allow_peer)?;
        let deny = ranges("settings.policy.peer_deny", &policy.peer_deny, &self.options.deny_peer)?;
        PeerPolicy::new(blocks.iter().map(|block| block.ip), own, allow, deny).map_err(
            |NeverPermitted(net)| Unusable {
                field: "settings.policy.peer_allow",
                fault: format!("{net} is never permitted"),
            },
        )
    }

    fn clients(&self, settings: &fleet::Settings) -> Result<ClientPolicy, Unusable> {
        let Some(policy) = &settings.policy else { return Ok(ClientPolicy::default()) };
        let rules = ClientRules {
            allow: all("settings.policy.client_allow", &policy.client_allow)?,
            deny: all("settings.policy.client_deny", &policy.client_deny)?,
            allow_asn: policy.client_allow_asn.clone(),
            deny_asn: policy.client_deny_asn.clone(),
        };
        Ok(ClientPolicy::new(rules, self.systems.clone()))
    }

    fn members(&self, configuration: &fleet::Configuration) -> Result<HashMap<NodeId, SocketAddr>, Unusable> {
        if self.options.fleet.is_some() {
            return Ok(self.options.members());
        }
        let mut members = HashMap::new();
        for member in configuration.members.iter().filter(|member| !member.encapsulation_address.is_empty()) {
            let node = name("members.node", member.node.as_ref())?;
            let address = one("members.encapsulation_address", &member.encapsulation_address)?;
            if node != self.node {
                members.insert(node, address);
            }
        }
        Ok(members)
    }

    /// The slice table: shared addresses as leased there, this machine's own addresses wholly ours.
    fn blocks(&self, configuration: &fleet::Configuration) -> Result<Vec<RelayBlock>, Unusable> {
        if self.options.fleet.is_some() {
            return Ok(self.options.relay_blocks(&self.places.relay));
        }
        let shared: HashSet<IpAddr> = self.places.shared.iter().copied().collect();
        let mut blocks: BTreeMap<IpAddr, RelayBlock> =
            shared.iter().map(|ip| (*ip, RelayBlock::unowned(*ip))).collect();
        for slice in &configuration.slices {
            let address = one::<IpAddr>("slices.address", &slice.address)?;
            let block = blocks.entry(address).or_insert_with(|| RelayBlock::unowned(address));
            self.lease(block, slice)?;
        }
        for ip in &self.places.relay {
            blocks.insert(*ip, RelayBlock::owned_by(*ip, self.node));
        }
        Ok(blocks.into_values().collect())
    }

    fn lease(&self, block: &mut RelayBlock, slice: &fleet::Slice) -> Result<(), Unusable> {
        let wrong = |fault: String| Unusable { field: "slices.index", fault };
        let index = usize::try_from(slice.index).unwrap_or(SLICES);
        let first = usize::from(RELAY_PORT_MIN >> SLICE_BITS);
        let place = block.owners.get_mut(index).filter(|_| index >= first);
        let place =
            place.ok_or_else(|| wrong(format!("{} is not {first} to {}", slice.index, SLICES - 1)))?;
        let is_owned = matches!(slice.state(), State::Owned | State::Draining);
        *place = if is_owned { Some(name("slices.owner", slice.owner.as_ref())?) } else { None };
        if let Some(draining) = block.draining.get_mut(index) {
            *draining = slice.state() == State::Draining;
        }
        let is_ours = *place == Some(self.node);
        if is_ours && !self.places.shared.contains(&block.ip) {
            // An address that is not here cannot be bound.
            *place = None;
            tracing::warn!(address = %block.ip, "a slice of an address that is not --shared-relay-address was leased");
        }
        Ok(())
    }
}

fn fleet_key(key: &fleet::FleetKey) -> Result<FleetKey, Unusable> {
    let wrong = |fault: &str| Unusable { field: "fleet_keys", fault: fault.to_owned() };
    let id = u8::try_from(key.id).map_err(|_| wrong("an id is above 255"))?;
    let secret = <[u8; 16]>::try_from(&key.secret[..]).map_err(|_| wrong("a secret has not 16 bytes"))?;
    Ok(FleetKey { id, secret })
}

fn name(field: &'static str, node: Option<&fleet::NodeId>) -> Result<NodeId, Unusable> {
    node.and_then(node_id).ok_or_else(|| Unusable { field, fault: "it is missing or above 65535".to_owned() })
}

fn one<T: FromStr<Err: Display>>(field: &'static str, text: &str) -> Result<T, Unusable> {
    text.parse().map_err(|error| Unusable { field, fault: format!("{text:?}: {error}") })
}

fn all<'a, T: FromStr<Err: Display>>(
    field: &'static str,
    texts: impl IntoIterator<Item = &'a String>,
) -> Result<Vec<T>, Unusable> {
    texts.into_iter().map(|text| one(field, text)).collect()
}

#[cfg(test)]
mod tests;
