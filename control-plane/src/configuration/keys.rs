//! Secrets of a configuration: opened from what the store holds.

use trunkline_proto::fleet::v1::{FleetKey, FleetKeys, TurnKey};
use trunkline_proto::store::v1 as stored;

use crate::records::key;
use crate::sealing::{Sealing, SealingError};
use crate::state::State;

/// Every key that applications mint credentials with.
pub fn turn_keys(state: &State, sealing: &Sealing) -> Result<Vec<TurnKey>, SealingError> {
    let open = |record: &stored::TurnKey| {
        let secret = sealing.open(&key::<stored::TurnKey>(&record.id), &record.sealed_secret)?;
        Ok(TurnKey { id: record.id.clone(), secret: String::from_utf8_lossy(&secret).into_owned() })
    };
    state.turn_keys.values().map(|kept| open(&kept.record)).collect()
}

/// The keys that seal tokens: first the newest that every server has had for long enough, then those that only open.
pub fn fleet_keys(state: &State, sealing: &Sealing) -> Result<FleetKeys, SealingError> {
    let open = |record: &stored::FleetKey| {
        let secret = sealing.open(&key::<stored::FleetKey>(record.id), &record.sealed_secret)?;
        Ok(FleetKey { id: record.id, secret: secret.to_vec() })
    };
    let mut records: Vec<&stored::FleetKey> = state.fleet_keys.values().map(|kept| &kept.record).collect();
    records.sort_by_key(|record| {
        let waits = record.seals_from_unix_s != 0;
        (waits, std::cmp::Reverse(record.created_unix_s), record.id)
    });
    Ok(FleetKeys { keys: records.into_iter().map(open).collect::<Result<_, _>>()? })
}
