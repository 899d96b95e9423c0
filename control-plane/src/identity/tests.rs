//! Names in certificates, and what is none.

use super::*;

#[test]
fn a_name_reads_back_as_it_was_written() {
    let names = [
        Name::Node(NodeId { site: 330, server: 32 }),
        Name::Replica("replica-1.example".to_owned()),
        Name::Operator { name: "alice@example".to_owned(), role: Role::Viewer },
        Name::Operator { name: "bob".to_owned(), role: Role::Admin },
    ];
    for name in names {
        assert_eq!(name.to_string().parse::<Name>(), Ok(name));
    }
}

#[test]
fn what_is_no_name_is_refused() {
    for text in [
        "",
        "trunkline://",
        "trunkline://node",
        "trunkline://node/",
        "trunkline://node/1",
        "trunkline://node/0.1",
        "trunkline://node/1.0",
        "trunkline://node/01.2",
        "trunkline://node/+1.2",
        "trunkline://node/1.65536",
        "trunkline://node/1.2.3",
        "trunkline://node/1.2/",
        "trunkline://replica/",
        "trunkline://replica/a/b",
        "trunkline://replica/a b",
        "trunkline://operator/alice",
        "trunkline://operator/root/alice",
        "trunkline://operator/admin/",
        "trunkline://operator/admin/a\nb",
        "trunkline://admin/alice",
        "https://node/1.2",
        "TRUNKLINE://node/1.2",
    ] {
        assert!(text.parse::<Name>().is_err(), "{text:?}");
    }
    assert!(format!("trunkline://replica/{}", "a".repeat(65)).parse::<Name>().is_err());
}

#[test]
fn bytes_that_are_no_certificate_name_nobody() {
    assert!(matches!(Identity::of_certificate(b"certificate"), Err(Unnamed::Malformed(_))));
}
