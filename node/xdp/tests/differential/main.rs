//! Two truths are one: the reference in Rust and the program in the kernel say the same of millions of generated packets,
//! to the byte. Needs root and a kernel with BPF; `TRUNKLINE_PACKETS` sets the number of packets of a trial, and
//! `TRUNKLINE_SEED` where the generator begins.

mod fleet;
mod generate;
mod random;
#[path = "../../../cores/steer/tests/site/scene.rs"]
mod scene;

use std::collections::BTreeMap;

use aya::TestRun;
use libtest_mimic::{Arguments, Trial};
use trunkline_steer::{Known, Reason, Verdict};
use trunkline_xdp::{Health, Neighbour, Program, SERVERS_MAX, build};

use crate::fleet::Scene;
use crate::random::Random;

fn main() {
    let arguments = Arguments::from_args();
    let is_root = rustix::process::geteuid().is_root();
    let is_ignored = !is_root && std::env::var_os("CI").is_none();
    let trial = |name: &str, fabric_v6: bool| {
        Trial::test(name, move || compare(fabric_v6).map_err(Into::into)).with_ignored_flag(is_ignored)
    };
    let trials = vec![
        Trial::test("every_fixture_has_its_verdict_and_its_packet", || fixtures().map_err(Into::into))
            .with_ignored_flag(is_ignored),
        trial("the_program_and_the_reference_agree_over_an_ipv4_fabric", false),
        trial("the_program_and_the_reference_agree_over_an_ipv6_fabric", true),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

/// What the reference's own test demands of the reference.
fn fixtures() -> Result<(), String> {
    let text = |error: trunkline_xdp::LoadError| error.to_string();
    let mut program = Program::load().map_err(text)?;
    for server in 1..=fleet::SERVERS {
        program.set_neighbour(server, neighbour(server)).map_err(text)?;
    }
    let mut known = fleet::KnownFlows::default();
    for (flow, server) in scene::known() {
        program.register(&flow, server).map_err(text)?;
        known.0.insert(flow, server);
    }
    let scene = Scene { steerer: scene::steerer(), dead: scene::dead(), dead_servers: vec![4], known };
    tell(&mut program, &scene)?;
    for fixture in scene::fixtures() {
        let reason = one(&mut program, &scene, &fixture.frame)
            .map_err(|fault| format!("{}: {fault}", fixture.description))?;
        let (counted, changes) = (program.counter(reason).map_err(text)?.packets, fixture.out.is_some());
        if !fixture.verdict.ends_with(reason.name())
            || counted == 0
            || changes != fixture.verdict.starts_with("forward")
        {
            return Err(format!("{}: {} of the program", fixture.description, reason.name()));
        }
    }
    Ok(())
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn compare(fabric_v6: bool) -> Result<(), String> {
    let (packets, seed) = (number("TRUNKLINE_PACKETS", 1_000_000), number("TRUNKLINE_SEED", 1));
    let mut program = Program::load().map_err(|error| error.to_string())?;
    for server in 1..=fleet::SERVERS {
        program.set_neighbour(server, neighbour(server)).map_err(|error| error.to_string())?;
    }
    let mut seen: BTreeMap<Reason, u64> = BTreeMap::new();
    let mut random = Random(seed);
    let mut done = 0;
    while done < packets {
        let mut scene = fleet::scene(&mut random, fabric_v6);
        tell(&mut program, &scene)?;
        for _ in 0..PER_SCENE.min(packets - done) {
            let known_before = scene.known.0.len();
            let began_at = random.0;
            let frame = generate::frame(&mut random, &mut scene, fabric_v6);
            if scene.known.0.len() != known_before {
                for (flow, server) in &scene.known.0 {
                    program.register(flow, *server).map_err(|error| error.to_string())?;
                }
            }
            let reason =
                one(&mut program, &scene, &frame).map_err(|fault| format!("{fault}\nat {began_at:#x}"))?;
            *seen.entry(reason).or_default() += 1;
        }
        for flow in scene.known.0.keys() {
            program.forget(flow).map_err(|error| error.to_string())?;
        }
        done += PER_SCENE;
    }
    for reason in Reason::ALL {
        let (ours, theirs) =
            (seen.get(reason).copied().unwrap_or(0), program.counter(*reason).unwrap_or_default());
        if ours != theirs.packets {
            return Err(format!(
                "{}: the reference {ours} times, the program {}",
                reason.name(),
                theirs.packets
            ));
        }
        if ours == 0 {
            return Err(format!("no packet of {packets} came to {}", reason.name()));
        }
    }
    println!("{packets} packets: {seen:?}");
    Ok(())
}

fn neighbour(server: u16) -> Neighbour {
    let [high, low] = server.to_be_bytes();
    Neighbour {
        good_until_ns: u64::MAX,
        interface: 0,
        destination: [2, 0, 0, 1, high, low],
        source: [2, 0, 0, 2, high, low],
    }
}

/// The same for both.
fn tell(program: &mut Program, scene: &Scene) -> Result<(), String> {
    let config = build(&scene.steerer).map_err(|unfit| unfit.to_string())?;
    let mut health = Health { beat_ns: u64::MAX, is_dead: [0; SERVERS_MAX] };
    for server in &scene.dead_servers {
        health.is_dead[usize::from(*server)] = 1;
        if *server == scene.steerer.me.server {
            health.beat_ns = 0;
        }
    }
    program
        .set_health(&health)
        .and_then(|()| program.put_in_force(&config))
        .map_err(|error| error.to_string())
}

fn one(program: &mut Program, scene: &Scene, frame: &[u8]) -> Result<Reason, String> {
    let known = Known { flows: &scene.known, dead: &scene.dead };
    let mut out = vec![];
    let verdict = scene.steerer.steer(frame, &known, &mut out);
    let mut bytes = vec![0; 4_096];
    let xdp = program.steer().map_err(|error| error.to_string())?;
    let options =
        aya::TestRunOptions { data_in: Some(frame), data_out: Some(&mut bytes), ..Default::default() };
    let result = xdp.test_run(options).map_err(|error| format!("{error}: {error:?}"))?;
    bytes.truncate(result.data_size_out as usize);
    let expected = match verdict {
        Verdict::Drop(_) => (XDP_DROP, frame.to_vec()),
        Verdict::Pass(_) if out.is_empty() => (XDP_PASS, frame.to_vec()),
        Verdict::Pass(_) => (XDP_PASS, with_ethernet(frame, &frame[..12], &out)),
        Verdict::Forward { to, .. } => {
            let ends = neighbour(to);
            let ethernet = [ends.destination, ends.source].concat();
            (XDP_TX, with_ethernet(frame, &ethernet, &out))
        }
    };
    // What is dropped may have been changed already.
    let is_same = result.return_value == expected.0 && (expected.0 == XDP_DROP || bytes == expected.1);
    if is_same {
        return Ok(verdict.reason());
    }
    Err(format!(
        "{verdict:?} of the reference, {} of the program\nframe     {}\nreference {}\nprogram   {}",
        result.return_value,
        hex(frame),
        hex(&expected.1),
        hex(&bytes)
    ))
}

/// The frame's Ethernet header and tags with these addresses, around a packet.
fn with_ethernet(frame: &[u8], addresses: &[u8], packet: &[u8]) -> Vec<u8> {
    let mut kind_at = 12;
    while matches!(frame[kind_at..kind_at + 2], [0x81, 0x00] | [0x88, 0xA8]) {
        kind_at += 4;
    }
    let kind: &[u8] = if packet[0] >> 4 == 4 { &[0x08, 0x00] } else { &[0x86, 0xDD] };
    [addresses, &frame[12..kind_at], kind, packet].concat()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const PER_SCENE: u64 = 5_000;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
