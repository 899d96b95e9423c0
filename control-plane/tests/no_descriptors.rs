//! A listener without file descriptors waits for some and goes on (threat 29). A test of its own, since the limit is
//! the whole process's.

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use trunkline_control_plane::access::access_layer;
use trunkline_control_plane::connector::{Endpoint, Trust, connect};
use trunkline_control_plane::listener::{Listener, server};
use trunkline_control_plane::pki::directory::Directory;

/// Opens files until the process may not open another one.
fn take_all() -> Vec<File> {
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_without_descriptors_accepts_again_when_it_has_some() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Directory::init(&directory.path().join("ca")).expect("an authority");
    let issue = |name: &str, out: &str| {
        let name = name.parse().expect("a name");
        authority.issue_into(&name, None, &directory.path().join(out)).expect("issued")
    };
    let files = issue("trunkline://replica/r1", "r1");
    let trust = Trust::Files(issue("trunkline://node/1.2", "node"));
    let listener = Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0)), files).await.expect("a listener");
    let address = listener.local_address().expect("an address");
    let endpoint = Endpoint::Tls(address.to_string());
    let (_, health) = tonic_health::server::health_reporter();
    let incoming = listener.incoming();
    tokio::spawn(server().layer(access_layer()).add_service(health).serve_with_incoming(incoming));
    let established = connect(&endpoint, &trust).await.expect("connected");

    setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum: Some(256) }).expect("a limit");
    let waiting = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let taken = take_all();
    waiting.connect(&address.into()).expect("the kernel's backlog takes it");
    waiting.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let mut stream = std::net::TcpStream::from(waiting);
    stream.write_all(b"this is no TLS, which an accepted connection is told").expect("written");
    assert!(stream.read(&mut [0; 64]).is_err(), "nobody can accept it now");
    let check = HealthClient::new(established).check(HealthCheckRequest::default()).await;
    assert!(check.is_ok(), "what is established goes on");

    drop(taken);
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    assert!(stream.read(&mut [0; 64]).is_ok(), "it was accepted after all");
    let channel = connect(&endpoint, &trust).await.expect("accepted");
    assert!(HealthClient::new(channel).check(HealthCheckRequest::default()).await.is_ok());
}
