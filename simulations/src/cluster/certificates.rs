//! Certificates, made as an operator makes them: with `trunklinectl ca`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::server::program;

/// A CA directory and what was issued from it.
pub struct Authority {
    directory: PathBuf,
}

impl Authority {
    /// `trunklinectl ca init`, and an operator of each role.
    pub fn init(directory: &Path) -> Result<Self, String> {
        let authority = Self { directory: directory.to_owned() };
        run(&["ca", "init", &directory.to_string_lossy()])?;
        for role in ["viewer", "operator", "admin"] {
            authority.issue(&["operator", role, "--role", role], &authority.operator(role))?;
        }
        Ok(authority)
    }

    /// `trunklinectl ca issue … --dir … --out …`.
    pub fn issue(&self, what: &[&str], out: &Path) -> Result<(), String> {
        let (directory, out) = (self.directory.to_string_lossy(), out.to_string_lossy());
        run(&[&["ca", "issue"], what, &["--dir", &directory, "--out", &out]].concat())
    }

    /// The identity directory of the operator with this role.
    pub fn operator(&self, role: &str) -> PathBuf {
        self.directory.join(format!("operator-{role}"))
    }

    /// A file of the CA directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Runs trunklinectl where it needs no network.
pub fn run(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program("trunklinectl")?).args(arguments).output();
    let output = output.map_err(|error| format!("trunklinectl: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("trunklinectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}
