//! What an empty store needs before a server can be told anything: a key that seals tokens, and settings.

use trunkline_proto::fleet::v1::Settings;
use trunkline_proto::operator::v1::rollout::State as Stage;
use trunkline_proto::store::v1::{FleetKey, RolloutRecord, SettingsRecord};
use zeroize::Zeroizing;

use super::{Draft, restore};
use crate::event::Happening;
use crate::records;
use crate::sealing::Sealing;
use crate::state::State;

pub(super) fn plan(state: &State, sealing: &Sealing, now_unix_s: u64, draft: &mut Draft) {
    if let Some(put) = restore::lineage(state) {
        draft.add(put);
    }
    if state.fleet_keys.is_empty() {
        first_key(sealing, now_unix_s, draft);
    }
    if state.settings.is_empty() && state.rollout.is_none() {
        let record = SettingsRecord { version: 1, settings: Some(Settings::default()) };
        let rollout = RolloutRecord {
            to_version: 1,
            state: Stage::Done as u32,
            stage_since_unix_s: now_unix_s,
            ..RolloutRecord::default()
        };
        draft.add(records::put(1, &record));
        draft.add(records::put("", &rollout));
    }
}

fn first_key(sealing: &Sealing, now_unix_s: u64, draft: &mut Draft) {
    let mut secret = Zeroizing::new([0; 16]);
    if let Err(error) = getrandom::fill(&mut *secret) {
        tracing::error!(%error, "no random bytes for the first key");
        return;
    }
    let record = FleetKey {
        id: 0,
        created_unix_s: now_unix_s,
        sealed_secret: sealing.seal(&records::key::<FleetKey>(0), &secret[..]),
        ..FleetKey::default()
    };
    draft.add(records::put(0, &record));
    draft.tell("MakeFleetKey", Happening::new("fleet key 0", "", "key 0 seals"), "the store was empty");
}
