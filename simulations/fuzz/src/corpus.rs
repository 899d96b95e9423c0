//! The committed corpus: inputs that reach different code, found by fuzzing and kept small.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// Where the inputs of a target lie.
#[must_use]
pub fn directory(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// Every input of a target, in order of file names.
///
/// # Errors
/// Whatever reading the directory gives.
pub fn inputs(target: &str) -> io::Result<Vec<Vec<u8>>> {
    let mut paths = fs::read_dir(directory(target))?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    paths.into_iter().map(fs::read).collect()
}
