//! The lab itself: its ground, what it builds, what its faults do, and that nothing of it stays.

mod endings;
mod faults;
mod ground;
mod probing;
mod sites;

use libtest_mimic::Arguments;
use trunkline_simulations::netns::require_root;
use trunkline_simulations::trial::trial;

/// The program of a trial.
pub type Run = fn() -> Result<(), String>;

fn main() {
    let missing = require_root().err();
    let trials = [&ground::TRIALS[..], &sites::TRIALS, &faults::TRIALS, &endings::TRIALS].concat();
    let trials = trials.into_iter().map(|(name, run)| trial(name, missing.clone(), run)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
