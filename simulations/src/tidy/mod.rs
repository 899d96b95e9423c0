//! The rules of this repository that a machine can check. `tests/tidy.rs` runs them.
//!
//! A rule is a function from sources to [`Finding`]s; its unit tests show it failing on a bad snippet. Rules look at
//! text with comments and strings blanked out ([`mask`]); none of them parses Rust fully, and none needs to.

pub mod crates;
pub mod functions;
pub mod mask;
pub mod purity;
pub mod registry;
pub mod text;
pub mod tree;

use std::fmt;

/// A place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Path from the repository's root.
    pub path: String,
    /// Line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong and what to do.
    pub problem: String,
}

impl Finding {
    /// A finding about a line.
    #[must_use]
    pub fn at(path: &str, line: usize, problem: impl Into<String>) -> Self {
        Self { path: path.into(), line, problem: problem.into() }
    }

    /// A finding about a file.
    #[must_use]
    pub fn in_file(path: &str, problem: impl Into<String>) -> Self {
        Self::at(path, 0, problem)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.problem),
            line => write!(f, "{}:{line}: {}", self.path, self.problem),
        }
    }
}
