//! The start: what is wrong is said in one line, and what was made at the first start is kept.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use trunkline_simulations::netns::Namespace;
use trunkline_simulations::process::Stream;
use trunkline_simulations::server::ScratchDirectory;
use trunkline_simulations::turn_client::TurnClient;

use crate::site::{
    CLIENT, Check, Node, TURN, TURN_TLS, USUAL, alice, network, program, relays_both_ways, up,
};
use crate::{Named, tls};

pub const TRIALS: &[Named] = &[
    ("a_port_in_use_is_named_in_one_line", || said(busy_ports())),
    ("a_wrong_option_is_named_in_one_line", || said(wrong_options())),
    ("ports_of_another_trunkline_are_refused_and_not_shared", || said(ports_of_another())),
    ("a_log_that_nobody_reads_any_more_ends_nothing", || said(unread_log())),
    ("an_unusable_certificate_is_named_in_one_line", || said(certificates())),
    ("a_data_directory_in_use_is_refused_in_one_line", || said(data_directory_in_use())),
    ("a_second_start_keeps_keys_tokens_and_the_certificate", || said(second_start())),
    ("quickstart_has_the_documented_shape_and_json_prints_it_before_ready", || said(quickstart())),
];

fn said(outcome: Check) -> Result<(), String> {
    outcome.map_err(|fault| format!("{fault:#}"))
}

/// A place to start servers in.
struct Ground {
    machine: Namespace,
    outside: Namespace,
    data: ScratchDirectory,
}

impl Ground {
    fn new() -> anyhow::Result<Self> {
        let (machine, outside) = network()?;
        Ok(Self { machine, outside, data: ScratchDirectory::new().map_err(anyhow::Error::msg)? })
    }

    fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = up(&self.machine, &program()?, self.data.path());
        command.args(arguments);
        Ok(command)
    }

    fn usual(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        self.command(&[&USUAL, arguments].concat())
    }

    fn node(&self, arguments: &[&str]) -> anyhow::Result<Node> {
        Node::start(self.usual(arguments)?, self.data.path())
    }

    /// Checks that the server refuses to start, in one line with all these words.
    fn refuses(&self, arguments: &[&str], words: &[&str]) -> Check {
        let error = refusal(self.command(arguments)?).with_context(|| format!("{arguments:?}"))?;
        ensure!(error.trim_end().lines().count() == 1, "{arguments:?}: not one line: {error}");
        ensure!(!error.contains("panicked") && !error.contains("backtrace"), "{arguments:?}: {error}");
        match words.iter().find(|word| !error.contains(**word)) {
            Some(missing) => bail!("{arguments:?}: {missing:?} is not in: {error}"),
            None => Ok(()),
        }
    }
}

/// Standard error of a server that must end by itself, and not with 0.
fn refusal(mut command: Command) -> anyhow::Result<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill()?;
                child.wait()?;
                bail!("it started")
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let (mut out, mut error) = (String::new(), String::new());
    child.stdout.take().context("no stdout")?.read_to_string(&mut out)?;
    child.stderr.take().context("no stderr")?.read_to_string(&mut error)?;
    ensure!(status.code().is_some_and(|code| code != 0), "it ended with {status}");
    ensure!(out.is_empty(), "standard output is not empty: {out}");
    Ok(error)
}

fn busy_ports() -> Check {
    let ground = Ground::new()?;
    let at = |port: u16| format!("10.60.0.1:{port}");
    let tcp = |port: u16| -> anyhow::Result<TcpListener> {
        Ok(ground.machine.enter(|| TcpListener::bind(at(port)))??)
    };
    for port in [3478, 5349, 8080] {
        let _taken = tcp(port)?;
        ground.refuses(&USUAL, &[&at(port), "in use by another process"])?;
    }
    let _taken = ground.machine.enter(|| UdpSocket::bind(at(3478)))??;
    ground.refuses(&USUAL, &["10.60.0.1:3478/udp", "in use by another process"])
}

/// Every socket of a server lets the same user share its port.
fn ports_of_another() -> Check {
    let ground = Ground::new()?;
    let _node = ground.node(&[])?;
    let other = ScratchDirectory::new().map_err(anyhow::Error::msg)?;
    for (ports, taken) in [
        (["--turn-port", "3478", "--tls-port", "5350"], "10.60.0.1:3478"),
        (["--turn-port", "3479", "--tls-port", "5349"], "10.60.0.1:5349"),
    ] {
        let mut command = up(&ground.machine, &program()?, other.path());
        command.args(["--address", "10.60.0.1", "--http", "10.60.0.1:8081"]).args(ports);
        let error = refusal(command)?;
        ensure!(error.contains(taken) && error.contains("in use by another process"), "{error}");
    }
    Ok(())
}

/// Whoever read the log is gone: a pipe that is broken.
fn unread_log() -> Check {
    let ground = Ground::new()?;
    let mut command = ground.command(&[&USUAL[..8], &["--log", "debug"]].concat())?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let outcome = relays_without_readers(&ground, &mut child);
    child.kill()?;
    child.wait()?;
    outcome
}

fn relays_without_readers(ground: &Ground, child: &mut Child) -> Check {
    let mut out = BufReader::new(child.stdout.take().context("no stdout")?);
    let mut line = String::new();
    while line != "ready\n" {
        line.clear();
        ensure!(out.read_line(&mut line)? > 0, "it ended before it was ready");
    }
    drop((out, child.stderr.take()));
    ground.outside.enter(|| {
        for _ in 0..3 {
            let mut client = TurnClient::udp((CLIENT, 0).into(), TURN, alice())?;
            let relayed = client.allocate()?.relayed;
            relays_both_ways(&mut client, relayed)?;
            client.refresh(0)?;
        }
        Ok(())
    })?
}

fn wrong_options() -> Check {
    let ground = Ground::new()?;
    let file = ground.data.path().join("node.toml");
    let name = file.to_str().context("odd path")?;
    for (content, words) in [
        ("realm = \"x\"\n\nuser-quotta = 3\n", vec!["node.toml:3", "user-quotta", "user-quota"]),
        ("threads = \"two\"\n", vec!["node.toml:1", "threads"]),
        ("realm = \n", vec!["node.toml:1", "realm"]),
        ("user = [\"alice\"]\n", vec!["node.toml:1", "user", "NAME:PASSWORD"]),
        ("allow-peer = [\n \"10.0.0.0/8\",\n \"10.0.0.0/40\",\n]\n", vec!["node.toml:", "10.0.0.0/40"]),
    ] {
        std::fs::write(&file, content)?;
        ground.refuses(&["--config", name], &words)?;
    }
    for (arguments, words) in [
        (&["--address", "192.0.2.9"][..], &["192.0.2.9", "--address"][..]),
        (&["--relay-address", "192.0.2.9"], &["192.0.2.9", "--relay-address"]),
        (&["--allow-peer", "10.0.0.0/33"], &["10.0.0.0/33"]),
        (&["--allow-peer", "10.0.0.1/8"], &["10.0.0.0/8"]),
        (&["--deny-peer", "everybody"], &["everybody"]),
        (&["--allow-peer", "127.0.0.0/8"], &["127.0.0.0/8", "never peers"]),
        (&["--allow-peer", "169.254.169.254"], &["169.254.169.254", "never peers"]),
        (&["--user", "alice"], &["NAME:PASSWORD"]),
        (&["--http", "192.0.2.9:8080"], &["192.0.2.9:8080", "--http"]),
        (&["--data-dir-typo", "x"], &["--data-dir"]),
    ] {
        ground.refuses(arguments, words)?;
    }
    Ok(())
}

fn certificates() -> Check {
    let ground = Ground::new()?;
    let place = ground.data.path();
    let made = rcgen::generate_simple_self_signed(["turn.example.org".to_owned()])?;
    let other = rcgen::generate_simple_self_signed(["turn.example.org".to_owned()])?;
    let write = |name: &str, text: String| -> anyhow::Result<String> {
        let path = place.join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_str().context("odd path")?.to_owned())
    };
    let certificate = write("chain.pem", made.cert.pem())?;
    let (key, other_key) =
        (write("key.pem", made.signing_key.serialize_pem())?, other.signing_key.serialize_pem());
    let other_key = write("other.pem", other_key)?;
    let garbage = write("garbage.pem", "no PEM at all".to_owned())?;
    let missing = place.join("missing.pem").display().to_string();
    let directory = place.display().to_string();
    for (certificate, key, word) in [
        (&missing, &key, "missing.pem"),
        (&certificate, &missing, "missing.pem"),
        (&directory, &key, "cannot read"),
        (&garbage, &key, "garbage.pem"),
        (&certificate, &garbage, "garbage.pem"),
        (&certificate, &other_key, "do not belong together"),
    ] {
        ground.refuses(&[&USUAL[..], &["--tls-cert", certificate, "--tls-key", key]].concat(), &[word])?;
    }
    ground.refuses(&["--tls-cert", &certificate], &["--tls-cert", "--tls-key"])?;
    ground.refuses(&["--tls-key", &key], &["--tls-cert", "--tls-key"])
}

fn data_directory_in_use() -> Check {
    let ground = Ground::new()?;
    let node = ground.node(&[])?;
    let ports = ["--turn-port", "3479", "--tls-port", "5350"];
    ground.refuses(
        &[&ports[..], &["--address", "10.60.0.1", "--http", "10.60.0.1:8081"]].concat(),
        &[&ground.data.path().display().to_string(), "in use by another trunkline process"],
    )?;
    drop(node);
    // What was killed leaves nothing behind that keeps the next one out.
    ground.node(&[]).map(drop)
}

fn second_start() -> Check {
    let ground = Ground::new()?;
    let shown = || -> anyhow::Result<Vec<u8>> { ground.outside.enter(|| tls::certificate_of(TURN_TLS))? };
    let mut first = ground.node(&[])?;
    let (kept, certificate) = (first.quickstart.clone(), shown()?);
    first.running.terminate()?;
    let status = first.running.wait_for_exit(Duration::from_secs(5)).map_err(anyhow::Error::msg)?;
    ensure!(status.success(), "it ended with {status}");

    for _ in 0..2 {
        // The end without any warning must not lose anything either.
        let next = ground.node(&[])?;
        ensure!(next.quickstart == kept, "{} became {}", kept, next.quickstart);
        ensure!(shown()? == certificate, "the self-signed certificate changed");
    }
    Ok(())
}

fn quickstart() -> Check {
    let ground = Ground::new()?;
    let node = ground.node(&["--json", "--realm", "example.org"])?;
    let lines = node.running.lines(Stream::Out);
    ensure!(lines.len() == 2 && lines[1] == "ready", "standard output: {lines:?}");
    let printed: Value = serde_json::from_str(&lines[0])?;
    ensure!(printed == node.quickstart, "printed {printed}, wrote {}", node.quickstart);

    ensure!(mode(&ground.data.path().join("quickstart.json"))? == 0o600, "others may read quickstart.json");
    let fields = printed.as_object().context("not an object")?;
    let mut names: Vec<&str> = fields.keys().map(String::as_str).collect();
    names.sort_unstable();
    let documented = ["addresses", "adminToken", "api", "realm", "tlsPort", "turnKey", "turnPort"];
    ensure!(names == documented, "{names:?}");
    ensure!(printed["api"] == "http://10.60.0.1:8080/v1" && printed["realm"] == "example.org", "{printed}");
    ensure!(printed["addresses"] == serde_json::json!(["10.60.0.1", "fd60::1"]), "{printed}");
    ensure!(printed["turnPort"] == 3478 && printed["tlsPort"] == 5349, "{printed}");
    for secret in ["/adminToken", "/turnKey/id", "/turnKey/secret"] {
        ensure!(node.text(secret)?.len() >= 16, "{secret} is short: {printed}");
    }
    let secret = node.text("/turnKey/secret")?;
    ensure!(!node.running.lines(Stream::Err).iter().any(|line| line.contains(secret)), "a secret in the log");
    Ok(())
}

fn mode(path: &Path) -> anyhow::Result<u32> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o777)
}
