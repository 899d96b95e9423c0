//! The server as a user without any right.

use std::os::unix::fs::{PermissionsExt, chown};

use anyhow::ensure;
use trunkline_simulations::server::ScratchDirectory;
use trunkline_simulations::turn_client::TurnClient;

use crate::site::{
    Carrier, Check, Node, SERVER, TURN, TURN_TLS, USUAL, alice, expect_data, network, program, up,
};
use crate::{Named, tls};

pub const TRIALS: &[Named] = &[("without_root_clients_of_every_transport_reach_each_other", || {
    run().map_err(|fault| format!("{fault:#}"))
})];

fn run() -> Check {
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
    command.arg(inner.get_program()).args(inner.get_args()).args(USUAL);
    let node = Node::start(command, &data)?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.running.pid()))?;
    ensure!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "it runs as another user:\n{status}");

    let relayed = outside.enter(|| {
        for first in [Carrier::Udp, Carrier::Tcp, Carrier::Tls] {
            for second in [Carrier::Udp, Carrier::Tcp, Carrier::Tls] {
                meet(client(first)?, client(second)?)?;
            }
        }
        Ok(())
    })?;
    relayed.map_err(|fault: anyhow::Error| fault.context(node.running.log()))
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
