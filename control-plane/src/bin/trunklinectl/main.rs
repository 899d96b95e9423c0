//! The operator's command. It asks the control plane and shows the answers; it decides nothing about the fleet itself.

#![forbid(unsafe_code)]

mod commands;
mod connection;
mod fault;
mod json;
mod options;
mod output;
mod session;
mod settings_file;
mod time;
mod waiting;
mod words;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use commands::{
    allocations, ca, completions, config, doctor, drain, events, keys, nodes, policy, reference, sites,
    slices, status, table, usage,
};
use connection::Replicas;
use fault::Fault;
use options::{Command, Global, Options};
use session::Session;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("trunklinectl: {fault}");
            ExitCode::from(fault.exit_code())
        }
    }
}

fn run(options: Options) -> Result<(), Fault> {
    match options.command {
        Command::Completions(what) => completions::run(&what),
        Command::Reference => reference::run(),
        Command::Ca(what) => ca::run(options.global.output, what),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Fault::Local(format!("cannot start: {error}")))?;
            runtime.block_on(ask(options.global, command))
        }
    }
}

/// Commands that are questions to the control plane.
async fn ask(global: Global, command: Command) -> Result<(), Fault> {
    let replicas = Replicas::new(&global.connection, Path::new("."))?;
    let timeout = Duration::from_secs(global.timeout.max(1));
    let session = &mut Session::new(replicas, timeout, global.idempotency_key, global.reason);
    let output = global.output;
    match command {
        Command::Status => status::run(session, output).await,
        Command::Nodes(what) => nodes::run(session, output, what).await,
        Command::Sites => sites::run(session, output).await,
        Command::Drain(what) => drain::drain(session, output, &what).await,
        Command::Undrain(what) => drain::undrain(session, output, &what).await,
        Command::Weight(what) => nodes::weight(session, output, &what).await,
        Command::Table(what) => table::run(session, output, &what).await,
        Command::Slices(what) => slices::run(session, output, &what).await,
        Command::Keys(what) => keys::run(session, output, what).await,
        Command::Policy(what) => policy::run(session, output, what).await,
        Command::Allocations(what) => allocations::run(session, output, what).await,
        Command::Usage(what) => usage::run(session, output, what).await,
        Command::Events(what) => events::run(session, output, &what).await,
        Command::Config(what) => config::run(session, output, what).await,
        Command::Doctor => doctor::run(session, output).await,
        Command::Ca(what) => ca::run(output, what),
        Command::Completions(what) => completions::run(&what),
        Command::Reference => reference::run(),
    }
}
