//! What the cores must not contain, and where unsafe code may stand.

use super::Finding;
use super::mask::Masked;
use super::text::has_word;
use super::tree::{Language, Source};

/// The directory of the cores.
const CORES: &str = "node/cores/";

/// Words that mean a clock, a socket, a file, a thread, a random source, a log or an executor.
const IMPURE: [&str; 21] = [
    "Instant",
    "SystemTime",
    "UdpSocket",
    "UnixDatagram",
    "UnixStream",
    "TcpStream",
    "TcpListener",
    "fs",
    "thread",
    "env",
    "process",
    "rand",
    "getrandom",
    "tokio",
    "async",
    "await",
    "print",
    "println",
    "eprint",
    "eprintln",
    "dbg",
];

/// Clippy's lints without which bytes from the network could panic.
const DENIED: [&str; 4] = [
    "clippy::unwrap_used",
    "clippy::expect_used",
    "clippy::indexing_slicing",
    "clippy::arithmetic_side_effects",
];

/// Files that talk to the kernel, and the allocator that counts in a test.
const UNSAFE_ALLOWED: [&str; 11] = [
    "node/src/shard/sys.rs",
    "node/cores/turn/tests/support/counting.rs",
    "simulations/src/bench/batch.rs",
    "simulations/src/bench/cpu.rs",
    "simulations/src/bench/lab.rs",
    "simulations/src/bench/latency.rs",
    "simulations/src/bench/poll.rs",
    "simulations/src/lab/announcer.rs",
    "simulations/src/netns.rs",
    "simulations/src/process.rs",
    "simulations/tests/node/streams.rs",
];

/// Clocks, sockets and the like in the cores' own code; their tests may do as they like.
#[must_use]
pub fn impure_core(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with(CORES) || source.language() != Language::Rust || source.is_test() {
        return vec![];
    }
    let code = source.product_code();
    let lines = code.lines().enumerate();
    let in_line = |(at, line): (usize, &str)| -> Vec<Finding> {
        let found = IMPURE.iter().filter(|word| has_word(line, word));
        found
            .map(|word| {
                Finding::at(&source.path, at + 1, format!("`{word}` in a core: pass it in as an argument"))
            })
            .collect()
    };
    lines.flat_map(in_line).collect()
}

/// Roots of cores that do not forbid unsafe code or do not deny what could panic.
#[must_use]
pub fn lax_core(source: &Source) -> Vec<Finding> {
    let is_root = source.path.starts_with(CORES) && source.path.ends_with("/src/lib.rs");
    let missing = |attribute: &&str| !source.text.contains(*attribute);
    let attributes = std::iter::once("#![forbid(unsafe_code)]").chain(DENIED);
    let wanted = attributes.filter(|attribute| is_root && missing(attribute));
    wanted.map(|attribute| Finding::in_file(&source.path, format!("a core needs {attribute}"))).collect()
}

/// Unsafe code outside of the files that may have it, or without its reason.
#[must_use]
pub fn unsafe_code(source: &Source) -> Vec<Finding> {
    if source.language() != Language::Rust {
        return vec![];
    }
    let code = Masked::of_rust(&source.text);
    let text: Vec<&str> = source.text.lines().collect();
    let mut findings = vec![];
    for (at, line) in code.code().lines().enumerate().filter(|(_, line)| has_word(line, "unsafe")) {
        if !UNSAFE_ALLOWED.contains(&source.path.as_str()) {
            findings.push(Finding::at(&source.path, at + 1, "unsafe code belongs into the socket layer"));
        } else if demands_reason(line) && !has_reason(&text, at) {
            findings.push(Finding::at(
                &source.path,
                at + 1,
                "unsafe code without a comment `SAFETY:` above it",
            ));
        }
    }
    findings
}

/// A block or an implementation; a declaration's reasons stand where it is called.
fn demands_reason(line: &str) -> bool {
    line.contains("unsafe {") || line.contains("unsafe impl")
}

/// Whether the comment above this line, or above the statement that it ends, says `SAFETY:`.
fn has_reason(text: &[&str], line: usize) -> bool {
    let above = text[..line].iter().rev();
    let statement = above.skip_while(|line| {
        let line = line.trim();
        !line.starts_with("//") && !line.is_empty() && !line.ends_with([';', '}', '{'])
    });
    let mut comment =
        statement.take_while(|line| line.trim().starts_with("//") || line.trim().starts_with("#["));
    comment.any(|line| line.contains("SAFETY:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    fn problems(check: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
        check(&Source::new(path, text)).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn clocks_sockets_and_prints_in_a_core_are_found() {
        let bad = "//! x\nuse std::time::Instant;\nfn a() { println!(\"{:?}\", std::fs::read(\"a\")); }\n// tokio\n";
        assert_eq!(problems(impure_core, "node/cores/turn/src/a.rs", bad), [2, 3, 3]);
        assert_eq!(problems(impure_core, "node/src/a.rs", bad), NONE);
        assert_eq!(problems(impure_core, "node/cores/turn/tests/a.rs", bad), NONE);
        let good = "fn a(now: Now) { b(\"tokio\") }\n#[cfg(test)]\nmod tests { use std::thread; }\n";
        assert_eq!(problems(impure_core, "node/cores/turn/src/a.rs", good), NONE);
    }

    #[test]
    fn a_core_that_allows_unsafe_or_panics_is_found() {
        let good = format!("#![forbid(unsafe_code)]\n#![deny({})]", DENIED.join(", "));
        assert_eq!(problems(lax_core, "node/cores/turn/src/lib.rs", &good), NONE);
        assert_eq!(problems(lax_core, "node/cores/turn/src/lib.rs", "//! x").len(), 5);
        assert_eq!(problems(lax_core, "node/src/lib.rs", "//! x"), NONE);
    }

    #[test]
    fn unsafe_code_in_the_wrong_place_or_without_a_reason_is_found() {
        let block = "fn a() {\n    let b =\n        unsafe { c() };\n}\n";
        assert_eq!(problems(unsafe_code, "node/src/up.rs", block), [3]);
        assert_eq!(problems(unsafe_code, UNSAFE_ALLOWED[0], block), [3]);
        let reasoned = block.replace("    let", "    // SAFETY: c has no\n    // conditions.\n    let");
        assert_eq!(problems(unsafe_code, UNSAFE_ALLOWED[0], &reasoned), NONE);
        assert_eq!(problems(unsafe_code, "node/src/up.rs", "// unsafe\nlet a = \"unsafe {\";"), NONE);
    }
}
