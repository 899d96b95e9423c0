//! The rotation of the keys that seal tokens: begun by an operator, brought to its end by time.

use trunkline_fleet::keys::{Key, steps};
use trunkline_proto::store::v1::FleetKey;

use super::Draft;
use crate::event::Happening;
use crate::records;
use crate::state::State;
use crate::store::Change;

pub(super) fn plan(state: &State, now_unix_s: u64, draft: &mut Draft) {
    let keys = state.fleet_keys.iter().map(|(id, kept)| Key {
        id: *id,
        created_unix_s: kept.record.created_unix_s,
        seals_from_unix_s: kept.record.seals_from_unix_s,
        sealing_since_unix_s: kept.record.sealing_since_unix_s,
        retires_unix_s: kept.record.retires_unix_s,
    });
    let lifetimes = state.nodes.values().map(|kept| kept.record.nonce_lifetime_s);
    let token_s_max = lifetimes.max().unwrap_or(0).max(TOKEN_S_MIN);
    let steps = steps(&keys.collect::<Vec<_>>(), token_s_max, now_unix_s);
    for (id, retires_unix_s) in steps.keep {
        let Some(kept) = state.fleet_keys.get(&id) else { continue };
        // One change of a key a round: what begins to seal does not retire.
        draft.add(records::put(id, &FleetKey { retires_unix_s, ..kept.record.clone() }));
    }
    for id in steps.begin_sealing {
        let Some(kept) = state.fleet_keys.get(&id) else { continue };
        let sealing =
            FleetKey { seals_from_unix_s: 0, sealing_since_unix_s: now_unix_s, ..kept.record.clone() };
        if draft.add(records::put(id, &sealing)) {
            let happening = Happening::new(format!("fleet key {id}"), "published", "seals");
            draft.tell("BeginSealing", happening, "every server has had it for long enough");
        }
    }
    for id in steps.forget {
        if draft.add(Change::Delete { key: records::key::<FleetKey>(id) }) {
            let happening = Happening::new(format!("fleet key {id}"), "opens", "");
            draft.tell("ForgetFleetKey", happening, "its last token has ended");
        }
    }
}

/// A server that has not said how long its nonces are valid keeps to a day.
const TOKEN_S_MIN: u64 = 86_400;
