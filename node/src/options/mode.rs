//! The commands that take the options, and the few options that one of them does not take.

use clap::{Args, Command};

use super::Options;

/// A command that runs a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `trunkline up`: its own control plane.
    Up,
    /// `trunkline node`: one server of a fleet.
    Node,
}

impl Mode {
    /// The command's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Node => "node",
        }
    }

    /// The command with its options, without words about it.
    #[must_use]
    pub fn command(self) -> Command {
        let refuses = |id: &str| self.refuses(id);
        Options::augment_args(Command::new(self.name())).mut_args(|argument| {
            let is_refused = refuses(argument.get_id().as_str());
            argument.hide(is_refused)
        })
    }

    /// Whether the option (or table of the file) of this field is the other command's alone.
    #[must_use]
    pub fn refuses(self, field: &str) -> bool {
        match self {
            Self::Up => NODE_ONLY.contains(&field),
            Self::Node => UP_ONLY.contains(&field),
        }
    }
}

const NODE_ONLY: [&str; 4] = ["control_plane", "join", "encapsulation_address", "shared_relay_address"];
const UP_ONLY: [&str; 2] = ["json", "fleet"];
