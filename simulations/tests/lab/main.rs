//! The lab itself: its ground, what it builds, what its faults do, and that nothing of it stays.

mod endings;
mod faults;
mod ground;
mod probing;
mod sites;

use libtest_mimic::Arguments;
use trunkline_simulations::lab;
use trunkline_simulations::netns::require_root;
use trunkline_simulations::trial::trial;

/// The program of a trial.
pub type Run = fn() -> Result<(), String>;

fn main() {
    let of = |trials: &[(&'static str, Run)], missing: Option<String>| {
        let made = trials.iter().map(|(name, run)| trial(name, missing.clone(), *run));
        made.collect::<Vec<_>>()
    };
    let mut trials = of(&ground::TRIALS, require_root().err());
    let labs = [&sites::TRIALS[..], &faults::TRIALS, &endings::TRIALS].concat();
    trials.extend(of(&labs, lab::require().err()));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
