//! Who comes in, who does not, and what strangers can do to the listener.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::HealthReporter;

use super::*;
use crate::access::access_layer;
use crate::connector::{ConnectError, Endpoint, Trust, connect};
use crate::pki::directory::RotationStep;
use crate::pki::fixture::{Fleet, mode};

mod floods;
mod strangers;
mod table;

/// A replica with the health service alone. It ends with the test.
pub(super) struct Replica {
    pub(super) endpoint: Endpoint,
    pub(super) address: Option<SocketAddr>,
    pub(super) health: HealthReporter,
}

pub(super) async fn serve(incoming: Incoming, endpoint: Endpoint, address: Option<SocketAddr>) -> Replica {
    let (health, service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    tokio::spawn(server().layer(access_layer()).add_service(service).serve_with_incoming(incoming));
    Replica { endpoint, address, health }
}

pub(super) async fn replica(files: Files, bounds: Bounds) -> Replica {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = Listener::tcp_with(any, files, bounds).await.expect("a listener");
    let address = listener.local_address().expect("an address");
    serve(listener.incoming(), Endpoint::Tls(address.to_string()), Some(address)).await
}

pub(super) async fn check(channel: Channel) -> Result<(), tonic::Status> {
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.map(|_| ())
}

/// The first connection of an incoming stream.
async fn first(mut incoming: Incoming) -> Connection {
    incoming.next().await.expect("a connection").expect("no error")
}

#[tokio::test]
async fn a_connection_carries_the_name_in_its_certificate() {
    let fleet = Fleet::new();
    for name in ["trunkline://node/1.2", "trunkline://replica/r2", "trunkline://operator/viewer/alice"] {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::tcp(any, fleet.files("trunkline://replica/r1")).await.expect("a listener");
        let endpoint = Endpoint::Tls(listener.local_address().expect("an address").to_string());
        let files = fleet.files(name);
        let client = tokio::spawn(async move { connect(&endpoint, &Trust::Files(files)).await });
        let connection = first(listener.incoming()).await;
        let expected: crate::identity::Name = name.parse().expect("a name");
        assert_eq!(*connection.identity(), Identity::from(expected));
        client.abort();
    }
}

#[tokio::test]
async fn a_server_that_joins_is_a_newcomer_and_finds_the_root_of_its_token() {
    let fleet = Fleet::new();
    let replica = replica(fleet.files("trunkline://replica/r1"), Bounds::default()).await;
    let root_sha256 = fleet.authority.issuer().expect("an issuer").root_sha256().expect("a root");
    let channel = connect(&replica.endpoint, &Trust::Pinned { root_sha256 }).await.expect("connected");
    assert_eq!(check(channel.clone()).await.map_err(|status| status.code()), Ok(()));

    let mut reflection =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(channel);
    let refused = reflection.server_reflection_info(tokio_stream::empty()).await.expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
}

#[tokio::test]
async fn another_fleets_replica_is_not_the_one_of_the_token() {
    let (ours, theirs) = (Fleet::new(), Fleet::new());
    let replica = replica(theirs.files("trunkline://replica/r1"), Bounds::default()).await;
    let root_sha256 = ours.authority.issuer().expect("an issuer").root_sha256().expect("a root");
    let refused = connect(&replica.endpoint, &Trust::Pinned { root_sha256 }).await;
    assert!(matches!(refused, Err(ConnectError::Untrusted { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_chain_that_only_carries_the_pinned_root_is_not_trusted() {
    let (ours, theirs) = (Fleet::new(), Fleet::new());
    let root = ours.authority.roots().expect("roots");
    let name = "trunkline://replica/r1".parse().expect("a name");
    let mut issued = theirs.authority.issuer().expect("an issuer").issue(&name, None).expect("issued");
    issued.chain += &root;
    let replica = replica(theirs.write("mallory", &issued), Bounds::default()).await;
    let root_sha256 = crate::pki::root_sha256(&root).expect("a root");
    let refused = connect(&replica.endpoint, &Trust::Pinned { root_sha256 }).await;
    assert!(matches!(refused, Err(ConnectError::Untrusted { .. })), "{refused:?}");
}

#[tokio::test]
async fn memory_and_a_unix_socket_are_local() {
    let (connector, incoming) = memory_listener();
    let replica = serve(incoming, Endpoint::Memory(connector), None).await;
    let channel = connect(&replica.endpoint, &Trust::Local).await.expect("connected");
    assert!(check(channel).await.is_ok());

    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("new/operator.sock");
    let listener = Listener::unix(&path).expect("a listener");
    assert_eq!((mode(&path), mode(path.parent().expect("a directory"))), (0o600, 0o700));
    let client = tokio::net::UnixStream::connect(&path);
    let (_client, connection) = tokio::join!(client, first(listener.incoming()));
    assert_eq!(*connection.identity(), Identity::Local);
}

#[tokio::test]
async fn nobody_listens_in_memory_any_more() {
    let (connector, incoming) = memory_listener();
    drop(incoming);
    let refused = connect(&Endpoint::Memory(connector), &Trust::Local).await;
    assert!(matches!(refused, Err(ConnectError::Unreachable { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_dead_processes_socket_is_replaced_and_a_living_ones_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("operator.sock");
    drop(Listener::unix(&path).expect("a listener"));
    assert!(path.exists());
    let living = Listener::unix(&path).expect("replaced");
    assert!(matches!(Listener::unix(&path), Err(ListenError::Bind { .. })));
    drop(living);

    let file = directory.path().join("file");
    std::fs::write(&file, "precious").expect("written");
    assert!(Listener::unix(&file).is_err());
    assert_eq!(std::fs::read(&file).expect("there"), b"precious");
}

/// Waits until a replica shows a certificate that these roots sign.
async fn until_trusted(endpoint: &Endpoint, trust: &Trust) -> Channel {
    let trusted = async {
        loop {
            match connect(endpoint, trust).await {
                Ok(channel) => break channel,
                Err(ConnectError::Untrusted { .. } | ConnectError::Refused { .. }) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), trusted).await.expect("files are read each second")
}

#[tokio::test]
async fn a_rotation_of_the_root_drops_no_connection() {
    let fleet = Fleet::new();
    let (server, client) = ("trunkline://replica/r1", "trunkline://node/1.2");
    let replica = replica(fleet.files(server), Bounds::default()).await;
    let trust = Trust::Files(fleet.files(client));
    let channel = connect(&replica.endpoint, &trust).await.expect("connected");
    let watch = HealthClient::new(channel).watch(HealthCheckRequest::default()).await;
    let mut stream = watch.expect("a stream").into_inner();
    assert!(stream.next().await.is_some_and(|status| status.is_ok()));

    for step in [RotationStep::Begin, RotationStep::Switch, RotationStep::Retire] {
        fleet.authority.rotate(step).expect("a step");
        fleet.files(server);
        fleet.files(client);
    }

    // The client trusts the new root alone, so the replica that it reaches has the new certificate.
    let renewed = until_trusted(&replica.endpoint, &trust).await;
    assert!(check(renewed).await.is_ok());
    replica.health.set_service_status("", ServingStatus::NotServing).await;
    let status = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.expect("the stream lives");
    assert_eq!(status.expect("not ended").expect("no error").status, ServingStatus::NotServing as i32);
}

#[tokio::test]
async fn files_that_do_not_fit_together_change_nothing() {
    let fleet = Fleet::new();
    let files = fleet.files("trunkline://replica/r1");
    let mut presented = tls::Presented::read(files.clone()).expect("files");
    let before = presented.current().borrow().clone();
    std::fs::write(&files.certificate, "half a certifi").expect("written");
    assert!(tls::reread_now(&mut presented).is_err());
    assert!(std::sync::Arc::ptr_eq(&before, &presented.current().borrow()));

    fleet.files("trunkline://replica/r1");
    assert!(matches!(tls::reread_now(&mut presented), Ok(true)));
    assert!(!std::sync::Arc::ptr_eq(&before, &presented.current().borrow()));
    assert!(matches!(tls::reread_now(&mut presented), Ok(false)));
}
