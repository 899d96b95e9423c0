//! Names that must not only exist: metrics that are described, reasons that are counted.

use std::collections::BTreeSet;

use super::Finding;
use super::mask::Masked;
use super::tree::{Language, Source};

/// Where the reasons are defined.
const REASONS: &str = "node/cores/wire/src/drops.rs";

/// Metrics that are set but not described, described but never set, or named against the rule.
#[must_use]
pub fn undescribed_metric(sources: &[Source]) -> Vec<Finding> {
    let product = || {
        sources
            .iter()
            .filter(|source| source.path.starts_with("node/") && source.language() == Language::Rust)
    };
    let named = |macros: &[&str]| -> BTreeSet<(String, String)> {
        let of_source = |source: &Source| {
            let names = macros.iter().flat_map(|name| first_literals(source, name)).collect::<Vec<_>>();
            names.into_iter().map(|name| (name, source.path.clone())).collect::<Vec<_>>()
        };
        product().filter(|source| !source.is_test()).flat_map(of_source).collect()
    };
    let set = named(&["counter!", "gauge!", "histogram!"]);
    let described = named(&["describe_counter!", "describe_gauge!", "describe_histogram!"]);
    let is_in = |names: &BTreeSet<(String, String)>, name: &str| names.iter().any(|(known, _)| known == name);
    let mut findings = vec![];
    for (name, path) in &set {
        if !is_in(&described, name) {
            findings.push(Finding::in_file(path, format!("metric `{name}` is not described")));
        }
        if !is_well_named(name) {
            findings.push(Finding::in_file(
                path,
                format!("metric `{name}` is not `trunkline_<subsystem>_<noun>`"),
            ));
        }
    }
    let unset = described.iter().filter(|(name, _)| !is_in(&set, name));
    findings
        .extend(unset.map(|(name, path)| Finding::in_file(path, format!("metric `{name}` is never set"))));
    findings
}

fn is_well_named(metric: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    metric.starts_with("trunkline_") && metric.split('_').count() >= 3 && metric.chars().all(is_plain)
}

/// The first string in each call of this macro.
fn first_literals(source: &Source, name: &str) -> Vec<String> {
    let code = Masked::of_rust(&source.text).without_tests();
    let code: Vec<char> = code.chars().collect();
    let text: Vec<char> = source.text.chars().collect();
    let call: Vec<char> = format!("{name}(").chars().collect();
    let is_word = |c: &char| c.is_alphanumeric() || *c == '_';
    let starts = |at: &usize| code[*at..].starts_with(&call) && (*at == 0 || !is_word(&code[*at - 1]));
    let literal = |at: usize| {
        let open = at + code[at..].iter().position(|c| *c == '"')?;
        let length = code[open + 1..].iter().position(|c| *c == '"')?;
        Some(text[open + 1..=open + length].iter().collect())
    };
    (0..code.len()).filter(starts).filter_map(literal).collect()
}

/// Reasons to drop a packet that nothing is ever dropped for.
#[must_use]
pub fn unused_reason(sources: &[Source]) -> Vec<Finding> {
    let Some(definition) = sources.iter().find(|source| source.path == REASONS) else {
        return vec![Finding::in_file(REASONS, "is missing")];
    };
    let product =
        |source: &&Source| source.path.starts_with("node/") && source.path != REASONS && !source.is_test();
    let rust = sources.iter().filter(product).filter(|source| source.language() == Language::Rust);
    let code: Vec<String> = rust.map(Source::product_code).collect();
    let is_used = |reason: &String| {
        let name = format!("DropReason::{reason}");
        code.iter().any(|code| super::text::has_word(code, &name))
    };
    let unused = reasons(definition).into_iter().filter(|(_, reason)| !is_used(reason));
    unused
        .map(|(line, reason)| Finding::at(REASONS, line, format!("nothing is dropped for `{reason}`")))
        .collect()
}

/// Line and name of every `Name = "label",`.
fn reasons(definition: &Source) -> Vec<(usize, String)> {
    let code = definition.product_code();
    let of_line = |(at, line): (usize, &str)| {
        let (name, _) = line.trim().split_once(" = \"")?;
        let is_name = name.starts_with(char::is_uppercase) && name.chars().all(char::is_alphanumeric);
        is_name.then(|| (at + 1, name.to_owned()))
    };
    code.lines().enumerate().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_that_is_only_set_or_only_described_is_found() {
        let check = |text: &str| undescribed_metric(&[Source::new("node/src/m.rs", text)]);
        let set = "fn a() { counter!(\"trunkline_a_b_total\", \"x\" => \"y\").increment(1); }\n";
        let described = "fn b() { describe_counter!(\n    \"trunkline_a_b_total\", \"It.\"); }\n";
        assert_eq!(check(&format!("{set}{described}")), []);
        assert!(check(set)[0].problem.contains("not described"));
        assert!(check(described)[0].problem.contains("never set"));
        let badly_named = format!("{set}{described}").replace("trunkline_a_b_total", "Packets");
        assert!(check(&badly_named)[0].problem.contains("trunkline_<subsystem>"));
        let commented = format!("{described}// counter!(\"trunkline_a_b_total\")\n");
        assert_eq!(check(&commented).len(), 1);
    }

    #[test]
    fn a_reason_that_is_never_used_is_found() {
        let definition = Source::new(
            REASONS,
            "drop_reasons! {\n    /// x\n    Gone = \"gone\",\n    /// y\n    Other = \"other\",\n}\n",
        );
        let user = |text: &str| Source::new("node/src/a.rs", text);
        assert_eq!(
            unused_reason(&[definition.clone(), user("f(DropReason::Gone); f(DropReason::Other)")]),
            []
        );
        let found = unused_reason(&[definition.clone(), user("f(DropReason::Gone); // DropReason::Other")]);
        assert_eq!((found.len(), found[0].line), (1, 5));
        assert_eq!(unused_reason(&[definition, user("f(DropReason::GoneAway)")]).len(), 2);
        assert_eq!(unused_reason(&[]).len(), 1);
    }
}
