//! This repository keeps the rules that a machine can check. Each test is one rule; it prints every place that breaks it.

use std::path::Path;
use std::sync::LazyLock;

use trunkline_simulations::tidy::tree::{self, Source};
use trunkline_simulations::tidy::{Finding, crates, functions, purity, registry, text};

static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    tree::read(&root).expect("a repository that can be read")
});

fn none(findings: Vec<Finding>) {
    let list: String = findings.iter().map(|finding| format!("\n  {finding}")).collect();
    assert!(findings.is_empty(), "{} places:{list}", findings.len());
}

fn none_in_files(rule: fn(&Source) -> Vec<Finding>) {
    none(SOURCES.iter().flat_map(rule).collect());
}

#[test]
fn the_whole_repository_is_looked_at() {
    for path in [
        "Cargo.toml",
        "node/src/main.rs",
        "node/cores/wire/src/lib.rs",
        "deploy/test",
        "simulations/tests/tidy.rs",
    ] {
        assert!(SOURCES.iter().any(|source| source.path == path), "{path} is not among the sources");
    }
}

#[test]
fn packages_depend_in_one_direction() {
    none(crates::wrong_direction(&SOURCES));
}

#[test]
fn cores_use_pure_packages_only() {
    none(crates::impure_dependency(&SOURCES));
}

#[test]
fn every_package_has_the_lints_and_there_are_few() {
    none(crates::careless_package(&SOURCES));
}

#[test]
fn cores_have_no_clock_socket_file_thread_or_random_source() {
    none_in_files(purity::impure_core);
}

#[test]
fn cores_forbid_unsafe_code_and_deny_what_could_panic() {
    none_in_files(purity::lax_core);
}

#[test]
fn unsafe_code_stands_in_few_files_and_says_why() {
    none_in_files(purity::unsafe_code);
}

#[test]
fn the_scanner_understands_every_file() {
    none_in_files(functions::not_understood);
}

#[test]
fn no_file_is_longer_than_500_lines() {
    none_in_files(functions::long_file);
}

#[test]
fn no_function_is_longer_than_70_lines() {
    none_in_files(functions::long_functions);
}

#[test]
fn nothing_is_left_to_do_and_no_test_is_ignored() {
    none_in_files(text::unfinished);
}

#[test]
fn no_path_of_a_machine_is_named() {
    none_in_files(text::machine_path);
}

#[test]
fn every_rust_file_says_what_it_is() {
    none_in_files(text::headless);
}

#[test]
fn names_say_what_things_are() {
    none_in_files(text::vague_name);
}

#[test]
fn the_architecture_page_is_under_300_lines() {
    none(text::architecture(&SOURCES));
}

#[test]
fn every_metric_is_described_and_set() {
    none(registry::undescribed_metric(&SOURCES));
}

#[test]
fn every_drop_reason_is_used() {
    none(registry::unused_reason(&SOURCES));
}
