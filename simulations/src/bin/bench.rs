//! `bench turn` compares TURN servers on this machine; see `bench/README.md` in this package.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use trunkline_simulations::bench::forwarder;
use trunkline_simulations::bench::rate::Timing;
use trunkline_simulations::bench::report::{self, Provenance};
use trunkline_simulations::bench::server::Programs;
use trunkline_simulations::bench::streams;
use trunkline_simulations::bench::suite::{self, Outcome, Plan, Selection};
use trunkline_simulations::netns::require_root;

#[derive(Parser)]
#[command(about = "Benchmarks of Trunkline against other servers")]
struct Cli {
    #[command(subcommand)]
    command: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// Trunkline, coturn and a bare UDP forwarder side by side.
    Turn(Box<TurnOptions>),
    /// One control-plane replica over etcd, and very many servers' streams to it.
    Streams {
        /// Sites of the fleet.
        #[arg(long, default_value_t = 250)]
        sites: u16,
        /// Servers of each.
        #[arg(long, default_value_t = 8)]
        servers: u16,
        /// How often one server's weight is changed.
        #[arg(long, default_value_t = 5)]
        rounds: u32,
    },
    /// The bare UDP forwarder by itself; `turn` starts it where it is needed.
    Forward {
        /// Where clients send to.
        #[arg(long)]
        address: SocketAddrV4,
        /// Where the relay sockets are.
        #[arg(long)]
        relay_address: Ipv4Addr,
    },
}

#[derive(Args)]
struct TurnOptions {
    /// How often each measurement is taken; medians are reported.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// One round of short measurements: shows that everything works, not how well.
    #[arg(long)]
    quick: bool,
    /// Only these measurements, by parts of the names: coturn, coturn/binding, */client-to-peer.
    #[arg(long, value_name = "SERVER/TEST")]
    only: Vec<Selection>,
    /// Write all values here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the ratios here.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Put the table into README.md in this directory, and turn.json and turn.svg beside it.
    #[arg(long, value_name = "DIR")]
    publish: Option<PathBuf>,
    /// The trunkline binary [default: the one beside this binary].
    #[arg(long, value_name = "PATH")]
    trunkline: Option<PathBuf>,
    /// A further option for `trunkline up`, such as --trunkline-option=--user-quota=0.
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    trunkline_option: Vec<String>,
    /// coturn's binary.
    #[arg(long, value_name = "PATH", default_value = "turnserver")]
    coturn: PathBuf,
    /// coturn's relay threads besides its listener's; 0 serves everything on one thread.
    #[arg(long, value_name = "N", default_value_t = 1)]
    coturn_relay_threads: u32,
    /// Packets per second of the latency test [default: half of coturn's maximum].
    #[arg(long, value_name = "PPS")]
    latency_rate: Option<f64>,
    /// Idle allocations of the memory test.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    idle_allocations: usize,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Benchmark::Turn(options) => turn(&options),
        Benchmark::Streams { sites, servers, rounds } => streams(streams::Plan { sites, servers, rounds }),
        Benchmark::Forward { address, relay_address } => Ok(forwarder::run(address, relay_address)?),
    }
}

fn turn(options: &TurnOptions) -> anyhow::Result<()> {
    require_root().map_err(anyhow::Error::msg)?;
    ensure!(std::thread::available_parallelism()?.get() >= 2, "server and generator need a core each");
    let plan = plan(options)?;
    let provenance = provenance(&plan)?;
    let Outcome { results, failures, disturbed } = suite::run(&plan)?;
    let table = report::table(&results, &provenance);
    print!("{table}");
    if disturbed > 0 {
        eprintln!("{disturbed} measurements were disturbed: something else runs on this machine");
    }
    let json = serde_json::to_string_pretty(&report::json(&results, &provenance))? + "\n";
    if let Some(path) = &options.json {
        write(path, &json)?;
    }
    if let Some(path) = &options.plot {
        report::plot(&results, path)?;
    }
    ensure!(failures.is_empty(), "not everything could be measured:\n{}", failures.join("\n"));
    if let Some(directory) = &options.publish {
        write(&directory.join("turn.json"), &json)?;
        report::plot(&results, &directory.join("turn.svg"))?;
        report::replace_between_markers(&directory.join("README.md"), &table)?;
    }
    Ok(())
}

fn streams(plan: streams::Plan) -> anyhow::Result<()> {
    require_root().map_err(anyhow::Error::msg)?;
    let outcome = streams::run(plan)?;
    println!(
        "{} streams: every server had its first configuration after {:.1?}",
        outcome.nodes, outcome.joined
    );
    println!("| change | last server after | slowest epoch | epochs | most bytes | median bytes |");
    println!("|---:|---:|---:|---:|---:|---:|");
    for (number, change) in outcome.changes.iter().enumerate() {
        println!(
            "| {} | {:.0} ms | {:.0} ms | {} | {} | {} |",
            number + 1,
            change.last.as_secs_f64() * 1e3,
            change.slowest_epoch.as_secs_f64() * 1e3,
            change.epochs,
            change.most_bytes,
            change.median_bytes,
        );
    }
    let mib = |kib: u64| kib / 1_024;
    println!(
        "replica: {} MiB without servers, {} MiB with all of them, {} MiB at most",
        mib(outcome.empty_kib),
        mib(outcome.resident_kib),
        mib(outcome.peak_kib)
    );
    Ok(())
}

fn plan(options: &TurnOptions) -> anyhow::Result<Plan> {
    let trunkline = match &options.trunkline {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("trunkline"),
    };
    let plan = Plan {
        rounds: if options.quick { 1 } else { options.rounds },
        timing: if options.quick { Timing::QUICK } else { Timing::FULL },
        idle_allocations: options.idle_allocations,
        only: options.only.clone(),
        latency_per_second: options.latency_rate,
        programs: Programs {
            trunkline,
            trunkline_options: options.trunkline_option.clone(),
            coturn: options.coturn.clone(),
            coturn_relay_threads: options.coturn_relay_threads,
        },
    };
    Ok(plan)
}

fn provenance(plan: &Plan) -> anyhow::Result<Provenance> {
    let coturn = Command::new(&plan.programs.coturn).arg("--version").output();
    let coturn = coturn.context("coturn is needed (apt install coturn)")?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Ok(Provenance {
        rounds: plan.rounds,
        seconds: plan.timing.measure.as_secs_f64(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        processor: processor.map_or("unknown processor", |(_, name)| name).to_owned(),
        coturn: String::from_utf8_lossy(&coturn.stdout).lines().last().unwrap_or("unknown").to_owned(),
    })
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
