//! libFuzzer's entry: runs the target that the environment variable `TRUNKLINE_FUZZ_TARGET` names.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use trunkline_fuzz::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("TRUNKLINE_FUZZ_TARGET").unwrap_or_default();
    trunkline_fuzz::target(&name).unwrap_or_else(|| {
        let names = TARGETS.map(|(name, _)| name).join(", ");
        panic!("TRUNKLINE_FUZZ_TARGET={name:?} is none of {names}")
    })
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
