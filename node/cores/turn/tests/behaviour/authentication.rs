//! The long-term credential mechanism (RFC 8489 §9.2), and how integrity and duplicates are read (§14).

use trunkline_wire::DropReason;
use trunkline_wire::stun::{Method, attribute as kind};

use crate::support::*;

/// A request of every method that must be authenticated, with the attributes it needs.
fn requests() -> [Draft; 4] {
    [
        Draft::allocate(),
        Draft::refresh(600),
        Draft::create_permission(&[at(PEER)]),
        Draft::channel_bind(0x4000, at(PEER)),
    ]
}

#[test]
fn request_without_integrity_gets_401_with_realm_and_nonce_unsigned() {
    let mut world = World::new();
    for draft in requests() {
        let answer = Client::alice().exchange(&mut world, &draft.bytes());
        assert_eq!(answer.code(), 401);
        assert_eq!(answer.value(kind::REALM), Some(REALM.as_bytes()));
        assert!(!answer.value(kind::NONCE).unwrap().is_empty());
        assert!(!answer.has(kind::MESSAGE_INTEGRITY));
    }
}

#[test]
fn integrity_without_username_realm_or_nonce_gets_400() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.fetch_nonce(&mut world);
    let nonce = alice.nonce.clone().unwrap();
    let name = |draft: Draft| draft.value(kind::USERNAME, b"alice");
    let realm = |draft: Draft| draft.value(kind::REALM, REALM.as_bytes());
    let nonce = |draft: Draft| draft.value(kind::NONCE, &nonce);
    for draft in requests() {
        for lacking in [realm(nonce(draft.clone())), name(nonce(draft.clone())), name(realm(draft.clone()))] {
            let answer = alice.exchange(&mut world, &lacking.integrity(&alice.key).bytes());
            assert_eq!(answer.code(), 400);
        }
    }
}

#[test]
fn unknown_user_or_wrong_password_or_wrong_realm_gets_401() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.fetch_nonce(&mut world);
    for (name, password) in
        [("mallory", "wonderland"), ("alice", "wonderlanD"), ("alice\0", "wonderland"), ("", "")]
    {
        let mut mallory = Client::new(alice.flow, name, password);
        mallory.nonce.clone_from(&alice.nonce);
        let answer = mallory.exchange(&mut world, &mallory.signed(Draft::allocate()).bytes());
        assert_eq!(answer.code(), 401, "{name}");
        assert!(answer.has(kind::NONCE) && answer.has(kind::REALM) && !answer.has(kind::MESSAGE_INTEGRITY));
    }
    let elsewhere = Draft::allocate()
        .value(kind::USERNAME, b"alice")
        .value(kind::REALM, b"elsewhere")
        .value(kind::NONCE, alice.nonce.as_deref().unwrap());
    assert_eq!(alice.exchange(&mut world, &elsewhere.integrity(&alice.key).bytes()).code(), 401);
    assert_eq!(world.server.allocation_count(), 0);
}

#[test]
fn one_flipped_bit_of_a_signed_request_is_never_accepted() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.fetch_nonce(&mut world);
    let good = alice.signed(Draft::allocate()).bytes();
    for bit in 0..good.len() * 8 {
        let mut flipped = good.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        world.receive(alice.flow, &flipped);
        assert_eq!(world.server.allocation_count(), 0, "bit {bit}");
    }
    assert_eq!(alice.exchange(&mut world, &good).code(), 0);
}

#[test]
fn expired_nonce_gets_438_and_the_retry_succeeds() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate(&mut world);
    for _ in 0..13 {
        world.advance(300);
        if alice.ask(&mut world, Draft::refresh(600)).code() == 438 {
            break;
        }
    }
    let stale = alice.ask(&mut world, Draft::refresh(600));
    assert_eq!(stale.code(), 438);
    assert_eq!(stale.value(kind::REALM), Some(REALM.as_bytes()));
    assert!(!stale.has(kind::MESSAGE_INTEGRITY));
    alice.nonce = stale.value(kind::NONCE).map(<[u8]>::to_vec);
    assert_eq!(alice.ask(&mut world, Draft::refresh(600)).code(), 0);
}

#[test]
fn foreign_nonce_gets_438_and_the_retry_succeeds() {
    let mut world = World::new();
    let mut foreign = Settings { keys: keyring(2), ..Settings::default() }.world();
    let mut alice = Client::alice();
    let mut nonces = vec![b"".to_vec(), b"0".to_vec(), vec![b'A'; 20], vec![0xFF; 20], vec![b'A'; 763]];
    alice.fetch_nonce(&mut foreign);
    nonces.extend(alice.nonce.take());
    for nonce in nonces {
        alice.nonce = Some(nonce);
        let stale = alice.ask(&mut world, Draft::refresh(600));
        assert_eq!(stale.code(), 438);
        alice.nonce = stale.value(kind::NONCE).map(<[u8]>::to_vec);
        assert_eq!(alice.ask(&mut world, Draft::refresh(600)).code(), 437, "accepted, and no allocation");
    }
}

#[test]
fn nonce_is_bound_to_the_source_address_and_port() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.fetch_nonce(&mut world);
    for remote in ["198.41.7.7:40001", "198.41.7.8:40000"] {
        let mut thief = Client::alice_at(remote);
        thief.nonce.clone_from(&alice.nonce);
        assert_eq!(thief.ask(&mut world, Draft::allocate()).code(), 438, "{remote}");
    }
    assert_eq!(alice.ask(&mut world, Draft::allocate()).code(), 0);
}

#[test]
fn nonce_is_valid_on_every_server_of_the_fleet_and_survives_a_restart() {
    let mut here = World::new();
    let mut there = Settings { node: OTHER_NODE, seed: 99, ..Settings::default() }.world();
    let mut alice = Client::alice();
    alice.fetch_nonce(&mut here);
    assert_eq!(alice.ask(&mut there, Draft::allocate()).code(), 0);
    assert_eq!(alice.ask(&mut World::new(), Draft::allocate()).code(), 0);
}

#[test]
fn attributes_behind_integrity_are_ignored() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.fetch_nonce(&mut world);
    let [four, six] = [1, 2].map(|family| [family, 0, 0, 0]);
    let draft = alice
        .signed(Draft::allocate().value(kind::REQUESTED_ADDRESS_FAMILY, &four))
        .value(kind::REQUESTED_ADDRESS_FAMILY, &six)
        .value(kind::ADDITIONAL_ADDRESS_FAMILY, &six)
        .value(kind::LIFETIME, &3_000_u32.to_be_bytes())
        .value(kind::LIFETIME, b"not four")
        .value(0x7777, b"not known");
    let answer = alice.exchange(&mut world, &draft.bytes());
    assert_eq!((answer.code(), answer.lifetime()), (0, Some(600)));
    assert!(answer.relayed()[0].is_ipv4());
}

#[test]
fn peers_behind_integrity_get_no_permission() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let relayed = alice.allocate(&mut world);
    let draft = alice.signed(Draft::create_permission(&[at(PEER)])).peer(at(OTHER_PEER));
    assert_eq!(alice.exchange(&mut world, &draft.bytes()).code(), 0);
    assert_eq!(world.receive_from_peer(relayed, at(PEER), b"x").len(), 1);
    assert_eq!(world.receive_from_peer(relayed, at(OTHER_PEER), b"x"), []);
}

#[test]
fn sha256_integrity_and_fingerprint_behind_integrity_are_looked_at() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.fetch_nonce(&mut world);
    let draft = alice.signed(Draft::allocate()).value(kind::MESSAGE_INTEGRITY_SHA256, &[0; 32]).fingerprint();
    let answer = alice.exchange(&mut world, &draft.bytes());
    assert_eq!(answer.code(), 0);
    assert!(answer.has(kind::FINGERPRINT), "answers carry a FINGERPRINT where requests do");
    let mut wrong = alice.signed(Draft::refresh(600)).fingerprint().bytes();
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(alice.exchange_or_silence(&mut world, &wrong), None);
    assert_eq!(world.drops(DropReason::BadFingerprint), 1);
}

#[test]
fn fingerprint_that_is_not_last_is_dropped() {
    let mut world = World::new();
    let draft = Draft::request(Method::Binding).fingerprint().value(kind::SOFTWARE, b"x");
    assert_eq!(Client::alice().exchange_or_silence(&mut world, &draft.bytes()), None);
    assert_eq!(world.drops(DropReason::BadFingerprint), 1);
}

#[test]
fn the_first_of_duplicates_counts() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.fetch_nonce(&mut world);
    let draft = alice
        .named(
            Draft::allocate().lifetime(1_000).lifetime(2_000).value(kind::REQUESTED_TRANSPORT, &[6, 0, 0, 0]),
        )
        .value(kind::USERNAME, b"bob")
        .value(kind::REALM, b"elsewhere")
        .value(kind::NONCE, b"another")
        .integrity(&alice.key)
        .integrity(&Client::bob().key);
    let answer = alice.exchange(&mut world, &draft.bytes());
    assert_eq!((answer.code(), answer.lifetime()), (0, Some(1_000)));
}

#[test]
fn same_five_tuple_with_another_username_gets_441() {
    let mut world = World::new();
    let mut alice = Client::alice();
    alice.allocate(&mut world);
    let mut bob = Client { flow: alice.flow, nonce: alice.nonce.clone(), ..Client::bob() };
    for draft in requests() {
        let answer = bob.ask(&mut world, draft);
        assert_eq!(answer.code(), 441);
    }
    assert_eq!(bob.ask(&mut world, Draft::refresh(0)).code(), 441);
    assert_eq!(alice.ask(&mut world, Draft::refresh(600)).code(), 0, "hers goes on");
}

#[test]
fn unknown_comprehension_required_attributes_get_420_that_lists_each_once() {
    let mut world = World::new();
    let mut alice = Client::alice();
    for count in 1..=5_u16 {
        let unknown: Vec<u16> = (0..count).map(|number| 0x7000 + number).collect();
        let draft =
            unknown.iter().fold(Draft::allocate(), |draft, kind| draft.value(*kind, b"?").value(*kind, b"!"));
        let answer = alice.ask(&mut world, draft.value(0x9000, b"optional"));
        assert_eq!((answer.code(), answer.unknown()), (420, unknown));
    }
    assert_eq!(world.server.allocation_count(), 0);
}

#[test]
fn success_is_signed_and_carries_a_fingerprint_only_where_the_request_did() {
    let mut world = World::new();
    let mut alice = Client::alice();
    let plain = alice.ask(&mut world, Draft::allocate());
    assert!(plain.is_signed_by(&alice.key) && !plain.has(kind::FINGERPRINT));
    let refresh = alice.fresh(Draft::refresh(600));
    let answer = alice.exchange(&mut world, &alice.signed(refresh).fingerprint().bytes());
    assert!(answer.is_signed_by(&alice.key) && answer.has(kind::FINGERPRINT));
}

#[test]
fn a_value_of_the_wrong_length_gets_400() {
    let mut world = World::new();
    let bad = [
        (kind::LIFETIME, 3),
        (kind::REQUESTED_TRANSPORT, 5),
        (kind::XOR_PEER_ADDRESS, 7),
        (kind::EVEN_PORT, 0),
        (kind::RESERVATION_TOKEN, 9),
        (kind::CHANNEL_NUMBER, 0),
        (kind::REQUESTED_ADDRESS_FAMILY, 1),
        (kind::USERNAME, 509),
        (kind::MESSAGE_INTEGRITY, 19),
    ];
    for (attribute, length) in bad {
        let draft = Draft::allocate().value(attribute, &vec![0; length]);
        let answer = Client::alice().exchange(&mut world, &draft.bytes());
        let is_duplicate = attribute == kind::REQUESTED_TRANSPORT;
        assert_eq!(answer.code(), if is_duplicate { 401 } else { 400 }, "{attribute:04x}");
    }
}
