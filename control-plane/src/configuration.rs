//! What a server is told: built from the state, sent as differences, checked by a digest.
//!
//! Lists are in the order of their names in a whole configuration, so the same state gives the same bytes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use prost::Message;
use sha2::{Digest, Sha256};
use trunkline_proto::fleet::v1::slice::State as SliceState;
use trunkline_proto::fleet::v1::{
    Configuration, Epoch, FleetKey, FleetKeys, Member, NodeId as NodeMessage, Revocation, Settings, Slice,
    SteeringTable, TurnKey,
};
use trunkline_proto::store::v1::TableRecord;
use trunkline_wire::NodeId;

use crate::records::{key, node_id, node_message};
use crate::sealing::{Sealing, SealingError};
use crate::state::State;

mod keys;

/// Why a configuration is not put in force; each names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An older one, or the same again.
    #[error("epoch: {} is not above {}, which is in force", text(*.offered), text(*.current))]
    NotNewer {
        /// What came.
        offered: Epoch,
        /// What there is.
        current: Epoch,
    },
    /// Differences to something else.
    #[error("base: the differences are to an epoch that is not in force here")]
    OtherBase,
    /// Something was lost on the way.
    #[error("digest: the configuration is not what the control plane sent")]
    WrongDigest,
    /// A field that means nothing.
    #[error("{field}: {fault}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        fault: String,
    },
}

/// "3.17": generation and counter.
#[must_use]
pub fn text(epoch: Epoch) -> String {
    format!("{}.{}", epoch.generation, epoch.counter)
}

/// Epochs are ordered by generation, then counter.
#[must_use]
pub fn is_newer(epoch: Epoch, than: Epoch) -> bool {
    (epoch.generation, epoch.counter) > (than.generation, than.counter)
}

/// Everything that `node` is told in this state, its digest included.
///
/// # Errors
/// A secret of the store that cannot be opened.
pub fn build(state: &State, sealing: &Sealing, node: NodeId) -> Result<Configuration, SealingError> {
    let mut configuration = shared(state, sealing, node.site)?;
    personalise(&mut configuration, state, node);
    Ok(configuration)
}

/// What is the same for every server of a site; the digest is still missing.
///
/// # Errors
/// As [`build`].
pub fn shared(state: &State, sealing: &Sealing, site: u16) -> Result<Configuration, SealingError> {
    let members = state.nodes.iter().filter(|(_, kept)| kept.record.joined).map(|(node, kept)| Member {
        node: Some(node_message(*node)),
        encapsulation_address: kept.record.encapsulation_address.clone(),
        host_addresses: kept.record.host_addresses.clone(),
    });
    let revocations = state.revocations.values().map(|kept| Revocation {
        username: kept.record.username.clone(),
        expires_unix_s: kept.record.expires_unix_s,
    });
    Ok(Configuration {
        epoch: Some(state.epoch()),
        members: members.collect(),
        table: state.tables.get(&site).map(|kept| table(&kept.record, sealing)).transpose()?,
        slices: slices(state),
        keys: keys::turn_keys(state, sealing)?,
        revocations: revocations.collect(),
        fleet_keys: Some(keys::fleet_keys(state, sealing)?),
        ..Configuration::default()
    })
}

/// Adds what is this server's alone, and the digest.
pub fn personalise(configuration: &mut Configuration, state: &State, node: NodeId) {
    let shared = shared_digest(configuration);
    Personal::of(state, node).put_into(configuration, &shared);
}

/// What is one server's alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Personal {
    settings: Option<Settings>,
    settings_version: u64,
    draining: bool,
}

impl Personal {
    /// Of this server in this state.
    #[must_use]
    pub fn of(state: &State, node: NodeId) -> Self {
        let settings_version = settings_version(state, node);
        Self {
            settings: state.settings.get(&settings_version).and_then(|kept| kept.record.settings.clone()),
            settings_version,
            draining: state.nodes.get(&node).is_some_and(|kept| kept.record.draining),
        }
    }

    /// Completes a whole configuration, or the differences to one, whose other parts have this digest.
    pub fn put_into(self, configuration: &mut Configuration, shared_digest: &[u8; 32]) {
        configuration.digest = self.digest(shared_digest).to_vec();
        configuration.settings = self.settings;
        configuration.settings_version = self.settings_version;
        configuration.draining = self.draining;
    }

    fn digest(&self, shared_digest: &[u8; 32]) -> [u8; 32] {
        let alone = Configuration {
            settings: self.settings.clone(),
            settings_version: self.settings_version,
            draining: self.draining,
            ..Configuration::default()
        };
        Sha256::new().chain_update(shared_digest).chain_update(alone.encode_to_vec()).finalize().into()
    }
}

/// The settings that a server is to run: the new ones once the roll-out has reached it.
#[must_use]
pub fn settings_version(state: &State, node: NodeId) -> u64 {
    let Some(rollout) = state.rollout.as_ref().map(|kept| &kept.record) else {
        return state.settings.keys().last().copied().unwrap_or(0);
    };
    let is_reached =
        rollout.state == DONE || rollout.nodes.iter().any(|reached| node_id(reached) == Some(node));
    if is_reached { rollout.to_version } else { rollout.from_version }
}

/// `Rollout.State.DONE`.
const DONE: u32 = trunkline_proto::operator::v1::rollout::State::Done as u32;

fn table(record: &TableRecord, sealing: &Sealing) -> Result<SteeringTable, SealingError> {
    let rows = record.rows.chunks_exact(RECORD_ROW_BYTES);
    let row_count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let bytes: Vec<u8> = rows.flat_map(|row| row.iter().take(ROW_BYTES)).copied().collect();
    let context = key::<TableRecord>(record.site);
    Ok(SteeringTable {
        site: record.site,
        row_count,
        index: (0..row_count).collect(),
        rows: bytes,
        hash_key: sealing.open(&context, &record.sealed_hash_key)?.to_vec(),
    })
}

/// Slices that somebody has: nobody needs to be told of free ones.
fn slices(state: &State) -> Vec<Slice> {
    let all = state.slices.values().flat_map(|kept| &kept.record.slices);
    let slices = all.filter_map(|record| record.slice.clone());
    slices.filter(|slice| matches!(slice.state(), SliceState::Owned | SliceState::Draining)).collect()
}

/// What changed from `old` to `new`.
#[must_use]
pub fn difference(old: &Configuration, new: &Configuration) -> Configuration {
    let (members, removed_members) =
        changed(&old.members, &new.members, |member| member.node.map(|node| (node.site, node.server)));
    let (keys, removed_keys) = changed(&old.keys, &new.keys, |key| key.id.clone());
    let (revocations, removed_revocations) =
        changed(&old.revocations, &new.revocations, |revocation| revocation.username.clone());
    let (mut slices, gone) = changed(&old.slices, &new.slices, slice_name);
    slices.extend(gone.into_iter().map(|(address, index)| Slice { address, index, ..Slice::default() }));
    Configuration {
        epoch: new.epoch,
        base: old.epoch,
        members,
        removed_members: removed_members
            .into_iter()
            .flatten()
            .map(|(site, server)| NodeMessage { site, server })
            .collect(),
        table: table_difference(old.table.as_ref(), new.table.as_ref()),
        slices,
        keys,
        removed_keys,
        revocations,
        removed_revocations,
        fleet_keys: if old.fleet_keys == new.fleet_keys { None } else { new.fleet_keys.clone() },
        settings: if old.settings == new.settings { None } else { new.settings.clone() },
        settings_version: new.settings_version,
        draining: new.draining,
        digest: new.digest.clone(),
    }
}

/// Entries that are new or different, and the names of those that are gone.
fn changed<T: Clone + PartialEq, N: Ord>(old: &[T], new: &[T], name: impl Fn(&T) -> N) -> (Vec<T>, Vec<N>) {
    let mut before: BTreeMap<N, &T> = old.iter().map(|entry| (name(entry), entry)).collect();
    let is_changed = |entry: &&T| before.remove(&name(entry)) != Some(*entry);
    let different = new.iter().filter(is_changed).cloned().collect();
    (different, before.into_keys().collect())
}

fn slice_name(slice: &Slice) -> (String, u32) {
    (slice.address.clone(), slice.index)
}

fn table_difference(old: Option<&SteeringTable>, new: Option<&SteeringTable>) -> Option<SteeringTable> {
    let (Some(old), Some(new)) = (old, new) else { return new.cloned() };
    if old == new {
        return None;
    }
    if (old.site, old.row_count, &old.hash_key) != (new.site, new.row_count, &new.hash_key) {
        return Some(new.clone());
    }
    let pairs = old.rows.chunks_exact(ROW_BYTES).zip(new.rows.chunks_exact(ROW_BYTES));
    let different = (0_u32..).zip(pairs).filter(|(_, (before, after))| before != after);
    let (index, rows): (Vec<u32>, Vec<&[u8]>) = different.map(|(index, (_, after))| (index, after)).unzip();
    Some(SteeringTable { index, rows: rows.concat(), ..SteeringTable { rows: vec![], ..new.clone() } })
}

/// What `full` becomes by `update`; `full` is untouched where that is refused. A whole configuration replaces
/// everything.
///
/// # Errors
/// [`Refusal`]: not newer, to another base, damaged, or meaningless.
pub fn apply(full: &Configuration, update: Configuration) -> Result<Configuration, Refusal> {
    let (current, offered) = (full.epoch.unwrap_or_default(), update.epoch.unwrap_or_default());
    if !is_newer(offered, current) {
        return Err(Refusal::NotNewer { offered, current });
    }
    let applied = match update.base {
        None => update,
        Some(base) if full.epoch == Some(base) => merged(full, update)?,
        Some(_) => return Err(Refusal::OtherBase),
    };
    if applied.digest != digest(&applied) {
        return Err(Refusal::WrongDigest);
    }
    validate(&applied)?;
    Ok(applied)
}

fn merged(full: &Configuration, update: Configuration) -> Result<Configuration, Refusal> {
    let gone: Vec<_> = update.removed_members.iter().map(|node| Some((node.site, node.server))).collect();
    let is_owned = |slice: &Slice| slice.state() != SliceState::Unspecified;
    let freed: Vec<_> = update.slices.iter().filter(|slice| !is_owned(slice)).map(slice_name).collect();
    let slices = update.slices.into_iter().filter(is_owned).collect();
    Ok(Configuration {
        epoch: update.epoch,
        base: None,
        members: patched(&full.members, update.members, &gone, |m| {
            m.node.map(|node| (node.site, node.server))
        }),
        removed_members: vec![],
        table: patched_table(full.table.as_ref(), update.table)?,
        slices: patched(&full.slices, slices, &freed, slice_name),
        keys: patched(&full.keys, update.keys, &update.removed_keys, |key| key.id.clone()),
        removed_keys: vec![],
        revocations: patched(&full.revocations, update.revocations, &update.removed_revocations, |r| {
            r.username.clone()
        }),
        removed_revocations: vec![],
        fleet_keys: update.fleet_keys.or_else(|| full.fleet_keys.clone()),
        settings: update.settings.or_else(|| full.settings.clone()),
        settings_version: update.settings_version,
        draining: update.draining,
        digest: update.digest,
    })
}

fn patched<T: Clone, N: Ord>(old: &[T], new: Vec<T>, gone: &[N], name: impl Fn(&T) -> N) -> Vec<T> {
    let mut all: BTreeMap<N, T> = old.iter().map(|entry| (name(entry), entry.clone())).collect();
    for name in gone {
        all.remove(name);
    }
    all.extend(new.into_iter().map(|entry| (name(&entry), entry)));
    all.into_values().collect()
}

fn patched_table(
    old: Option<&SteeringTable>,
    update: Option<SteeringTable>,
) -> Result<Option<SteeringTable>, Refusal> {
    let Some(update) = update else { return Ok(old.cloned()) };
    let is_whole = update.index.len() == update.row_count as usize;
    let Some(old) = old.filter(|_| !is_whole) else { return Ok(Some(update)) };
    let wrong = |fault: &str| Refusal::Invalid { field: "table", fault: fault.to_owned() };
    if old.row_count != update.row_count || update.rows.len() != update.index.len() * ROW_BYTES {
        return Err(wrong("the changed rows do not fit the table"));
    }
    let mut table = old.clone();
    for (index, row) in update.index.iter().zip(update.rows.chunks_exact(ROW_BYTES)) {
        let start = *index as usize * ROW_BYTES;
        let place = table.rows.get_mut(start..start + ROW_BYTES);
        place.ok_or_else(|| wrong("a changed row lies behind the table's end"))?.copy_from_slice(row);
    }
    Ok(Some(table))
}

/// What a whole configuration's `digest` must be: SHA-256 over the digest of what servers of a site share and over what
/// is one server's alone. The epoch is not part of it, so that two epochs that say the same are seen to.
#[must_use]
pub fn digest(full: &Configuration) -> [u8; 32] {
    let personal = Personal {
        settings: full.settings.clone(),
        settings_version: full.settings_version,
        draining: full.draining,
    };
    personal.digest(&shared_digest(full))
}

/// SHA-256 of what the servers of a site share.
#[must_use]
pub fn shared_digest(full: &Configuration) -> [u8; 32] {
    let shared = Configuration {
        digest: vec![],
        epoch: None,
        base: None,
        settings: None,
        settings_version: 0,
        draining: false,
        ..full.clone()
    };
    Sha256::digest(shared.encode_to_vec()).into()
}

/// Checks that every field means something.
///
/// # Errors
/// [`Refusal::Invalid`] names the field.
pub fn validate(full: &Configuration) -> Result<(), Refusal> {
    let invalid = |field, fault: String| Refusal::Invalid { field, fault };
    for member in &full.members {
        let name = member.node.as_ref().and_then(node_id);
        name.ok_or_else(|| invalid("members", "a NodeId is missing or above 65,535".to_owned()))?;
        let address = &member.encapsulation_address;
        if !address.is_empty() && address.parse::<SocketAddr>().is_err() {
            return Err(invalid("members.encapsulation_address", format!("{address:?} is not ADDRESS:PORT")));
        }
    }
    for slice in &full.slices {
        let is_place =
            slice.address.parse::<IpAddr>().is_ok() && (FIRST_SLICE..SLICES).contains(&slice.index);
        let has_owner = slice.owner.as_ref().and_then(node_id).is_some();
        if !is_place || !has_owner {
            return Err(invalid(
                "slices",
                format!("{} {} is no slice of anybody", slice.address, slice.index),
            ));
        }
    }
    if let Some(table) = &full.table {
        let is_whole = table.row_count.is_power_of_two()
            && table.index.len() == table.row_count as usize
            && table.rows.len() == table.row_count as usize * ROW_BYTES
            && table.hash_key.len() == 16;
        if !is_whole {
            return Err(invalid("table", format!("{} rows are not a whole table", table.index.len())));
        }
    }
    let keys = full.fleet_keys.iter().flat_map(|keys| &keys.keys);
    for FleetKey { id, secret } in keys {
        if *id > 255 || secret.len() != 16 {
            return Err(invalid(
                "fleet_keys",
                format!("key {id} is not one of 16 bytes with an id up to 255"),
            ));
        }
    }
    if full.fleet_keys.as_ref().is_none_or(|keys: &FleetKeys| keys.keys.is_empty()) {
        return Err(invalid("fleet_keys", "there is none to seal with".to_owned()));
    }
    let is_key = |key: &TurnKey| !key.id.is_empty() && !key.secret.is_empty();
    if full.keys.iter().all(is_key) {
        Ok(())
    } else {
        Err(invalid("keys", "an id or a secret is empty".to_owned()))
    }
}

/// Seconds since 1970-01-01 UTC.
#[must_use]
pub fn unix_now_s() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

/// Bytes of a row in [`SteeringTable`].
pub const ROW_BYTES: usize = 8;
/// Bytes of a row in the store: those, and when it moved.
pub const RECORD_ROW_BYTES: usize = 12;
/// Slices of a relay address, and the first that has usable ports (9,216).
const SLICES: u32 = 64;
const FIRST_SLICE: u32 = 9;

#[cfg(test)]
mod tests;
