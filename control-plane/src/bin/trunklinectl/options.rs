//! The command line.

use clap::{Parser, Subcommand};

use crate::commands::{
    allocations, ca, completions, config, drain, events, keys, nodes, policy, slices, table, usage,
};
use crate::connection::ConnectionOptions;
use crate::output::Output;
use crate::time;

/// Asks a Trunkline control plane, and tells it what to do.
#[derive(Parser)]
#[command(name = "trunklinectl", version, propagate_version = true, after_help = EXAMPLES)]
pub struct Options {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(clap::Args)]
#[command(next_help_heading = "Connection and output")]
pub struct Global {
    #[command(flatten)]
    pub connection: ConnectionOptions,

    /// For whom to print: people or programs.
    #[arg(long, short, global = true, value_enum, default_value = "table", env = "TRUNKLINE_OUTPUT")]
    pub output: Output,

    /// How long a call is tried, on every replica, before it counts as failed.
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = time::parse_span_s)]
    pub timeout: u64,

    /// Why a change is made, for the audit log.
    #[arg(long, global = true, value_name = "TEXT")]
    pub reason: Option<String>,

    /// Names a change, so that the same command given again does it once; random by default.
    #[arg(long, global = true, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Shows the control plane: replicas, leader, store, roll-out.
    Status,
    /// Shows the servers; adds and removes them.
    #[command(after_help = "\
Examples:
  trunklinectl nodes
  trunklinectl nodes --watch --site 1
  trunklinectl nodes add 1.3 --weight 0.5
  trunklinectl nodes remove 1.3")]
    Nodes(nodes::Nodes),
    /// Shows the sites.
    Sites,
    /// Takes new allocations away from a server or a site, and waits until the last one has ended.
    ///
    /// Calls go on until they end by themselves. Ctrl-C ends the waiting; the drain stays in place.
    #[command(after_help = "\
Examples:
  trunklinectl drain 1.3
  trunklinectl drain --site 2 --no-wait
  trunklinectl undrain 1.3")]
    Drain(drain::Drain),
    /// Gives new allocations back to a server or a site.
    Undrain(drain::Undrain),
    /// Sets a server's share of its site's new flows.
    #[command(after_help = "Example:\n  trunklinectl weight 1.3 0.5")]
    Weight(nodes::Weight),
    /// Shows a site's steering table.
    #[command(after_help = "\
Examples:
  trunklinectl table show 1
  trunklinectl table diff 1 --since 15m")]
    Table(table::TableArgs),
    /// Shows which server owns which ports of shared relay addresses.
    #[command(after_help = "Example:\n  trunklinectl slices 1.3")]
    Slices(slices::Slices),
    /// Shows, makes and deletes keys of applications, refuses credentials, rotates the fleet's own key.
    #[command(after_help = "\
Examples:
  trunklinectl keys
  trunklinectl keys create \"video service\"
  trunklinectl keys rotate-fleet-key")]
    Keys(keys::Keys),
    /// Shows and changes whom the edge serves and whom it reaches.
    #[command(after_help = "\
Examples:
  trunklinectl policy
  trunklinectl policy deny-client add 192.0.2.0/24 2001:db8::/32
  trunklinectl policy deny-asn remove AS64496")]
    Policy(policy::PolicyArgs),
    /// Finds live allocations, and closes them.
    #[command(after_help = "\
Examples:
  trunklinectl allocations --user alice
  trunklinectl allocations --address 192.0.2.7
  trunklinectl allocations close 1.2 0000002a00000001")]
    Allocations(allocations::Allocations),
    /// Shows who relayed how much, by key, user and hour.
    #[command(after_help = "\
Examples:
  trunklinectl usage --from 7d --by key
  trunklinectl usage --from 2026-11-01 --to 2026-12-01 --csv > november.csv")]
    Usage(usage::Usage),
    /// Shows who changed what, and what the control plane did by itself.
    #[command(after_help = "\
Examples:
  trunklinectl events --last 20
  trunklinectl events --follow --output json")]
    Events(events::Events),
    /// Shows and changes the settings of the fleet.
    #[command(after_help = "\
Examples:
  trunklinectl config show > settings.toml
  trunklinectl config apply settings.toml --dry-run
  trunklinectl config apply settings.toml")]
    Config(config::Config),
    /// Looks for what is wrong or soon will be, and says what to do. Ends with exit code 1 when there are problems.
    ///
    /// Looks at certificates, clocks, replicas, store, versions, settings, servers, ports and network.
    Doctor,
    /// Makes and rotates certificates. Works on files and asks nobody.
    #[command(after_help = "\
Examples:
  trunklinectl ca init ca
  trunklinectl ca issue operator alice --role admin --dir ca --out alice
  trunklinectl ca show --dir ca")]
    Ca(ca::Ca),
    /// Prints a script with which a shell completes this command.
    #[command(after_help = "Example:\n  trunklinectl completions bash > /etc/bash_completion.d/trunklinectl")]
    Completions(completions::Completions),
    /// Prints the reference of every command, in Markdown.
    #[command(hide = true)]
    Reference,
}

const EXAMPLES: &str = "\
Examples:
  trunklinectl --endpoint https://10.0.0.5:7443 --identity ./alice status
  export TRUNKLINE_ENDPOINT=https://10.0.0.5:7443,https://10.0.0.6:7443 TRUNKLINE_IDENTITY=./alice
  trunklinectl nodes --watch
  trunklinectl drain 1.3
  trunklinectl doctor

Exit codes: 0 done, 1 failed, 2 the command line is wrong, 3 begun and not finished (a roll-out that stopped, a wait that
was interrupted, servers that did not answer).";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }
}
