//! Bad input: each fault names the field and what to do, and nothing is stored.

use tonic::{Code, Request};
use trunkline_proto::operator::v1::operator_service_server::OperatorService as _;
use trunkline_proto::operator::v1::{
    AddNodeRequest, CreateKeyRequest, GetTableRequest, ListNodesRequest, ListSlicesRequest, Mutation,
    RemoveNodeRequest, SetDrainRequest, SetWeightRequest, WatchEventsRequest, set_drain_request::Target,
};

use super::fixture::{Fixture, admin, node, once, viewer};

#[tokio::test]
async fn weights_that_are_no_shares_are_refused() {
    let fixture = Fixture::with_servers(1).await;
    for (weight, shown) in [
        (0.0, "0"),
        (-1.0, "-1"),
        (f64::NAN, "NaN"),
        (f64::INFINITY, "inf"),
        (f64::NEG_INFINITY, "-inf"),
        (1_000.1, "1000.1"),
    ] {
        let expected = format!("weight: {shown} is not above 0 and up to 1,000; to take load away use drain");
        let request = SetWeightRequest { mutation: once("w"), node: node(1, 1), weight };
        let refused = fixture.refused(async |service| service.set_weight(admin(request)).await).await;
        assert_eq!(refused, (Code::InvalidArgument, expected.clone()));
        let request = AddNodeRequest {
            mutation: once("a"),
            node: node(1, 2),
            weight: Some(weight),
            token_lifetime_s: 0,
        };
        let refused = fixture.refused(async |service| service.add_node(admin(request)).await).await;
        assert_eq!(refused, (Code::InvalidArgument, expected));
    }
}

#[tokio::test]
async fn names_of_servers_that_are_none_are_refused() {
    let fixture = Fixture::new().await;
    let cases = [
        (None, "node: it is not set"),
        (node(0, 1), "node.site: 0 is not 1 to 65,535"),
        (node(1, 0), "node.server: 0 is not 1 to 65,535"),
        (node(65_536, 1), "node.site: 65536 is not 1 to 65,535"),
        (node(1, 4_000_000_000), "node.server: 4000000000 is not 1 to 65,535"),
    ];
    for (node, expected) in cases {
        let add = AddNodeRequest { mutation: once("a"), node, ..AddNodeRequest::default() };
        let (code, text) = fixture.refused(async |service| service.add_node(admin(add)).await).await;
        assert_eq!((code, text.starts_with(expected)), (Code::InvalidArgument, true), "{text}");
        let remove = RemoveNodeRequest { mutation: once("r"), node, confirm_gone: true };
        let (code, text) = fixture.refused(async |service| service.remove_node(admin(remove)).await).await;
        assert_eq!((code, text.starts_with(expected)), (Code::InvalidArgument, true), "{text}");
        let weigh = SetWeightRequest { mutation: once("w"), node, weight: 1.0 };
        let (code, text) = fixture.refused(async |service| service.set_weight(admin(weigh)).await).await;
        assert_eq!((code, text.starts_with(expected)), (Code::InvalidArgument, true), "{text}");
    }
}

#[tokio::test]
async fn unknown_servers_and_sites_are_not_found() {
    let fixture = Fixture::with_servers(1).await;
    let missing = "node: there is no node 9.9; `trunklinectl nodes` lists them";
    let weigh = SetWeightRequest { mutation: once("w"), node: node(9, 9), weight: 1.0 };
    let refused = fixture.refused(async |service| service.set_weight(admin(weigh)).await).await;
    assert_eq!(refused, (Code::NotFound, missing.to_owned()));
    let remove = RemoveNodeRequest { mutation: once("r"), node: node(9, 9), confirm_gone: true };
    let refused = fixture.refused(async |service| service.remove_node(admin(remove)).await).await;
    assert_eq!(refused, (Code::NotFound, missing.to_owned()));
    let list = ListNodesRequest { site: None, node: node(9, 9) };
    let refused = fixture.refused(async |service| service.list_nodes(admin(list)).await).await;
    assert_eq!(refused, (Code::NotFound, missing.to_owned()));
    for (target, code) in [
        (None, Code::InvalidArgument),
        (Some(Target::Site(9)), Code::NotFound),
        (node(9, 9).map(Target::Node), Code::NotFound),
    ] {
        let drain = SetDrainRequest { mutation: once("d"), target, drain: true };
        let refused = fixture.refused(async |service| service.set_drain(admin(drain)).await).await;
        assert_eq!(refused.0, code, "{}", refused.1);
    }
    for (site, code) in [
        (0, Code::InvalidArgument),
        (70_000, Code::InvalidArgument),
        (9, Code::NotFound),
        (1, Code::NotFound),
    ] {
        let table = GetTableRequest { site, moved_since_unix_s: 0 };
        let refused = fixture.refused(async |service| service.get_table(viewer(table)).await).await;
        assert_eq!(refused.0, code, "{}", refused.1);
    }
    for (address, code) in [("nonsense", Code::InvalidArgument), ("192.0.2.1", Code::NotFound)] {
        let slices = ListSlicesRequest { node: None, address: address.into() };
        let refused = fixture.refused(async |service| service.list_slices(viewer(slices)).await).await;
        assert_eq!(refused.0, code, "{}", refused.1);
    }
}

#[tokio::test]
async fn tokens_do_not_live_longer_than_a_day() {
    let fixture = Fixture::new().await;
    let request =
        AddNodeRequest { mutation: once("a"), node: node(1, 1), token_lifetime_s: 86_401, weight: None };
    let (code, text) = fixture.refused(async |service| service.add_node(admin(request)).await).await;
    assert_eq!(
        (code, text.starts_with("token_lifetime_s: 86401 is above 86400")),
        (Code::InvalidArgument, true),
        "{text}"
    );
}

#[tokio::test]
async fn a_mutation_needs_an_idempotency_key_and_a_short_reason() {
    let fixture = Fixture::new().await;
    let long = || Mutation { idempotency_key: "x".repeat(129), reason: String::new() };
    let wordy = || Mutation { idempotency_key: "x".into(), reason: "x".repeat(2_000) };
    for (mutation, field) in [
        (None, "mutation.idempotency_key: it has 0 bytes"),
        (once(""), "mutation.idempotency_key: it has 0 bytes"),
        (Some(long()), "mutation.idempotency_key: it has 129 bytes"),
        (Some(wordy()), "mutation.reason: it has 2000 bytes"),
    ] {
        let request = CreateKeyRequest { mutation, name: "app".into() };
        let (code, text) = fixture.refused(async |service| service.create_key(admin(request)).await).await;
        assert_eq!((code, text.starts_with(field)), (Code::InvalidArgument, true), "{text}");
    }
}

#[tokio::test]
async fn a_connection_that_is_nobody_changes_nothing() {
    let fixture = Fixture::new().await;
    let request = CreateKeyRequest { mutation: once("a"), name: "app".into() };
    let (code, _) = fixture.refused(async |service| service.create_key(Request::new(request)).await).await;
    assert_eq!(code, Code::Unauthenticated);
}

#[tokio::test]
async fn more_events_than_an_answer_has_are_refused() {
    let fixture = Fixture::new().await;
    let request = WatchEventsRequest { follow: false, last: 10_001 };
    let (code, text) = fixture.refused(async |service| service.watch_events(viewer(request)).await).await;
    assert_eq!((code, text.as_str()), (Code::InvalidArgument, "last: 10001 is above 10000"));
}
