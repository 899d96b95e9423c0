//! The repository's files.

use std::path::Path;
use std::{fs, io};

use super::mask::Masked;

/// A file that was read.
#[derive(Clone, Debug)]
pub struct Source {
    /// Path from the repository's root, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// What a file is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Rust.
    Rust,
    /// C or C++.
    C,
    /// JavaScript.
    JavaScript,
    /// Python.
    Python,
    /// A shell script, by its name or its first line.
    Shell,
    /// Anything else.
    Other,
}

/// Directories that hold no sources of ours.
const SKIPPED: [&str; 5] = [".git", "target", "__pycache__", "corpus", "artifacts"];
/// Files that hold no text of ours: images, and a licence that is quoted.
const NO_SOURCES: [&str; 6] = ["svg", "png", "ico", "woff2", "lock", "LICENSE"];

impl Source {
    /// A file with this path and text.
    #[must_use]
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    /// What it is written in.
    #[must_use]
    pub fn language(&self) -> Language {
        match extension(&self.path) {
            "rs" => Language::Rust,
            "c" | "h" | "cc" | "cpp" => Language::C,
            "js" | "mjs" => Language::JavaScript,
            "py" => Language::Python,
            "sh" | "bash" => Language::Shell,
            _ if self.text.starts_with("#!")
                && self.text.lines().next().is_some_and(|first| first.contains("sh")) =>
            {
                Language::Shell
            }
            _ => Language::Other,
        }
    }

    /// Whether it is Rust that is only there for tests or around the product.
    #[must_use]
    pub fn is_test(&self) -> bool {
        let directories = self.path.split('/').any(|part| matches!(part, "tests" | "benches"));
        directories || self.path.ends_with("/tests.rs") || self.path.ends_with("_tests.rs")
    }

    /// Its code without comments, strings and test modules.
    #[must_use]
    pub fn product_code(&self) -> String {
        Masked::of_rust(&self.text).without_tests()
    }
}

fn extension(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map_or(name, |(_, extension)| extension)
}

/// Every text file below `root`, in order of paths.
///
/// # Errors
/// A directory or file that cannot be read.
pub fn read(root: &Path) -> io::Result<Vec<Source>> {
    let mut sources = Vec::new();
    walk(root, root, &mut sources)?;
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

fn walk(root: &Path, directory: &Path, sources: &mut Vec<Source>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
            walk(root, &path, sources)?;
        } else if kind.is_file() && !NO_SOURCES.contains(&extension(&name)) {
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            if let Ok(text) = String::from_utf8(fs::read(&path)?) {
                sources.push(Source { path: relative, text });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_follow_names_and_first_lines() {
        let language = |path, text| Source::new(path, text).language();
        assert_eq!(language("a/b.rs", ""), Language::Rust);
        assert_eq!(language("deploy/up", "#!/usr/bin/env bash\n"), Language::Shell);
        assert_eq!(language("deploy/up", "#!/usr/bin/env python3\n"), Language::Other);
        assert_eq!(language("node/demo/app.js", ""), Language::JavaScript);
        assert_eq!(language("README.md", ""), Language::Other);
    }

    #[test]
    fn test_files_are_told_by_their_place() {
        assert!(Source::new("node/tests/up.rs", "").is_test());
        assert!(Source::new("node/src/options/tests.rs", "").is_test());
        assert!(Source::new("node/cores/turn/src/policy_tests.rs", "").is_test());
        assert!(!Source::new("node/src/latests.rs", "").is_test());
    }
}
