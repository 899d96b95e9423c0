//! What a steered packet costs: the program's own test run, a million times over one frame, seven rounds in turn, medians.
//!
//! `cargo run --release -p trunkline-xdp --example measure`, as root. A steered packet's figure contains the undoing of its
//! encapsulation, without which the frame could not be used again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aya::TestRun;
use aya::programs::Xdp;
use trunkline_steer::{FiveTuple, Role, Row, Steerer, SteeringTable};
use trunkline_wire::NodeId;
use trunkline_wire::token::{FleetKey, Keyring, Purpose};
use trunkline_xdp::{Health, LoadError, Neighbour, Program, SERVERS_MAX, build};

const REPEAT: u32 = 1_000_000;
const ROUNDS: usize = 7;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut program = Program::load()?;
    let steerer = steerer(16_384);
    program.set_health(&Health { beat_ns: u64::MAX, is_dead: [0; SERVERS_MAX] })?;
    let ethernet = [2, 0, 0, 0, 0, 1];
    program.set_neighbour(
        2,
        Neighbour { good_until_ns: u64::MAX, interface: 0, destination: ethernet, source: ethernet },
    )?;
    let config = build(&steerer)?;
    program.put_in_force(&config)?;
    let (own, other) = (client(1), client(2));
    program.register(&FiveTuple { protocol: 17, client: own, service: service() }, 1)?;
    let frames = [
        ("passes everything", frame(other), None),
        ("own flow, passed", frame(own), Some(2)),
        ("steered to another server", frame(other), Some(3)),
    ];
    let mut figures = vec![vec![]; frames.len()];
    for _ in 0..ROUNDS {
        for ((_, frame, expected), figures) in frames.iter().zip(&mut figures) {
            let xdp: Result<&mut Xdp, LoadError> =
                if expected.is_some() { program.measure() } else { program.pass() };
            figures.push(run(xdp?, frame, *expected)?);
        }
    }
    println!("| a 74-byte IPv4 UDP packet | ns |\n|---|---:|");
    for ((name, ..), mut figures) in frames.into_iter().zip(figures) {
        figures.sort_unstable();
        println!("| {name} | {} |", figures.get(ROUNDS / 2).map_or(0, Duration::as_nanos));
    }
    let mut swaps = vec![];
    for _ in 0..101 {
        let began = Instant::now();
        let config = build(&steerer)?;
        program.put_in_force(&config)?;
        swaps.push(began.elapsed());
    }
    swaps.sort_unstable();
    println!(
        "\na table of 16,384 rows is built and swapped in {:?} (median), {:?} at most",
        swaps[50], swaps[100]
    );
    Ok(())
}

/// Of one packet.
fn run(xdp: &mut Xdp, frame: &[u8], expected: Option<u32>) -> Result<Duration, Box<dyn std::error::Error>> {
    let mut out = vec![0; 2_048];
    let options = aya::TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        repeat: REPEAT,
        ..Default::default()
    };
    let result = xdp.test_run(options)?;
    if expected.is_some_and(|expected| expected != result.return_value) {
        return Err(format!("the program returns {}, not {expected:?}", result.return_value).into());
    }
    Ok(result.duration)
}

fn service() -> SocketAddr {
    SocketAddr::from(([198, 18, 0, 1], 3_478))
}

fn client(last: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, last], 40_000))
}

/// ChannelData of 28 bytes.
fn frame(client: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(client) = client else { unreachable!("IPv4") };
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(client.ip().octets());
    frame.extend([198, 18, 0, 1]);
    frame.extend(client.port().to_be_bytes());
    frame.extend(3_478_u16.to_be_bytes());
    frame.extend([0, 40, 0, 0, 0x40, 0, 0, 28]);
    frame.resize(74, 7);
    frame
}

/// Server 1 of two; every row is server 2's.
fn steerer(rows: usize) -> Steerer {
    let keyring = Keyring::new(FleetKey { id: 1, secret: [5; 16] }, vec![]);
    let place = |server: u16| (server, SocketAddr::from(([10, 77, 0, server as u8], 6_080)));
    Steerer {
        me: NodeId { site: 1, server: 1 },
        epoch: 1,
        table: SteeringTable::new(vec![Row::of(2); rows], [3; 16])
            .unwrap_or_else(|fault| panic!("{fault:?}")),
        roles: HashMap::from([(service().ip(), Role { is_service: true, slices: None })]),
        udp_ports: [3_478].into(),
        tcp_ports: [3_478].into(),
        members: [place(1), place(2)].into(),
        ufrag_keys: keyring.derive(Purpose::Ufrag),
        keyring,
        mtu: 1_600,
    }
}
