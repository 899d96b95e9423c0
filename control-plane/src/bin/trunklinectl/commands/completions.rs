//! `completions`: what a shell needs to complete this command.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::fault::Fault;
use crate::output;

/// For which shell.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell.
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// When standard output is gone.
pub fn run(completions: &Completions) -> Result<(), Fault> {
    let mut script = vec![];
    clap_complete::generate(
        completions.shell,
        &mut crate::options::Options::command(),
        "trunklinectl",
        &mut script,
    );
    output::print(&String::from_utf8_lossy(&script))
}
