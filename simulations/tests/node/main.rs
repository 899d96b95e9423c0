//! The built `trunkline` as a process: what it does at its start, under load, under attack and at its end.
//!
//! Every trial starts a server of its own in network namespaces of its own. Without root the trials are counted as
//! ignored; with `CI=true` they fail instead.

mod certificates;
mod credentials;
mod ending;
mod floods;
mod forbidden_peers;
mod fragments;
mod mutations;
mod random;
mod shards;
mod site;
mod sizes;
mod slow_readers;
mod starting;
mod streams;
mod tls;
mod unprivileged;

use libtest_mimic::{Arguments, Trial};
use trunkline_simulations::netns::require_root;
use trunkline_simulations::trial::trial;

fn main() {
    let mut arguments = Arguments::from_args();
    // A trial keeps its server and itself busy: more at a time would measure each other.
    arguments.test_threads.get_or_insert(2);
    let missing = require_root().err();
    let trials = trials().into_iter();
    let trials: Vec<Trial> = trials.map(|(name, run)| trial(name, missing.clone(), run)).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// A name that says the behaviour, and what checks it.
type Named = (&'static str, fn() -> Result<(), String>);

/// The slow ones first, so that none of them runs alone at the end.
fn trials() -> Vec<Named> {
    [
        streams::TRIALS,
        slow_readers::TRIALS,
        mutations::TRIALS,
        certificates::TRIALS,
        credentials::TRIALS,
        ending::TRIALS,
        sizes::TRIALS,
        floods::TRIALS,
        shards::TRIALS,
        starting::TRIALS,
        unprivileged::TRIALS,
        fragments::TRIALS,
        forbidden_peers::TRIALS,
    ]
    .concat()
}
