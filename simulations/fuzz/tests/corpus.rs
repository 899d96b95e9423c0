//! Every target over its committed corpus and over seeded mutations of it. A failure prints what replays it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use trunkline_fuzz::mutation::Mutations;
use trunkline_fuzz::{TARGETS, Target, corpus, target};

/// Mutated inputs per target: a few seconds for all of them together.
const MUTATIONS: usize = 20_000;
const SEED: u64 = 0x5EED;

fn survives(name: &str, target: Target, input: &[u8], origin: &str) {
    let outcome = catch_unwind(AssertUnwindSafe(|| target(input)));
    assert!(outcome.is_ok(), "target {name} fails for {origin}: {input:02x?}");
}

fn replay(name: &str) {
    let target = target(name).expect("a target of this name");
    let inputs = corpus::inputs(name).expect("the committed corpus");
    assert!(inputs.len() >= 3, "the corpus of {name} holds {} inputs", inputs.len());
    for (number, input) in inputs.iter().enumerate() {
        survives(name, target, input, &format!("file {number} of its corpus"));
    }
    for (number, input) in Mutations::new(&inputs, SEED).take(MUTATIONS).enumerate() {
        survives(name, target, &input, &format!("mutation {number} of seed {SEED:#x}"));
    }
}

macro_rules! replays {
    ($($name:ident),+) => {
        $(#[test] fn $name() { replay(stringify!($name)); })+

        #[test]
        fn every_target_is_replayed() {
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($name)),+]);
        }
    };
}

replays!(stun, channel_data, framing, token, gue, server);
