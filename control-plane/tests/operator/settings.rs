//! Settings are checked, compared and rolled out.

use tonic::Code;
use trunkline_control_plane::records;
use trunkline_proto::fleet::v1::{Policy, Settings};
use trunkline_proto::operator::v1::operator_service_server::OperatorService as _;
use trunkline_proto::operator::v1::rollout::State as Stage;
use trunkline_proto::operator::v1::{
    ApplySettingsRequest, ApplySettingsResponse, Change, GetSettingsRequest, GetSettingsResponse,
    GetStatusRequest,
};
use trunkline_proto::store::v1::{RolloutRecord, SettingsRecord};

use super::fixture::{Fixture, admin, once, viewer};

fn apply(key: &str, settings: Settings) -> ApplySettingsRequest {
    ApplySettingsRequest { mutation: once(key), settings: Some(settings), ..ApplySettingsRequest::default() }
}

fn quota(user_quota: u32) -> Settings {
    Settings { user_quota, ..Settings::default() }
}

fn policy(policy: Policy) -> Settings {
    Settings { policy: Some(policy), ..Settings::default() }
}

async fn applied(fixture: &Fixture, request: ApplySettingsRequest) -> ApplySettingsResponse {
    fixture.service.apply_settings(admin(request)).await.expect("applied").into_inner()
}

async fn current(fixture: &Fixture) -> GetSettingsResponse {
    fixture.service.get_settings(viewer(GetSettingsRequest {})).await.expect("settings").into_inner()
}

/// As the planner would: the roll-out ends like this.
async fn end(fixture: &Fixture, stage: Stage) {
    let record = fixture.core.state().rollout.as_ref().expect("a roll-out").record.clone();
    let ended = RolloutRecord { state: stage as u32, reason: "it was refused".into(), ..record };
    fixture.put([records::put("", &ended)]).await;
}

#[tokio::test]
async fn an_empty_fleet_has_the_default_settings() {
    let fixture = Fixture::new().await;
    assert_eq!(
        current(&fixture).await,
        GetSettingsResponse { settings: Some(Settings::default()), version: 0 }
    );
}

#[tokio::test]
async fn applied_settings_are_rolled_out_in_stages() {
    let fixture = Fixture::with_servers(2).await;
    let answer = applied(&fixture, apply("a", quota(3))).await;
    let change = Change { field: "user_quota".into(), before: "0".into(), after: "3".into() };
    assert_eq!(answer, ApplySettingsResponse { version: 1, changes: vec![change] });
    let record = fixture.records::<RolloutRecord>().await.remove("rollout").expect("a roll-out");
    assert_eq!((record.from_version, record.to_version, record.state), (0, 1, Stage::Running as u32));
    assert!(record.nodes.is_empty(), "the planner names the first server");
    let status =
        fixture.service.get_status(viewer(GetStatusRequest {})).await.expect("a status").into_inner();
    let rollout = status.rollout.expect("a roll-out");
    assert_eq!((rollout.state(), rollout.nodes_done, rollout.nodes_total), (Stage::Running, 0, 2));
}

#[tokio::test]
async fn without_stages_every_server_has_them_at_once() {
    let fixture = Fixture::with_servers(2).await;
    applied(&fixture, ApplySettingsRequest { without_stages: true, ..apply("a", quota(3)) }).await;
    let record = fixture.records::<RolloutRecord>().await.remove("rollout").expect("a roll-out");
    assert_eq!((record.state, record.nodes.len()), (Stage::Done as u32, 2));
}

#[tokio::test]
async fn a_dry_run_tells_the_changes_and_stores_nothing() {
    let fixture = Fixture::with_servers(1).await;
    let before = fixture.kept().await;
    let request = ApplySettingsRequest { dry_run: true, mutation: None, ..apply("a", quota(3)) };
    let answer = applied(&fixture, request).await;
    assert_eq!(answer.changes.len(), 1);
    assert!(fixture.kept().await == before);
}

#[tokio::test]
async fn settings_that_are_the_same_make_no_version() {
    let fixture = Fixture::with_servers(1).await;
    applied(&fixture, apply("a", quota(3))).await;
    end(&fixture, Stage::Done).await;
    let answer = applied(&fixture, apply("b", quota(3))).await;
    assert_eq!(answer, ApplySettingsResponse { version: 1, changes: Vec::new() });
    assert_eq!(fixture.records::<SettingsRecord>().await.len(), 1);
}

#[tokio::test]
async fn settings_made_from_an_older_version_are_refused() {
    let fixture = Fixture::with_servers(1).await;
    for version in 1..=2 {
        applied(&fixture, apply(&version.to_string(), quota(version))).await;
        end(&fixture, Stage::Done).await;
    }
    let request = ApplySettingsRequest { expected_version: 1, ..apply("c", quota(9)) };
    let (code, text) = fixture.refused(async |service| service.apply_settings(admin(request)).await).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(text.starts_with("expected_version: yours were made from version 1, and 2 holds"), "{text}");
}

#[tokio::test]
async fn a_running_roll_out_is_replaced_only_by_who_knows_of_it() {
    let fixture = Fixture::with_servers(1).await;
    applied(&fixture, apply("a", quota(1))).await;
    for expected_version in [0, 7] {
        let request = ApplySettingsRequest { expected_version, ..apply("b", quota(2)) };
        let (code, text) =
            fixture.refused(async |service| service.apply_settings(admin(request)).await).await;
        assert_eq!(code, Code::FailedPrecondition);
        assert!(text.starts_with("expected_version: version 1 is being rolled out"), "{text}");
    }
    applied(&fixture, ApplySettingsRequest { expected_version: 1, ..apply("c", quota(2)) }).await;
    let record = fixture.records::<RolloutRecord>().await.remove("rollout").expect("a roll-out");
    assert_eq!((record.from_version, record.to_version), (0, 2), "servers that have neither fall back to 0");
}

#[tokio::test]
async fn after_a_stopped_roll_out_what_was_before_holds() {
    let fixture = Fixture::with_servers(1).await;
    applied(&fixture, apply("a", quota(1))).await;
    end(&fixture, Stage::Done).await;
    applied(&fixture, apply("b", quota(2))).await;
    end(&fixture, Stage::Stopped).await;
    assert_eq!(current(&fixture).await, GetSettingsResponse { settings: Some(quota(1)), version: 1 });
    let answer =
        applied(&fixture, ApplySettingsRequest { expected_version: 1, ..apply("c", quota(3)) }).await;
    assert_eq!(answer.version, 3, "a version is never used twice");
    let record = fixture.records::<RolloutRecord>().await.remove("rollout").expect("a roll-out");
    assert_eq!((record.from_version, record.to_version), (1, 3));
}

#[tokio::test]
async fn the_oldest_versions_go_and_those_in_use_stay() {
    let fixture = Fixture::new().await;
    for version in 1..=105_u32 {
        let request =
            ApplySettingsRequest { without_stages: true, ..apply(&version.to_string(), quota(version)) };
        applied(&fixture, request).await;
    }
    let kept = fixture.records::<SettingsRecord>().await;
    assert_eq!(kept.len(), 100);
    assert!(kept.contains_key("settings/105") && kept.contains_key("settings/104"));
}

#[tokio::test]
async fn networks_that_are_none_are_refused_by_their_place() {
    let fixture = Fixture::new().await;
    let cases = [
        ("10.0.0.0", "is not a network"),
        ("10.0.0.0/33", "is not a network"),
        ("nonsense", "is not a network"),
        ("", "is not a network"),
        ("10.0.0.1/8", "has bits beyond its prefix; write 10.0.0.0/8 for the network, or 10.0.0.1/32"),
        ("2001:db8::1/32", "write 2001:db8::/32 for the network, or 2001:db8::1/128"),
    ];
    for (text, expected) in cases {
        let list = || vec!["192.0.2.0/24".to_owned(), text.to_owned()];
        for (field, settings) in [
            ("policy.peer_allow[1]", policy(Policy { peer_allow: list(), ..Policy::default() })),
            ("policy.peer_deny[1]", policy(Policy { peer_deny: list(), ..Policy::default() })),
            ("policy.client_allow[1]", policy(Policy { client_allow: list(), ..Policy::default() })),
            ("policy.client_deny[1]", policy(Policy { client_deny: list(), ..Policy::default() })),
        ] {
            let request = apply("a", settings);
            let (code, told) =
                fixture.refused(async |service| service.apply_settings(admin(request)).await).await;
            assert_eq!(code, Code::InvalidArgument);
            assert!(told.starts_with(&format!("{field}: ")) && told.contains(expected), "{told}");
        }
    }
}

#[tokio::test]
async fn peers_that_are_never_permitted_cannot_be_allowed() {
    let fixture = Fixture::new().await;
    for range in [
        "127.0.0.0/8",
        "127.1.0.0/16",
        "169.254.169.254/32",
        "224.0.0.0/4",
        "255.255.255.255/32",
        "0.0.0.0/8",
        "::1/128",
        "fe80::/10",
        "ff02::/16",
        "::ffff:127.0.0.0/104",
    ] {
        let request = apply("a", policy(Policy { peer_allow: vec![range.into()], ..Policy::default() }));
        let (code, text) =
            fixture.refused(async |service| service.apply_settings(admin(request)).await).await;
        assert_eq!(code, Code::InvalidArgument, "{range}");
        assert!(text.starts_with(&format!("policy.peer_allow[0]: {range} is loopback")), "{text}");
    }
    let denied = policy(Policy { peer_deny: vec!["127.0.0.0/8".into()], ..Policy::default() });
    applied(&fixture, apply("b", denied)).await;
}

#[tokio::test]
async fn a_range_may_be_allowed_and_denied_and_a_wider_one_allowed() {
    let fixture = Fixture::new().await;
    let both = Policy {
        peer_allow: vec!["10.0.0.0/8".into(), "0.0.0.0/0".into()],
        peer_deny: vec!["10.0.0.0/8".into()],
        ..Policy::default()
    };
    assert_eq!(applied(&fixture, apply("a", policy(both))).await.changes.len(), 2);
}

#[tokio::test]
async fn numbers_out_of_bounds_are_refused_by_name() {
    let fixture = Fixture::new().await;
    let asn = Policy { client_deny_asn: vec![64_500, 0], ..Policy::default() };
    for (settings, expected) in [
        (Settings { max_lifetime_s: 599, ..Settings::default() }, "max_lifetime_s: 599 is not 600 to 86400"),
        (Settings { max_lifetime_s: 86_401, ..Settings::default() }, "max_lifetime_s: 86401 is not"),
        (
            Settings { max_bandwidth_bytes_per_s: 1, ..Settings::default() },
            "max_bandwidth_bytes_per_s: 1 does not",
        ),
        (policy(asn), "policy.client_deny_asn[1]: 0 is no autonomous system"),
    ] {
        let request = apply("a", settings);
        let (code, text) =
            fixture.refused(async |service| service.apply_settings(admin(request)).await).await;
        assert_eq!((code, text.starts_with(expected)), (Code::InvalidArgument, true), "{text}");
    }
    let request = ApplySettingsRequest { mutation: once("a"), ..ApplySettingsRequest::default() };
    let (code, text) = fixture.refused(async |service| service.apply_settings(admin(request)).await).await;
    assert_eq!((code, text.as_str()), (Code::InvalidArgument, "settings: it is not set; send all settings"));
}

#[tokio::test]
async fn more_entries_than_a_server_keeps_are_refused_and_as_many_are_taken() {
    let fixture = Fixture::new().await;
    let networks = |count: u32| (0..count).map(|at| format!("10.{}.{}.0/24", at >> 8, at & 255)).collect();
    let halves = |allow, deny| {
        policy(Policy { peer_allow: networks(allow), client_deny: networks(deny), ..Policy::default() })
    };
    let request = apply("a", halves(5_000, 5_001));
    let (code, text) = fixture.refused(async |service| service.apply_settings(admin(request)).await).await;
    assert_eq!(
        (code, text.starts_with("policy: it has 10001 entries, 10000 at most")),
        (Code::InvalidArgument, true)
    );
    let answer = applied(&fixture, apply("b", halves(5_000, 5_000))).await;
    let after = &answer.changes.first().expect("a change").after;
    assert!(after.starts_with("5000 entries, of which are new: 10.0.0.0/24, "), "{after}");
    assert!(after.ends_with(" and 4980 more") && after.len() < 1_000, "{after}");
}
