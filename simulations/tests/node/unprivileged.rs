//! The server as a user without any right.

use std::os::unix::fs::{PermissionsExt, chown};

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{anyhow, ensure};
use trunkline_simulations::netns::Namespace;
use trunkline_simulations::server::ScratchDirectory;
use trunkline_simulations::turn_client::TurnClient;

use crate::site::{
    Carrier, Check, Node, PATIENCE, SERVER, TURN, TURN_TLS, USUAL, alice, expect_data, expect_refusal,
    network, program, up,
};
use crate::{Named, tls};

pub const TRIALS: &[Named] = &[
    ("without_root_clients_of_every_transport_reach_each_other", || said(every_transport())),
    ("without_file_descriptors_it_refuses_newcomers_and_recovers", || said(few_descriptors())),
];

fn said(outcome: Check) -> Result<(), String> {
    outcome.map_err(|fault| format!("{fault:#}"))
}

/// A server of the user "nobody". It ends before its namespace goes.
struct Unprivileged {
    node: Node,
    outside: Namespace,
    _machine: Namespace,
    _place: ScratchDirectory,
}

impl Unprivileged {
    /// `wrapper`: a program, with its arguments, that starts the server.
    fn start(wrapper: &[&str]) -> anyhow::Result<Self> {
        let (machine, outside) = network()?;
        let place = ScratchDirectory::new().map_err(anyhow::Error::msg)?;
        // Where the binary was built may be closed to others.
        let program_copy = place.path().join("trunkline");
        std::fs::copy(program()?, &program_copy)?;
        let data = place.path().join("data");
        std::fs::create_dir(&data)?;
        chown(&data, Some(NOBODY), Some(NOBODY))?;
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755))?;

        let mut command = machine.command("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--bounding-set=-all",
            "--no-new-privs",
        ]);
        let inner = up(&machine, &program_copy, &data);
        command.args(wrapper).arg(inner.get_program()).args(inner.get_args()).args(USUAL);
        let node = Node::start(command, &data)?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.running.pid()))?;
        ensure!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "it runs as another user:\n{status}");
        Ok(Self { node, outside, _machine: machine, _place: place })
    }

    fn check(self, test: impl FnOnce() -> Check + Send) -> Check {
        let outcome = self.outside.enter(test)?;
        outcome.map_err(|fault| anyhow!("{fault:#}\n{}", self.node.running.log()))
    }
}

fn every_transport() -> Check {
    Unprivileged::start(&[])?.check(|| {
        for first in [Carrier::Udp, Carrier::Tcp, Carrier::Tls] {
            for second in [Carrier::Udp, Carrier::Tcp, Carrier::Tls] {
                meet(client(first)?, client(second)?)?;
            }
        }
        Ok(())
    })
}

fn few_descriptors() -> Check {
    Unprivileged::start(&["prlimit", "--nofile=120:120"])?.check(|| {
        let (mut known, mut other) = (client(Carrier::Udp)?, client(Carrier::Tcp)?);
        let (at_known, at_other) = (known.allocate()?.relayed, other.allocate()?.relayed);
        known.create_permission(&[SERVER])?;
        let mut crowd = Vec::new();
        for _ in 0..300 {
            crowd.push(TcpStream::connect_timeout(&TURN, PATIENCE)?);
        }
        std::thread::sleep(Duration::from_millis(300));
        // There is no socket left for a relay.
        expect_refusal(client(Carrier::Udp)?.allocate(), 508)?;
        other.create_permission(&[SERVER])?;
        known.send_indication(at_other, b"still")?;
        expect_data(&mut other, at_known, b"still")?;
        drop(crowd);
        std::thread::sleep(Duration::from_millis(300));
        meet(client(Carrier::Udp)?, client(Carrier::Tcp)?)?;
        meet(client(Carrier::Tls)?, client(Carrier::Udp)?)
    })
}

fn client(carrier: Carrier) -> anyhow::Result<TurnClient> {
    Ok(match carrier {
        Carrier::Udp => TurnClient::udp((crate::site::CLIENT, 0).into(), TURN, alice())?,
        Carrier::Tcp => TurnClient::tcp(TURN, alice())?,
        Carrier::Tls => TurnClient::tcp(tls::bridge(TURN_TLS)?, alice())?,
    })
}

/// Relay to relay, both ways.
fn meet(mut first: TurnClient, mut second: TurnClient) -> Check {
    let (at_first, at_second) = (first.allocate()?.relayed, second.allocate()?.relayed);
    first.create_permission(&[SERVER])?;
    second.create_permission(&[SERVER])?;
    first.send_indication(at_second, b"there")?;
    expect_data(&mut second, at_first, b"there")?;
    second.send_indication(at_first, b"and back")?;
    expect_data(&mut first, at_second, b"and back")
}

const NOBODY: u32 = 65_534;
