//! Tests that need something of the machine: root, a client program, a built server.

use libtest_mimic::{Failed, Trial};

/// A trial that cannot run when something is `missing`. Then it is counted as ignored; or it fails, with the same
/// words, where nothing may be skipped (`CI=true`).
pub fn trial(
    name: &str,
    missing: Option<String>,
    run: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Trial {
    let ignored = missing.is_some() && !nothing_may_be_skipped();
    let run = move || match missing {
        Some(reason) => Err(Failed::from(reason)),
        None => run().map_err(Failed::from),
    };
    Trial::test(name, run).with_ignored_flag(ignored)
}

fn nothing_may_be_skipped() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}
