//! Sealed values and the key file.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

const CONTEXT: &str = "turn-key/ab12 secret";

fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.key");
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("permissions");
    (directory, path)
}

#[test]
fn a_sealed_value_opens_and_does_not_show_what_it_is() {
    let sealing = Sealing::ephemeral().expect("a key");
    let sealed = sealing.seal(CONTEXT, b"a canary secret");
    assert!(!sealed.windows(6).any(|bytes| bytes == b"canary"));
    assert_eq!(sealing.open(CONTEXT, &sealed).expect("opens").as_slice(), b"a canary secret");
}

#[test]
fn the_same_value_is_never_sealed_twice_alike() {
    let sealing = Sealing::ephemeral().expect("a key");
    assert_ne!(sealing.seal(CONTEXT, b"secret"), sealing.seal(CONTEXT, b"secret"));
}

#[test]
fn a_value_does_not_open_in_another_record() {
    let sealing = Sealing::ephemeral().expect("a key");
    let sealed = sealing.seal(CONTEXT, b"secret");
    assert!(matches!(sealing.open("turn-key/ab13 secret", &sealed), Err(SealingError::Broken { .. })));
}

#[test]
fn any_flipped_bit_breaks_the_seal() {
    let sealing = Sealing::ephemeral().expect("a key");
    let sealed = sealing.seal(CONTEXT, b"secret");
    for bit in 0..sealed.len() * 8 {
        let mut flipped = sealed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(sealing.open(CONTEXT, &flipped).is_err(), "bit {bit}");
    }
    for length in 0..sealed.len() {
        assert!(sealing.open(CONTEXT, &sealed[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn a_new_key_on_top_seals_and_the_old_one_still_opens() {
    let (old, new) = ("11".repeat(32), "22".repeat(32));
    let (_directory, path) = file(&format!("{old}\n"), 0o600);
    let before = Sealing::from_file(&path).expect("a key");
    let sealed = before.seal(CONTEXT, b"secret");

    fs::write(&path, format!("{new}\n{old}\n")).expect("written");
    let after = Sealing::from_file(&path).expect("two keys");

    assert_eq!(after.open(CONTEXT, &sealed).expect("opens").as_slice(), b"secret");
    assert!(!after.is_current(&sealed));
    let again = after.seal(CONTEXT, b"secret");
    assert!(after.is_current(&again));
    assert!(matches!(before.open(CONTEXT, &again), Err(SealingError::OtherKey { .. })));
}

#[test]
fn a_file_that_others_can_read_is_refused_with_what_to_do() {
    for mode in [0o640, 0o604, 0o660, 0o644] {
        let (_directory, path) = file(&"11".repeat(32), mode);
        let error = Sealing::from_file(&path).err().expect("refused").to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
}

#[test]
fn a_malformed_line_is_named_and_not_shown() {
    let bad = "5ecre7".repeat(8);
    for text in [format!("{}\n{bad}\n", "11".repeat(32)), format!("{}\n{}", "11".repeat(32), "zz".repeat(32))]
    {
        let (_directory, path) = file(&text, 0o600);
        let error = Sealing::from_file(&path).err().expect("refused").to_string();
        assert!(error.contains("line 2") && !error.contains("5ecre7"), "{error}");
    }
    let (_directory, path) = file("\n", 0o600);
    assert!(Sealing::from_file(&path).is_err());
}

#[test]
fn the_file_is_made_once_and_only_for_its_owner() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.key");
    let sealed = Sealing::open_or_create(&path).expect("made").seal(CONTEXT, b"secret");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    assert!(Sealing::open_or_create(&path).expect("there").open(CONTEXT, &sealed).is_ok());
    assert!(create_file(&path).is_err());
}

proptest! {
    #[test]
    fn bytes_that_nobody_sealed_do_not_open(bytes: Vec<u8>) {
        let sealing = Sealing::ephemeral().expect("a key");
        prop_assert!(sealing.open(CONTEXT, &bytes).is_err());
    }
}
