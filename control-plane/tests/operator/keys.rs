//! Keys, revocations and fleet keys.

use tonic::Code;
use trunkline_control_plane::records;
use trunkline_proto::operator::v1::operator_service_server::OperatorService as _;
use trunkline_proto::operator::v1::{
    CreateKeyRequest, CreateKeyResponse, DeleteKeyRequest, ListKeysRequest, RenameKeyRequest,
    RevokeCredentialRequest, RotateFleetKeyRequest,
};
use trunkline_proto::store::v1::{FleetKey, Revocation, TurnKey};

use super::fixture::{Fixture, admin, once, viewer};

async fn create(fixture: &Fixture, name: &str) -> CreateKeyResponse {
    let request = CreateKeyRequest { mutation: once(name), name: name.into() };
    fixture.service.create_key(admin(request)).await.expect("made").into_inner()
}

fn revoke(key: &str, key_id: &str, username: &str) -> RevokeCredentialRequest {
    RevokeCredentialRequest { mutation: once(key), key_id: key_id.into(), username: username.into() }
}

#[tokio::test]
async fn a_made_key_is_listed_and_its_secret_opens_for_the_configuration_alone() {
    let fixture = Fixture::new().await;
    let made = create(&fixture, "app").await;
    let key = made.key.expect("a key");
    assert_eq!((key.id.len(), made.secret.len()), (32, 64));
    let listed = fixture.service.list_keys(viewer(ListKeysRequest {})).await.expect("a list").into_inner();
    assert_eq!(listed.keys, std::slice::from_ref(&key));
    let state = fixture.core.state();
    let record = &state.turn_keys.get(&key.id).expect("kept").record;
    let clear = fixture.core.sealing().open(&records::key::<TurnKey>(&key.id), &record.sealed_secret);
    assert_eq!(&clear.expect("opens")[..], made.secret.as_bytes());
}

#[tokio::test]
async fn a_keys_secret_is_nowhere_in_the_store_or_the_audit_log() {
    let fixture = Fixture::new().await;
    let secret = create(&fixture, "canary").await.secret;
    let raw =
        (0..secret.len()).step_by(2).map(|at| u8::from_str_radix(&secret[at..at + 2], 16).expect("hex"));
    let raw: Vec<u8> = raw.collect();
    let kept = fixture.kept().await;
    assert!(kept.keys().any(|key| key.starts_with("idempotency/")), "the answer is kept");
    for (key, value) in kept {
        let holds = |needle: &[u8]| value.windows(needle.len()).any(|window| window == needle);
        assert!(!holds(secret.as_bytes()) && !holds(&raw), "{key} holds the secret");
    }
    assert!(!fixture.events().await.iter().any(|event| format!("{event:?}").contains(&secret)));
}

#[tokio::test]
async fn a_key_is_renamed_and_deleted() {
    let fixture = Fixture::new().await;
    let id = create(&fixture, "old").await.key.expect("a key").id;
    let rename = RenameKeyRequest { mutation: once("r"), key_id: id.clone(), name: "new".into() };
    fixture.service.rename_key(admin(rename)).await.expect("renamed");
    assert_eq!(fixture.core.state().turn_keys.get(&id).expect("kept").record.name, "new");
    let delete = DeleteKeyRequest { mutation: once("d"), key_id: id };
    fixture.service.delete_key(admin(delete)).await.expect("deleted");
    assert!(fixture.records::<TurnKey>().await.is_empty());
}

#[tokio::test]
async fn an_unknown_key_is_neither_renamed_nor_deleted_nor_revoked_with() {
    let fixture = Fixture::new().await;
    let rename = RenameKeyRequest { mutation: once("r"), key_id: "ab".into(), name: "new".into() };
    let (code, text) = fixture.refused(async |service| service.rename_key(admin(rename)).await).await;
    assert_eq!((code, text.starts_with("key_id: there is no key \"ab\"")), (Code::NotFound, true), "{text}");
    let delete = DeleteKeyRequest { mutation: once("d"), key_id: "ab".into() };
    let (code, _) = fixture.refused(async |service| service.delete_key(admin(delete)).await).await;
    assert_eq!(code, Code::NotFound);
    let request = revoke("v", "ab", "9999999999:ab");
    let (code, _) = fixture.refused(async |service| service.revoke_credential(admin(request)).await).await;
    assert_eq!(code, Code::NotFound);
}

#[tokio::test]
async fn a_username_is_revoked_once_however_often_it_is_asked_for() {
    let fixture = Fixture::new().await;
    let id = create(&fixture, "app").await.key.expect("a key").id;
    let username = format!("9999999999:{id}:bob/1");
    let first = fixture.service.revoke_credential(admin(revoke("1", &id, &username))).await.expect("revoked");
    let second =
        fixture.service.revoke_credential(admin(revoke("2", &id, &username))).await.expect("revoked");
    assert_eq!(first.into_inner().epoch, second.into_inner().epoch);
    let kept = fixture.records::<Revocation>().await;
    let kept: Vec<_> = kept.values().map(|record| (record.username.clone(), record.expires_unix_s)).collect();
    assert_eq!(kept, [(username, 9_999_999_999)]);
}

#[tokio::test]
async fn a_username_that_has_ended_is_not_kept() {
    let fixture = Fixture::new().await;
    let id = create(&fixture, "app").await.key.expect("a key").id;
    let request = revoke("1", &id, &format!("1:{id}"));
    let answer = fixture.service.revoke_credential(admin(request)).await.expect("fine").into_inner();
    assert!(answer.summary.ends_with("had ended by itself"), "{}", answer.summary);
    assert!(fixture.records::<Revocation>().await.is_empty());
}

#[tokio::test]
async fn a_username_of_another_key_is_refused() {
    let fixture = Fixture::new().await;
    let id = create(&fixture, "app").await.key.expect("a key").id;
    let long = format!("9999999999:{id}:{}", "x".repeat(500));
    for username in ["", "9999999999", "9999999999:other", "later:bob", &format!("9999999999:{id}x"), &long] {
        let request = revoke("v", &id, username);
        let (code, text) =
            fixture.refused(async |service| service.revoke_credential(admin(request)).await).await;
        assert_eq!(code, Code::InvalidArgument);
        assert!(
            text.starts_with(&format!("username: it is not one of this key: expected expiry:{id}")),
            "{text}"
        );
    }
}

#[tokio::test]
async fn bad_names_are_refused() {
    let fixture = Fixture::new().await;
    for name in ["", "  ", "a\nb", &"x".repeat(129)] {
        let request = CreateKeyRequest { mutation: once("c"), name: name.into() };
        let (code, text) = fixture.refused(async |service| service.create_key(admin(request)).await).await;
        assert_eq!(
            (code, text.starts_with("name: it must have 1 to 128 bytes")),
            (Code::InvalidArgument, true)
        );
    }
}

#[tokio::test]
async fn a_new_fleet_key_is_published_before_it_seals() {
    let fixture = Fixture::new().await;
    let old = FleetKey { id: 3, created_unix_s: 10, sealed_secret: vec![1], ..FleetKey::default() };
    fixture.put([records::put(3, &old)]).await;
    let rotate = |key: &str| RotateFleetKeyRequest { mutation: once(key) };
    fixture.service.rotate_fleet_key(admin(rotate("1"))).await.expect("rotated");
    let keys = fixture.records::<FleetKey>().await;
    let fresh = keys.get("fleet-key/0").expect("fresh");
    assert_eq!(fresh.seals_from_unix_s, fresh.created_unix_s + 60);
    assert_eq!(fresh.retires_unix_s, 0);
    assert_eq!(keys.get("fleet-key/3").expect("old").retires_unix_s, fresh.seals_from_unix_s + 86_400);
    let listed = fixture.service.list_keys(viewer(ListKeysRequest {})).await.expect("a list").into_inner();
    let uses: Vec<_> = listed.fleet_keys.iter().map(|key| (key.id, key.r#use.as_str())).collect();
    assert_eq!(uses, [(0, "publishing"), (3, "sealing")]);
    let again = rotate("2");
    let (code, text) = fixture.refused(async |service| service.rotate_fleet_key(admin(again)).await).await;
    assert_eq!(code, Code::FailedPrecondition, "{text}");
    // As the planner does after a minute.
    let promoted = FleetKey { seals_from_unix_s: 0, ..fresh.clone() };
    fixture.put([records::put(0, &promoted)]).await;
    let listed = fixture.service.list_keys(viewer(ListKeysRequest {})).await.expect("a list").into_inner();
    let uses: Vec<_> = listed.fleet_keys.iter().map(|key| (key.id, key.r#use.as_str())).collect();
    assert_eq!(uses, [(0, "sealing"), (3, "opening")]);
}

#[tokio::test]
async fn the_first_fleet_key_seals_at_once() {
    let fixture = Fixture::new().await;
    let rotate = RotateFleetKeyRequest { mutation: once("1") };
    let answer = fixture.service.rotate_fleet_key(admin(rotate)).await.expect("made").into_inner();
    assert_eq!(answer.summary, "key 0 seals");
    let keys = fixture.records::<FleetKey>().await;
    let key = keys.get("fleet-key/0").expect("a key");
    let clear = fixture.core.sealing().open("fleet-key/0", &key.sealed_secret).expect("opens");
    assert_eq!((key.seals_from_unix_s, clear.len()), (0, 16));
}
