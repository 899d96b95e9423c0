//! Who may depend on whom: between the packages of the workspace, and of the cores on packages from outside.

use toml::{Table, Value};

use super::Finding;
use super::tree::Source;

/// What a package of the workspace may depend on; packages that are not listed here may use everything.
const MAY_USE: [(&str, &[&str]); 13] = [
    ("trunkline-proto", &[]),
    ("trunkline-wire", &[]),
    ("trunkline-turn", &["wire"]),
    ("trunkline-sfu", &["wire"]),
    ("trunkline-steer", &["wire"]),
    ("trunkline-backbone", &["wire"]),
    ("trunkline-shard", &["wire", "turn", "sfu", "steer", "backbone"]),
    ("trunkline-xdp", &["wire", "steer"]),
    (
        "trunkline-node",
        &["xdp", "proto", "wire", "turn", "sfu", "steer", "backbone", "shard", "control-plane"],
    ),
    ("trunkline-fleet", &["wire", "steer"]),
    ("trunkline-control-plane", &["proto", "wire", "steer", "fleet"]),
    ("trunkline-simulations", &["*"]),
    ("trunkline-fuzz", &["*"]),
];

/// What the cores may use from outside: no input or output, no clock, no random source, no executor.
const PURE: [&str; 10] =
    ["ahash", "base64", "hmac", "ipnet", "md-5", "sha1", "sha2", "siphasher", "slab", "subtle"];
/// What their tests may use besides.
const PURE_IN_TESTS: [&str; 1] = ["proptest"];

/// A package is a boundary that the compiler checks; more of them than this is a maze.
const PACKAGES_MAX: usize = 12;

/// One `Cargo.toml`.
struct Manifest<'a> {
    path: &'a str,
    table: Table,
    name: String,
}

impl<'a> Manifest<'a> {
    /// A package's manifest; the workspace's own has no package.
    fn of(source: &'a Source) -> Option<Self> {
        let is_manifest = source.path == "Cargo.toml" || source.path.ends_with("/Cargo.toml");
        let table = is_manifest.then(|| source.text.parse::<Table>().ok()).flatten()?;
        let name = table.get("package")?.get("name")?.as_str()?.to_owned();
        Some(Self { path: &source.path, table, name })
    }

    /// Names in `[dependencies]` and `[build-dependencies]`, or in `[dev-dependencies]`; those for one platform too.
    fn dependencies(&self, sections: &[&str]) -> Vec<String> {
        let platforms =
            self.table.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
        let tables = platforms.filter_map(Value::as_table).chain(std::iter::once(&self.table));
        let sections = tables.flat_map(|table| sections.iter().filter_map(|section| table.get(*section)));
        sections.filter_map(Value::as_table).flat_map(Table::keys).cloned().collect()
    }

    fn finding(&self, problem: String) -> Finding {
        Finding::in_file(self.path, problem)
    }
}

const BUILT: [&str; 2] = ["dependencies", "build-dependencies"];
const TESTED: [&str; 1] = ["dev-dependencies"];
const PREFIX: &str = "trunkline-";

/// Dependencies between packages of the workspace that go the wrong way.
#[must_use]
pub fn wrong_direction(sources: &[Source]) -> Vec<Finding> {
    let mut findings = vec![];
    for manifest in sources.iter().filter_map(Manifest::of) {
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == manifest.name) else {
            findings.push(
                manifest.finding(format!("say in the tidy rules what `{}` may depend on", manifest.name)),
            );
            continue;
        };
        for dependency in manifest.dependencies(&[BUILT.as_slice(), &TESTED].concat()) {
            let ours = dependency.strip_prefix(PREFIX);
            if ours.is_some_and(|name| !allowed.contains(&name) && !allowed.contains(&"*")) {
                findings
                    .push(manifest.finding(format!("`{}` must not depend on `{dependency}`", manifest.name)));
            }
        }
    }
    findings
}

/// Dependencies of cores on packages that are not on the list of pure ones.
#[must_use]
pub fn impure_dependency(sources: &[Source]) -> Vec<Finding> {
    let cores =
        sources.iter().filter(|source| source.path.starts_with("node/cores/")).filter_map(Manifest::of);
    let of_core = |manifest: Manifest<'_>| -> Vec<Finding> {
        let outside = |name: &String| !name.starts_with(PREFIX) && !PURE.contains(&name.as_str());
        let built = manifest.dependencies(&BUILT).into_iter().filter(outside);
        let tested = manifest.dependencies(&TESTED).into_iter().filter(outside);
        let tested = tested.filter(|name| !PURE_IN_TESTS.contains(&name.as_str()));
        let finding =
            |name: String| manifest.finding(format!("`{name}` is not on the list of what a core may use"));
        built.chain(tested).map(finding).collect()
    };
    cores.flat_map(of_core).collect()
}

/// Packages without the workspace's lints, and more packages than there should be.
#[must_use]
pub fn careless_package(sources: &[Source]) -> Vec<Finding> {
    let manifests: Vec<_> = sources.iter().filter_map(Manifest::of).collect();
    let has_lints = |manifest: &Manifest<'_>| {
        manifest.table.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool)
            == Some(true)
    };
    let careless = manifests.iter().filter(|manifest| !has_lints(manifest));
    let mut findings: Vec<_> = careless
        .map(|manifest| manifest.finding("take over the lints: `[lints] workspace = true`".into()))
        .collect();
    if manifests.len() > PACKAGES_MAX {
        findings.push(Finding::in_file(
            "Cargo.toml",
            format!("{} packages; at most {PACKAGES_MAX}", manifests.len()),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(path: &str, name: &str, rest: &str) -> Vec<Source> {
        vec![Source::new(path, &format!("[package]\nname = \"{name}\"\n{rest}"))]
    }

    #[test]
    fn a_dependency_that_goes_sideways_or_up_is_found() {
        let turn = |rest| manifest("node/cores/turn/Cargo.toml", "trunkline-turn", rest);
        assert_eq!(wrong_direction(&turn("[dependencies]\ntrunkline-wire.workspace = true")), []);
        assert_eq!(wrong_direction(&turn("[dependencies]\ntrunkline-shard.workspace = true")).len(), 1);
        assert_eq!(wrong_direction(&turn("[dev-dependencies]\ntrunkline-sfu = { path = \"x\" }")).len(), 1);
        assert_eq!(
            wrong_direction(&turn("[target.'cfg(unix)'.dependencies]\ntrunkline-node = \"1\"")).len(),
            1
        );
        assert_eq!(
            wrong_direction(&manifest(
                "proto/Cargo.toml",
                "trunkline-proto",
                "[dependencies]\ntrunkline-wire = \"1\""
            ))
            .len(),
            1
        );
        assert_eq!(wrong_direction(&manifest("new/Cargo.toml", "trunkline-new", "")).len(), 1);
    }

    #[test]
    fn an_impure_dependency_of_a_core_is_found() {
        for bad in [
            "tokio",
            "quinn",
            "tonic",
            "etcd-client",
            "rand",
            "getrandom",
            "mio",
            "socket2",
            "metrics",
            "libc",
        ] {
            let core = manifest(
                "node/cores/turn/Cargo.toml",
                "trunkline-turn",
                &format!("[dependencies]\n{bad} = \"1\""),
            );
            assert_eq!(impure_dependency(&core).len(), 1, "{bad}");
            let shell =
                manifest("node/Cargo.toml", "trunkline-node", &format!("[dependencies]\n{bad} = \"1\""));
            assert_eq!(impure_dependency(&shell), [], "{bad}");
        }
        let tested = |rest| manifest("node/cores/turn/Cargo.toml", "trunkline-turn", rest);
        assert_eq!(impure_dependency(&tested("[dev-dependencies]\nproptest = \"1\"")), []);
        assert_eq!(impure_dependency(&tested("[dependencies]\nproptest = \"1\"")).len(), 1);
        assert_eq!(impure_dependency(&tested("[dev-dependencies]\ntokio = \"1\"")).len(), 1);
    }

    #[test]
    fn packages_without_lints_or_too_many_are_found() {
        assert_eq!(careless_package(&manifest("proto/Cargo.toml", "trunkline-proto", "")).len(), 1);
        let good = manifest("proto/Cargo.toml", "trunkline-proto", "[lints]\nworkspace = true");
        assert_eq!(careless_package(&good), []);
        assert_eq!(careless_package(&vec![good[0].clone(); 13]).len(), 1);
    }
}
