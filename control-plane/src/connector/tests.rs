//! Endpoints, and what a person is told when there is no connection.

use super::*;
use crate::pki::fixture::Fleet;

#[test]
fn an_endpoint_reads_back_as_it_was_written() {
    for text in
        ["https://10.0.0.1:7443", "https://[2001:db8::1]:7443", "https://cp.example:7443", "unix:/run/a.sock"]
    {
        assert_eq!(text.parse::<Endpoint>().expect("an endpoint").to_string(), text);
    }
    assert_eq!("https://a:1/".parse::<Endpoint>().expect("an endpoint").to_string(), "https://a:1");
}

#[test]
fn what_is_no_endpoint_is_refused() {
    for text in [
        "",
        "10.0.0.1:7443",
        "http://10.0.0.1:7443",
        "https://",
        "https://host",
        "https://host:0",
        "https://host:70000",
        "https://:7443",
        "https://host:7443/path",
        "https://user@host:7443",
        "unix:",
    ] {
        assert!(text.parse::<Endpoint>().is_err(), "{text:?}");
    }
}

#[tokio::test]
async fn a_file_that_is_missing_is_named() {
    let fleet = Fleet::new();
    let files = fleet.files("trunkline://node/1.2");
    std::fs::remove_file(&files.roots).expect("removed");
    let endpoint = Endpoint::Tls("127.0.0.1:1".to_owned());
    let error = connect(&endpoint, &Trust::Files(files.clone())).await.expect_err("no roots");
    assert!(error.to_string().contains(&files.roots.display().to_string()), "{error}");
}

#[tokio::test]
async fn tls_without_a_certificate_says_what_is_needed() {
    let error =
        connect(&Endpoint::Tls("127.0.0.1:1".to_owned()), &Trust::Local).await.expect_err("no certificate");
    assert!(matches!(error, ConnectError::NoCertificate(_)));
}

#[tokio::test]
async fn an_endpoint_that_never_answers_takes_two_seconds() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let endpoint = Endpoint::Tls(silent.local_addr().expect("an address").to_string());
    let fleet = Fleet::new();
    let trust = Trust::Files(fleet.files("trunkline://node/1.2"));
    let connected = tokio::time::timeout(2 * CONNECT_TIMEOUT, connect(&endpoint, &trust)).await;
    assert!(matches!(connected.expect("in time"), Err(ConnectError::TimedOut(_))));
}

#[tokio::test]
async fn each_of_several_endpoints_is_tried_once_and_each_fault_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let endpoints: Vec<_> =
        (0..3).map(|i| Endpoint::Unix(directory.path().join(format!("{i}.sock")))).collect();
    let error = connect_any(&endpoints, &Trust::Local).await.expect_err("nobody there").to_string();
    for endpoint in &endpoints {
        assert_eq!(error.matches(&endpoint.to_string()).count(), 1, "{error}");
    }
    assert!(connect_any(&[], &Trust::Local).await.is_err());
}

#[tokio::test]
async fn the_endpoint_that_answers_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("good.sock");
    let incoming = crate::listener::Listener::unix(&path).expect("a listener").incoming();
    let (_, service) = tonic_health::server::health_reporter();
    tokio::spawn(crate::listener::server().add_service(service).serve_with_incoming(incoming));
    let bad = Endpoint::Unix(directory.path().join("bad.sock"));
    for _ in 0..8 {
        assert!(connect_any(&[bad.clone(), Endpoint::Unix(path.clone())], &Trust::Local).await.is_ok());
    }
}
