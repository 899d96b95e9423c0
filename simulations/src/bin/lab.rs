//! `lab` builds an internet with sites, servers and clients on this machine; see `README.md` in this package.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use trunkline_simulations::lab::faults::Action;
use trunkline_simulations::lab::topology::Topology;
use trunkline_simulations::lab::{Lab, announcer, nat, teardown, wire};
use trunkline_simulations::netns::require_root;

#[derive(Parser)]
#[command(
    about = "An internet of routers, sites, servers and clients on this machine",
    after_help = "Begin with a topology file; the smallest one is\n\n    \
                  name = \"mine\"\n    [[sites]]\n    name = \"ams\"\n    servers = 4\n    [[clients]]\n    \
                  name = \"alice\"\n\nand `lab up FILE` builds it. simulations/README.md teaches the rest, \
                  simulations/topologies/ holds examples."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build a lab and wait until its routers know the way.
    Up {
        /// The topology file (TOML).
        file: PathBuf,
        /// Another name than the file gives; two labs with different names run side by side.
        #[arg(long)]
        name: Option<String>,
    },
    /// End a lab, however far it was built: its programs, namespaces and files.
    Down {
        /// The lab; may be left out while there is one.
        name: Option<String>,
        /// Every lab there is.
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Show the labs that there are.
    List,
    /// Show who announces, which sessions are up, and which site each client reaches.
    Status(Which),
    /// Run a command on a machine of the lab; its exit code is this one's.
    Exec {
        #[command(flatten)]
        which: Which,
        /// A client, peer, server, site (its router) or router.
        machine: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Show the way of a client's packets to the service addresses, hop by hop.
    Trace {
        #[command(flatten)]
        which: Which,
        /// The client or peer.
        client: String,
    },
    /// Break something, or undo it.
    #[command(arg_required_else_help = true)]
    Fault {
        #[command(flatten)]
        which: Which,
        /// Show what is broken now.
        #[arg(long)]
        list: bool,
        #[command(subcommand)]
        action: Option<Action>,
    },
    /// Hold an interface with the anycast addresses, as a node does; the lab starts this where it is needed.
    #[command(hide = true)]
    Announcer {
        #[arg(long)]
        interface: String,
        addresses: Vec<IpAddr>,
    },
    /// Carry frames between two TAPs; the lab starts this for links with a delay, jitter, loss or rate.
    #[command(disable_help_flag = true)]
    Wire {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Be a NAT between a client and its router; the lab starts this for clients with `nat`.
    #[command(disable_help_flag = true)]
    Nat {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(clap::Args)]
struct Which {
    /// The lab; may be left out while there is one.
    #[arg(long)]
    lab: Option<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("lab: {fault:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Announcer { interface, addresses } => return said(announcer::main(&interface, &addresses)),
        Command::Wire { arguments } => return said(wire::main(&arguments)),
        Command::Nat { arguments } => return said(nat::main(&arguments)),
        _ => said(require_root())?,
    }
    match command {
        Command::Up { file, name } => up(&file, name),
        Command::Down { name, all } => down(name, all),
        Command::List => list(),
        Command::Status(which) => show(&said(which.open()?.status())?),
        Command::Exec { which, machine, command } => exec(&which.open()?, &machine, &command),
        Command::Trace { which, client } => trace(&which.open()?, &client),
        Command::Fault { which, list, action } => fault(&mut which.open()?, list, action.as_ref()),
        Command::Announcer { .. } | Command::Wire { .. } | Command::Nat { .. } => Ok(()),
    }
}

fn up(file: &std::path::Path, name: Option<String>) -> anyhow::Result<()> {
    let topology = said(Topology::read(file))?;
    let name = name.unwrap_or_else(|| topology.name.clone());
    let lab = said(Lab::up_to_stay(&topology, &name, &mut |step| eprintln!("{step}")))?;
    let client = topology.clients.first().map_or(topology.sites[0].name.as_str(), |client| &client.name);
    println!(
        "lab {name} is up. Next:\n  \
         lab status                          who announces, and which site each client reaches\n  \
         lab exec {client} -- COMMAND          run something there\n  \
         lab fault --help                    break something\n  \
         lab down                            end it"
    );
    drop(lab);
    Ok(())
}

fn down(name: Option<String>, all: bool) -> anyhow::Result<()> {
    let labs = if all { teardown::all_labs() } else { vec![only(name)?] };
    for lab in labs {
        let was_there = teardown::all_labs().contains(&lab);
        said(teardown::down(&lab)).with_context(|| format!("lab {lab}"))?;
        println!(
            "{}",
            if was_there { format!("lab {lab} is down") } else { format!("there was no lab {lab}") }
        );
    }
    Ok(())
}

fn list() -> anyhow::Result<()> {
    let line = |lab: String| match Lab::open(&lab) {
        Ok(opened) => format!("{lab}  {} machines\n", opened.plan().machines.len()),
        Err(_) => format!("{lab}  being built, or not built to its end: `lab down {lab}` removes it\n"),
    };
    show(&teardown::all_labs().into_iter().map(line).collect::<String>())
}

fn exec(lab: &Lab, machine: &str, command: &[String]) -> anyhow::Result<()> {
    let (program, arguments) = command.split_first().context("no command")?;
    let fault = said(lab.entrance(machine))?.command(program).args(arguments).exec();
    bail!("{program}: {fault}")
}

fn trace(lab: &Lab, client: &str) -> anyhow::Result<()> {
    let mut text = String::new();
    for address in &lab.topology().anycast.service {
        let way = said(lab.way(client, *address))?;
        text.push_str(&format!("{address}\n"));
        for (hop, machine) in way.machines.iter().enumerate() {
            text.push_str(&format!("  {hop:2}  {machine}\n"));
        }
        match way.end {
            Ok(()) => text.push_str("      spread over the servers there\n"),
            Err(fault) => text.push_str(&format!("      lost: {fault}\n")),
        }
    }
    show(&text)
}

fn fault(lab: &mut Lab, list: bool, action: Option<&Action>) -> anyhow::Result<()> {
    if let Some(action) = action {
        println!("{}", said(lab.inject(action))?);
    }
    if !list {
        return Ok(());
    }
    let faults = said(lab.faults())?;
    let none = if faults.is_empty() { "no faults\n" } else { "" };
    let lines = faults.iter().map(|fault| format!("{fault}\n"));
    show(&lines.chain([none.to_owned()]).collect::<String>())
}

/// Prints what somebody may cut short, as `lab status | head` does.
fn show(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

impl Which {
    fn open(self) -> anyhow::Result<Lab> {
        said(Lab::open(&only(self.lab)?))
    }
}

/// The lab of that name, or the one that there is.
fn only(name: Option<String>) -> anyhow::Result<String> {
    let labs = teardown::all_labs();
    match (name, labs.as_slice()) {
        (Some(name), _) => Ok(name),
        (None, [one]) => Ok(one.clone()),
        (None, []) => bail!("there is no lab: `lab up FILE` builds one"),
        (None, several) => bail!("there are several labs, name one: {}", several.join(", ")),
    }
}

fn said<T>(result: Result<T, String>) -> anyhow::Result<T> {
    result.map_err(anyhow::Error::msg)
}
