//! Rules about any text: nothing left to do, no machine's paths, every Rust file says what it is, names.

use super::Finding;
use super::mask::Masked;
use super::tree::{Language, Source};

/// Words that mark something unfinished. In two parts, so that this file does not hold them.
const UNFINISHED: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!"),
    concat!("unimplemented", "!"),
    concat!("#[ign", "ore"),
];

/// Fronts of paths that exist on one machine only.
const MACHINE_PATHS: [&str; 5] = [
    concat!("/ho", "me/"),
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/tmp/ta", "rget"),
    concat!("/Use", "rs/"),
];

/// Names that say nothing (a module of these) or too little (a type that ends so).
const VAGUE_MODULES: [&str; 5] = ["utils", "util", "common", "helpers", "misc"];
const VAGUE_ENDINGS: [&str; 2] = ["Manager", "Helper"];

/// Lines of `ARCHITECTURE.md`: it is read in one sitting.
const ARCHITECTURE_LINES_MAX: usize = 300;

/// Whether `word` stands in `line` with no letter, digit or `_` around it.
#[must_use]
pub fn has_word(line: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(is_word) && word.starts_with(is_word);
        let after = line[at + word.len()..].chars().next().is_some_and(is_word) && word.ends_with(is_word);
        !before && !after
    })
}

/// Marks of unfinished work, and tests that do not run.
#[must_use]
pub fn unfinished(source: &Source) -> Vec<Finding> {
    let of_line = |(at, line): (usize, &str)| {
        let mark = UNFINISHED.iter().find(|mark| has_word(line, mark))?;
        Some(Finding::at(
            &source.path,
            at + 1,
            format!("`{mark}`: finish it, or write down elsewhere what is left"),
        ))
    };
    source.text.lines().enumerate().filter_map(of_line).collect()
}

/// Paths of the machine that somebody worked on.
#[must_use]
pub fn machine_path(source: &Source) -> Vec<Finding> {
    let of_line = |(at, line): (usize, &str)| {
        let begins = |path: &&&str| {
            let continues = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | ')' | '*');
            line.match_indices(**path).any(|(at, _)| !line[..at].ends_with(continues))
        };
        let path = MACHINE_PATHS.iter().find(begins)?;
        Some(Finding::at(&source.path, at + 1, format!("`{path}…` is a path of one machine")))
    };
    source.text.lines().enumerate().filter_map(of_line).collect()
}

/// Rust files that do not begin with what they are.
#[must_use]
pub fn headless(source: &Source) -> Vec<Finding> {
    let is_headless = source.language() == Language::Rust && !source.text.starts_with("//!");
    let finding = || Finding::at(&source.path, 1, "begins without `//!` and a line on what it is");
    is_headless.then(finding).into_iter().collect()
}

/// Names that say nothing.
#[must_use]
pub fn vague_name(source: &Source) -> Vec<Finding> {
    if source.language() != Language::Rust {
        return vec![];
    }
    let mut findings = vec![];
    let stem = source
        .path
        .trim_end_matches("/mod.rs")
        .trim_end_matches(".rs")
        .rsplit('/')
        .next()
        .unwrap_or_default();
    if VAGUE_MODULES.contains(&stem) {
        findings.push(Finding::in_file(&source.path, format!("`{stem}` is no idea: name what is in it")));
    }
    // Methods of a gRPC service have the names of its `.proto` file.
    let names_are_given = source.text.contains("#[tonic::async_trait]");
    for (at, line) in Masked::of_rust(&source.text).code().lines().enumerate() {
        let name = declared(line, &["struct ", "enum ", "trait "]);
        if name.as_ref().is_some_and(|name| VAGUE_ENDINGS.iter().any(|ending| name.ends_with(ending))) {
            findings.push(Finding::at(
                &source.path,
                at + 1,
                "name it by what it is, not by what it does to others",
            ));
        }
        if !names_are_given && declared(line, &["fn "]).is_some_and(|name| name.starts_with("get_")) {
            findings.push(Finding::at(&source.path, at + 1, "a getter has the name of what it gives"));
        }
    }
    findings
}

/// The name behind one of these keywords.
fn declared(line: &str, keywords: &[&str]) -> Option<String> {
    let place = keywords.iter().find_map(|keyword| {
        let place = line.find(keyword)?;
        let is_word = line[..place].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        (!is_word).then_some(place + keyword.len())
    })?;
    Some(line[place..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
}

/// An `ARCHITECTURE.md` that is missing or too long.
#[must_use]
pub fn architecture(sources: &[Source]) -> Vec<Finding> {
    const PATH: &str = "ARCHITECTURE.md";
    let lines = sources.iter().find(|source| source.path == PATH).map(|source| source.text.lines().count());
    match lines {
        None => vec![Finding::in_file(PATH, "is missing")],
        Some(lines) if lines >= ARCHITECTURE_LINES_MAX => {
            vec![Finding::in_file(PATH, format!("{lines} lines; keep it under {ARCHITECTURE_LINES_MAX}"))]
        }
        Some(_) => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    fn lines(check: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
        check(&Source::new(path, text)).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn each_mark_of_unfinished_work_is_found() {
        for mark in UNFINISHED {
            assert_eq!(lines(unfinished, "a.md", &format!("a\nb {mark} c\n")), [2], "{mark}");
        }
        assert_eq!(lines(unfinished, "a.md", "todo = \"deny\"\nmethods\nXXXL\n"), NONE);
    }

    #[test]
    fn each_machine_path_is_found() {
        for path in MACHINE_PATHS {
            assert_eq!(lines(machine_path, "a.sh", &format!("cd {path}x")), [1], "{path}");
        }
        assert_eq!(lines(machine_path, "a.sh", concat!("cd ./wo", "rk/x net/wo", "rk/")), NONE);
    }

    #[test]
    fn a_file_without_a_header_is_found() {
        assert_eq!(lines(headless, "a.rs", "use b;\n"), [1]);
        assert_eq!(lines(headless, "a.rs", "//! It.\n"), NONE);
        assert_eq!(lines(headless, "a.py", "import b\n"), NONE);
    }

    #[test]
    fn vague_names_are_found() {
        assert_eq!(lines(vague_name, "a/utils.rs", "//! x"), [0]);
        assert_eq!(lines(vague_name, "a/common/mod.rs", "//! x"), [0]);
        assert_eq!(
            lines(vague_name, "a/b.rs", "pub struct PortManager;\nfn get_port() {}\nfn budget_x() {}"),
            [1, 2]
        );
    }

    #[test]
    fn an_architecture_page_that_is_missing_or_long_is_found() {
        let page = |lines: usize| vec![Source::new("ARCHITECTURE.md", &"x\n".repeat(lines))];
        assert_eq!(architecture(&[]).len(), 1);
        assert_eq!(architecture(&page(300)).len(), 1);
        assert_eq!(architecture(&page(299)), []);
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("std::fs::read", "fs") && !has_word("offs", "fs") && !has_word("fs_x", "fs"));
    }
}
