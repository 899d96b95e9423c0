//! The `trunkline` command.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use tracing_subscriber::EnvFilter;
use trunkline_control_plane::options as replica;
use trunkline_node::options::{Mode, Options};
use trunkline_node::{node, reference, up};

fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(help)
            if !help.use_stderr() || help.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand =>
        {
            // A closed standard output is nobody's fault.
            let _ = help.print();
            return ExitCode::from(if help.use_stderr() { EXIT_USAGE } else { 0 });
        }
        Err(error) => return refuse(&in_one_line(&error), EXIT_USAGE),
    };
    match run(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&format!("{error:#}"), EXIT_FAILURE),
    }
}

fn command() -> Command {
    let up = Mode::Up
        .command()
        .about("Run a TURN and STUN server with its HTTP API and demo page: one process, no root, no other service")
        .after_help(UP_EXAMPLES)
        .after_long_help(UP_EXAMPLES);
    let node = Mode::Node
        .command()
        .about("Run one server of a fleet: it takes its configuration from a control plane, and outlives it")
        .after_help(NODE_EXAMPLES)
        .after_long_help(NODE_EXAMPLES);
    let control_plane = replica::Options::augment_args(Command::new("control-plane"))
        .about("Run a replica of the control plane over etcd: it tells servers what to do, and operators how they are");
    let reference = Command::new("reference").about("Print the reference of every option as Markdown");
    Command::new("trunkline")
        .about("An anycast WebRTC edge that runs on your own servers")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([up, node, control_plane, reference])
        .after_help(EXAMPLES)
}

fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    match matches.subcommand() {
        Some(("up", matches)) => {
            let options = Options::from_matches(matches)?;
            start_log(&options.log)?;
            Ok(up::run(&options)?)
        }
        Some(("control-plane", matches)) => {
            let options = replica::Options::from_arg_matches(matches)?;
            start_log(&options.log)?;
            Ok(trunkline_control_plane::replica::run(&options)?)
        }
        Some(("node", matches)) => {
            let options = Options::from_matches(matches)?;
            start_log(&options.log)?;
            Ok(node::run(&options)?)
        }
        _ => {
            use std::io::Write;
            // A closed standard output is nobody's fault.
            let _ = std::io::stdout().write_all(reference::markdown().as_bytes());
            Ok(())
        }
    }
}

fn start_log(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|error| anyhow::anyhow!("--log {filter:?}: {error}"))?;
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        // It would complain to standard error that standard error is gone, and panic over that.
        .log_internal_errors(false)
        .init();
    Ok(())
}

/// What was wrong and clap's tips, without the usage behind them.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let said = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let said: Vec<_> =
        said.filter(|line| !line.is_empty() && !line.starts_with("For more information")).collect();
    let line = said.join("; ");
    let commands = ["up", "node", "control-plane"];
    let given = std::env::args().nth(1).filter(|given| commands.contains(&given.as_str()));
    let command = given.unwrap_or_else(|| "up".to_owned());
    format!("{}; see `trunkline {command} --help`", line.strip_prefix("error: ").unwrap_or(&line))
}

fn refuse(line: &str, code: u8) -> ExitCode {
    eprintln!("trunkline: {line}");
    ExitCode::from(code)
}

const EXIT_FAILURE: u8 = 1;
const EXIT_USAGE: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  trunkline up                       serve on every address of this machine
  trunkline up --help                every option, and examples
  trunkline node --help              one server of a fleet
  trunkline reference > options.md   every option as a document";

const NODE_EXAMPLES: &str = "\
Examples:
  The first start of a server, with the token that `trunklinectl nodes add 1.2` printed:
    trunkline node --control-plane https://10.0.0.5:7443 --control-plane https://10.0.0.6:7443 \\
        --join tl1.1.2.… --data-dir /var/lib/trunkline --encapsulation-address 10.0.0.12:6080

  Later starts; the certificate is in the data directory:
    trunkline node --config /etc/trunkline.toml

  Relay addresses that all servers share (anycast); the control plane leases their ports:
    trunkline node --config /etc/trunkline.toml --shared-relay-address 192.0.2.10";

const UP_EXAMPLES: &str = "\
Examples:
  Try it; everything is kept in ./trunkline-data, and the printed link opens a demo call:
    trunkline up

  A server on the Internet with a certificate that browsers trust:
    trunkline up --data-dir /var/lib/trunkline --address 203.0.113.7 \\
        --tls-cert /etc/ssl/turn/fullchain.pem --tls-key /etc/ssl/turn/privkey.pem

  In the place of coturn, with the secret that the application has already:
    trunkline up --static-auth-secret north --realm example.org

  Peers in a private network that this server may relay to:
    trunkline up --allow-peer 10.20.0.0/16 --deny-peer 10.20.30.0/24

  Options from a file, one of them overridden:
    trunkline up --config /etc/trunkline.toml --log debug

  Credentials for an application:
    curl -X POST -H \"Authorization: Bearer $(jq -r .turnKey.secret trunkline-data/quickstart.json)\" \\
        -d '{\"ttl\":3600}' \\
        http://127.0.0.1:8080/v1/turn/keys/$(jq -r .turnKey.id trunkline-data/quickstart.json)/credentials/generate-ice-servers";
