//! Configurations that many sessions share: built once for each epoch and site, compared once for each pair.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use trunkline_proto::fleet::v1::{Configuration, Epoch};

use crate::configuration::{self, Personal};
use crate::sealing::{Sealing, SealingError};
use crate::state::State;

/// What is the same for every server of a site.
pub struct Built {
    /// Without what is one server's alone.
    pub shared: Configuration,
    /// Of `shared`.
    digest: [u8; 32],
}

/// The newest configurations of every site.
#[derive(Default)]
pub struct Configurations(Mutex<HashMap<u16, Site>>);

#[derive(Default)]
struct Site {
    /// Newest last.
    epochs: VecDeque<(Epoch, Arc<Built>)>,
    /// To the newest.
    differences: HashMap<(u64, u64), Arc<Configuration>>,
}

impl Configurations {
    /// The configuration of a site in this state.
    ///
    /// # Errors
    /// A secret that cannot be opened.
    pub fn newest(&self, state: &State, sealing: &Sealing, site: u16) -> Result<Arc<Built>, SealingError> {
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = sites.entry(site).or_default();
        let epoch = state.epoch();
        if let Some((_, built)) = kept.epochs.iter().find(|(known, _)| *known == epoch) {
            return Ok(Arc::clone(built));
        }
        let shared = configuration::shared(state, sealing, site)?;
        let built = Arc::new(Built { digest: configuration::shared_digest(&shared), shared });
        kept.epochs.push_back((epoch, Arc::clone(&built)));
        kept.differences.clear();
        if kept.epochs.len() > EPOCHS_KEPT {
            kept.epochs.pop_front();
        }
        Ok(built)
    }

    /// What a server with `base` in force is sent so that it has `new`; everything where that is not known here.
    #[must_use]
    pub fn update(&self, site: u16, base: Option<Epoch>, new: &Built, personal: Personal) -> Configuration {
        let difference = base.and_then(|base| self.difference(site, base, new));
        let mut update = difference.map_or_else(|| new.shared.clone(), |difference| (*difference).clone());
        personal.put_into(&mut update, &new.digest);
        update
    }

    fn difference(&self, site: u16, base: Epoch, new: &Built) -> Option<Arc<Configuration>> {
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = sites.get_mut(&site)?;
        let (_, old) = kept.epochs.iter().find(|(epoch, _)| *epoch == base)?;
        let newest = kept.epochs.back().map(|(epoch, _)| *epoch);
        if newest != new.shared.epoch {
            return Some(Arc::new(configuration::difference(&old.shared, &new.shared)));
        }
        let name = (base.generation, base.counter);
        if let Some(known) = kept.differences.get(&name) {
            return Some(Arc::clone(known));
        }
        let difference = Arc::new(configuration::difference(&old.shared, &new.shared));
        kept.differences.insert(name, Arc::clone(&difference));
        Some(difference)
    }
}

/// Epochs of which differences can be made: a burst of changes, or a server that was busy.
const EPOCHS_KEPT: usize = 8;
