//! The configuration file: TOML under the command line. What is wrong in it is named with file, line and key.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Options;

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read the configuration file {path}: {cause}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// It is no file that a person wrote.
    #[error("the configuration file {path} is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// The file.
        path: String,
    },
    /// Something in it is wrong.
    #[error("{path}:{line}: {fault}")]
    Wrong {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        fault: String,
    },
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Options, FileError> {
    let name = path.display().to_string();
    let unreadable = |cause| FileError::Unreadable { path: name.clone(), cause };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(FileError::TooLarge { path: name });
    }
    parse(&name, &text)
}

/// Parses a file's text; `path` is named in errors.
pub(super) fn parse(path: &str, text: &str) -> Result<Options, FileError> {
    toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.get(..offset).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let line_text = text.lines().nth(line - 1).unwrap_or_default();
        FileError::Wrong { path: path.to_owned(), line, fault: fault(error.message(), line_text) }
    })
}

/// The parser's message in one line, with the key that was perhaps meant.
fn fault(message: &str, line_text: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") {
        let unknown = quoted.next().unwrap_or_default();
        let near =
            quoted.map(|key| (strsim::jaro_winkler(unknown, key), key)).max_by(|a, b| a.0.total_cmp(&b.0));
        return match near {
            Some((likeness, key)) if likeness >= LIKENESS_MIN => {
                format!("unknown key \"{unknown}\"; did you mean \"{key}\"?")
            }
            _ => format!("unknown key \"{unknown}\"; `trunkline reference` lists every key"),
        };
    }
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ").replace('`', "\"");
    match line_text.split_once('=') {
        Some((key, _)) if !message.contains(key.trim()) => format!("{}: {message}", key.trim()),
        _ => message,
    }
}

/// A file with every option and ten thousand users is below this.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Below this two words are different words (Jaro-Winkler, 0 to 1).
const LIKENESS_MIN: f64 = 0.75;
