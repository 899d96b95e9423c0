//! A cluster of real processes: etcd, control-plane replicas, nodes, and the operator's command, through faults.
//!
//! Every trial has processes and network namespaces of its own. Without root, or without etcd, the trials are counted
//! as ignored; with `CI=true` they fail instead.

mod alone;
mod bad_input;
mod certificates;
mod fleet;
mod joining;
mod outage;
mod planning;
mod policy;
mod replicas;
mod secrets;
mod usage;

use libtest_mimic::{Arguments, Trial};
use trunkline_simulations::netns::require_root;
use trunkline_simulations::trial::trial;

fn main() {
    let mut arguments = Arguments::from_args();
    // A cluster is a dozen processes, and the trials look at times.
    arguments.test_threads.get_or_insert(2);
    let missing = require_root().and_then(|()| require_etcd()).err();
    let trials: Vec<Trial> =
        trials().into_iter().map(|(name, run)| trial(name, missing.clone(), run)).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn require_etcd() -> Result<(), String> {
    for program in ["etcd", "etcdctl"] {
        std::process::Command::new(program)
            .arg("--version")
            .output()
            .map_err(|_| format!("{program} is missing (Debian: apt-get install etcd-server etcd-client)"))?;
    }
    Ok(())
}

/// A name that says the behaviour, and what checks it.
type Named = (&'static str, fn() -> Result<(), String>);

/// The slow ones first, so that none of them runs alone at the end.
fn trials() -> Vec<Named> {
    [
        outage::TRIALS,
        replicas::TRIALS,
        usage::TRIALS,
        planning::TRIALS,
        joining::TRIALS,
        secrets::TRIALS,
        certificates::TRIALS,
        policy::TRIALS,
        bad_input::TRIALS,
        alone::TRIALS,
    ]
    .concat()
}
