//! Keys that seal the tokens that servers choose: made by operators, brought to their end by the planner.

use trunkline_proto::fleet::v1::Epoch;
use trunkline_proto::operator::v1::{FleetKeyView, MutationResponse};
use trunkline_proto::store::v1::FleetKey;
use zeroize::Zeroizing;

use super::Fault;
use crate::event::Happening;
use crate::mutation::Plan;
use crate::records;
use crate::sealing::Sealing;
use crate::state::State;

/// Every key and what it is used for: a key whose time to seal is still named waits for the planner.
#[must_use]
pub fn list(state: &State) -> Vec<FleetKeyView> {
    let sealing = sealing(state);
    let view = |key: &FleetKey| FleetKeyView {
        id: key.id,
        created_unix_s: key.created_unix_s,
        r#use: match () {
            () if Some(key.id) == sealing => "sealing",
            () if key.seals_from_unix_s != 0 => "publishing",
            () => "opening",
        }
        .to_owned(),
        retires_unix_s: key.retires_unix_s,
    };
    state.fleet_keys.values().map(|kept| view(&kept.record)).collect()
}

/// The newest key that servers may seal with.
fn sealing(state: &State) -> Option<u32> {
    let records = state.fleet_keys.values().map(|kept| &kept.record).filter(|key| key.seals_from_unix_s == 0);
    records.max_by_key(|key| (key.created_unix_s, std::cmp::Reverse(key.id))).map(|key| key.id)
}

/// Makes a key that seals from a minute on, when every server has it; the first key of a fleet seals at once. When
/// that time has come the planner lets it seal; those before it retire when their last token has ended.
///
/// # Errors
/// A rotation is under way; there are as many keys as a token can name.
pub fn rotate(
    state: &State,
    secret: &Zeroizing<[u8; SECRET_BYTES]>,
    seal: &Sealing,
    now_unix_s: u64,
    epoch: Epoch,
) -> Result<Plan<MutationResponse>, Fault> {
    let mut records = state.fleet_keys.values().map(|kept| &kept.record);
    if let Some(key) = records.find(|key| key.seals_from_unix_s != 0) {
        let wait_s = key.seals_from_unix_s.saturating_sub(now_unix_s);
        return Err(Fault::Unfit(format!(
            "key {} is being published and seals in {wait_s} s; rotate again after that",
            key.id
        )));
    }
    let id = (0..=u8::MAX).find(|id| !state.fleet_keys.contains_key(id)).ok_or_else(|| {
        Fault::Exhausted("there are 256 keys, which is the most; wait until the oldest has retired".into())
    })?;
    let before = sealing(state);
    let seals_from_unix_s = if before.is_some() { now_unix_s.saturating_add(PUBLISHED_S) } else { 0 };
    let fresh = FleetKey {
        id: id.into(),
        created_unix_s: now_unix_s,
        sealed_secret: seal.seal(&records::key::<FleetKey>(id), &secret[..]),
        seals_from_unix_s,
        ..FleetKey::default()
    };
    let retires_unix_s = seals_from_unix_s.saturating_add(TOKEN_S_MAX);
    let retiring = state.fleet_keys.values().map(|kept| &kept.record).filter(|key| key.retires_unix_s == 0);
    let retiring = retiring.map(|key| records::put(key.id, &FleetKey { retires_unix_s, ..key.clone() }));
    let (before, after) = match before {
        Some(old) => (
            format!("key {old} seals"),
            format!(
                "key {id} seals from {seals_from_unix_s} on; key {old} opens until its last token has ended"
            ),
        ),
        None => ("no key seals".to_owned(), format!("key {id} seals")),
    };
    Ok(Plan {
        checks: Vec::new(),
        changes: retiring.chain([records::put(id, &fresh)]).collect(),
        touches_configuration: true,
        answer: MutationResponse { epoch: Some(epoch), summary: after.clone() },
        happening: Happening::new(format!("fleet key {id}"), before, after),
    })
}

/// Until every server has a new key: one that is silent for longer opens with the old ones and seals with them.
const PUBLISHED_S: u64 = 60;
/// Longest lifetime of a nonce.
const TOKEN_S_MAX: u64 = 86_400;
/// As `FleetKey.secret` says.
pub const SECRET_BYTES: usize = 16;
