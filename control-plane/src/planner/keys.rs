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
        retires_unix_s: kept.record.retires_unix_s,
    });
    let steps = steps(&keys.collect::<Vec<_>>(), now_unix_s);
    for id in steps.begin_sealing {
        let Some(kept) = state.fleet_keys.get(&id) else { continue };
        if draft.add(records::put(id, &FleetKey { seals_from_unix_s: 0, ..kept.record.clone() })) {
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
