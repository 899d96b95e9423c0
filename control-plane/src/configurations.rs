//! Configurations that many sessions share: built once for each epoch and site, compared once for each pair.
//!
//! A session keeps what its server was last sent, so the difference to it can be told however many epochs came in between.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use trunkline_proto::fleet::v1::{Configuration, Epoch};

use crate::configuration::{self, Personal, is_newer};
use crate::sealing::{Sealing, SealingError};
use crate::state::State;

/// What is the same for every server of a site.
pub struct Built {
    /// Without what is one server's alone.
    pub shared: Configuration,
    /// Of `shared`.
    digest: [u8; 32],
}

impl Built {
    /// Its version.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.shared.epoch.unwrap_or_default()
    }
}

/// The newest configurations of every site.
#[derive(Default)]
pub struct Configurations(Mutex<HashMap<u16, Site>>);

#[derive(Default)]
struct Site {
    newest: Option<Arc<Built>>,
    /// To the newest, from epochs that servers were sent before.
    differences: HashMap<(u64, u64), Arc<Configuration>>,
}

impl Configurations {
    /// The configuration of a site in this state. A session that lags gets that of its state, and changes nothing for the
    /// others.
    ///
    /// # Errors
    /// A secret that cannot be opened.
    pub fn of(&self, state: &State, sealing: &Sealing, site: u16) -> Result<Arc<Built>, SealingError> {
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = sites.entry(site).or_default();
        let epoch = state.epoch();
        if let Some(newest) = kept.newest.as_ref().filter(|newest| newest.epoch() == epoch) {
            return Ok(Arc::clone(newest));
        }
        let shared = configuration::shared(state, sealing, site)?;
        let built = Arc::new(Built { digest: configuration::shared_digest(&shared), shared });
        if kept.newest.as_ref().is_none_or(|newest| is_newer(epoch, newest.epoch())) {
            *kept = Site { newest: Some(Arc::clone(&built)), differences: HashMap::new() };
        }
        Ok(built)
    }

    /// What a server that was sent `base` is sent so that it has `new`; everything where it was sent nothing.
    #[must_use]
    pub fn update(&self, site: u16, base: Option<&Built>, new: &Built, personal: Personal) -> Configuration {
        let difference = base.map(|base| self.difference(site, base, new));
        let mut update = difference.map_or_else(|| new.shared.clone(), |difference| (*difference).clone());
        personal.put_into(&mut update, &new.digest);
        update
    }

    fn difference(&self, site: u16, base: &Built, new: &Built) -> Arc<Configuration> {
        let made = || Arc::new(configuration::difference(&base.shared, &new.shared));
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = sites.entry(site).or_default();
        if kept.newest.as_ref().is_none_or(|newest| newest.epoch() != new.epoch()) {
            return made();
        }
        let Epoch { generation, counter } = base.epoch();
        Arc::clone(kept.differences.entry((generation, counter)).or_insert_with(made))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Kept;
    use crate::store::Revision;
    use trunkline_proto::store::v1::EpochRecord;

    fn state(counter: u64) -> State {
        let record = EpochRecord { epoch: Some(Epoch { generation: 1, counter }) };
        State { epoch: Some(Kept { record, revision: Revision(counter) }), ..State::default() }
    }

    #[test]
    fn a_session_that_lags_displaces_nothing_and_one_that_slept_is_told_a_difference() {
        let (configurations, sealing) = (Configurations::default(), Sealing::ephemeral().unwrap());
        let of = |counter| configurations.of(&state(counter), &sealing, 1).unwrap();
        let (first, newest) = (of(1), of(30));
        let late = of(29);
        assert_eq!(late.epoch().counter, 29);
        assert!(Arc::ptr_eq(&newest, &of(30)), "built twice");
        let update = |base| configurations.update(1, base, &newest, Personal::default());
        assert_eq!(update(Some(&*first)).base.map(|base| base.counter), Some(1));
        assert_eq!(update(None).base, None);
    }
}
