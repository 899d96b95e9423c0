//! What somebody without a certificate can do to the listener (threat 29).

use super::*;

const FEW: Bounds = Bounds {
    handshake: Duration::from_secs(60),
    handshakes_max: 4,
    connections_max: 2,
    newcomers_max: 2,
    newcomer: Duration::from_secs(60),
};

async fn is_closed(stream: &mut TcpStream) -> bool {
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0; 64])).await;
    matches!(read.expect("closed in time"), Ok(0) | Err(_))
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_ended() {
    let fleet = Fleet::new();
    let bounds = Bounds { handshake: Duration::from_millis(200), ..Bounds::default() };
    let replica = replica(fleet.files("trunkline://replica/r1"), bounds).await;
    let address = replica.address.expect("an address");
    let mut silent = TcpStream::connect(address).await.expect("connected");
    let mut slow = TcpStream::connect(address).await.expect("connected");
    slow.write_all(&[22, 3, 1]).await.expect("written");
    assert!(is_closed(&mut silent).await && is_closed(&mut slow).await);
}

#[tokio::test]
async fn strangers_who_only_connect_keep_nobody_out() {
    let fleet = Fleet::new();
    let replica = replica(fleet.files("trunkline://replica/r1"), FEW).await;
    let trust = Trust::Files(fleet.files("trunkline://node/1.2"));
    let mut strangers = Vec::new();
    for _ in 0..64 {
        strangers.push(TcpStream::connect(replica.address.expect("an address")).await.expect("connected"));
    }
    let channel = connect(&replica.endpoint, &trust).await.expect("there is room");
    assert!(check(channel).await.is_ok());
    assert!(is_closed(&mut strangers[0]).await);
}

#[tokio::test]
async fn newcomers_cannot_take_the_places_of_members() {
    let fleet = Fleet::new();
    let replica = replica(fleet.files("trunkline://replica/r1"), FEW).await;
    let root_sha256 = fleet.authority.issuer().expect("an issuer").root_sha256().expect("a root");
    let (pinned, member) = (Trust::Pinned { root_sha256 }, Trust::Files(fleet.files("trunkline://node/1.2")));
    let mut newcomers = Vec::new();
    for _ in 0..FEW.newcomers_max {
        newcomers.push(connect(&replica.endpoint, &pinned).await.expect("a place"));
    }
    assert!(connect(&replica.endpoint, &pinned).await.is_err());
    let first = connect(&replica.endpoint, &member).await.expect("a place");
    let second = connect(&replica.endpoint, &member).await.expect("a place");
    assert!(connect(&replica.endpoint, &member).await.is_err());
    assert!(check(first.clone()).await.is_ok() && check(second).await.is_ok());

    drop(first);
    let again = async { while connect(&replica.endpoint, &member).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(10), again).await.expect("the place is free again");
}

#[tokio::test]
async fn a_newcomers_connection_ends() {
    let fleet = Fleet::new();
    let bounds = Bounds { newcomer: Duration::from_millis(300), ..Bounds::default() };
    let replica = replica(fleet.files("trunkline://replica/r1"), bounds).await;
    let root_sha256 = fleet.authority.issuer().expect("an issuer").root_sha256().expect("a root");
    let channel = connect(&replica.endpoint, &Trust::Pinned { root_sha256 }).await.expect("connected");
    let watch = HealthClient::new(channel).watch(HealthCheckRequest::default()).await;
    let mut stream = watch.expect("a stream").into_inner();
    let ended = async { while stream.next().await.is_some_and(|status| status.is_ok()) {} };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("it ends");
}

#[tokio::test]
async fn plain_http_gets_nothing() {
    let fleet = Fleet::new();
    let replica = replica(fleet.files("trunkline://replica/r1"), Bounds::default()).await;
    let mut stream = TcpStream::connect(replica.address.expect("an address")).await.expect("connected");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.len() < 16 && answer.first().is_none_or(|record| *record == 21), "only a TLS alert");
}
