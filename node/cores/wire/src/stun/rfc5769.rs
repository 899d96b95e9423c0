//! Test vectors of RFC 5769, byte for byte.

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

const PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";

/// §2.1
const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae
    80220010 5354554e207465737420636c69656e74
    00240004 6e0001ff 80290008 932ff9b151263b36
    00060009 6576746a3a68367659202020
    00080014 9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2
    80280004 e57a3bcf";

/// §2.2
const IPV4_RESPONSE: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae
    8022000b 7465737420766563746f7220
    00200008 0001a147e112a643
    00080014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7
    80280004 c07d4c96";

/// §2.3
const IPV6_RESPONSE: &str = "010100482112a442b7e7a701bc34d686fa87dfae
    8022000b 7465737420766563746f7220
    00200014 0002a1470113a9faa5d3f179bc25f4b5bed2b9d9
    00080014 a382954e4be67bf11784c97c8292c275bfe3ed41
    80280004 c8fb0b4c";

/// §2.4
const LONG_TERM_REQUEST: &str = "000100602112a44278ad3433c6ad72c029da412e
    00060012 e3839ee38388e383aae38383e382af e382b9 0000
    0015001c 662f2f3439396b3935346436 4f4c33346f4c39465354767936347341
    0014000b 6578616d706c652e6f726700
    00080014 f67024656dd64a3e02b8e0712e85c9a28ca89666";

fn check(hex: &str) -> (Vec<u8>, bool) {
    let message = bytes(hex);
    let parsed = Message::parse(&message).unwrap();
    let attributes = Attributes::parse(&parsed).unwrap();
    let valid = attributes.fingerprint && attributes.verify(&Key::new(PASSWORD).unwrap());
    (message, valid)
}

#[test]
fn sample_request_has_valid_integrity_and_fingerprint() {
    let (message, valid) = check(REQUEST);
    assert!(valid);
    let parsed = Message::parse(&message).unwrap();
    assert_eq!((parsed.class(), parsed.method()), (Class::Request, Some(Method::Binding)));
    assert_eq!(Attributes::parse(&parsed).unwrap().username, Some(&b"evtj:h6vY"[..]));
}

#[test]
fn ipv4_response_is_valid_and_its_address_decodes() {
    let (message, valid) = check(IPV4_RESPONSE);
    assert!(valid);
    let parsed = Message::parse(&message).unwrap();
    let raw = parsed.raw_attributes().find(|raw| raw.kind == attribute::XOR_MAPPED_ADDRESS).unwrap();
    assert_eq!(address::decode(raw.value, parsed.transaction()), Some("192.0.2.1:32853".parse().unwrap()));
}

#[test]
fn ipv6_response_is_valid_and_its_address_decodes() {
    let (message, valid) = check(IPV6_RESPONSE);
    assert!(valid);
    let parsed = Message::parse(&message).unwrap();
    let raw = parsed.raw_attributes().find(|raw| raw.kind == attribute::XOR_MAPPED_ADDRESS).unwrap();
    let expected = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
    assert_eq!(address::decode(raw.value, parsed.transaction()), Some(expected));
}

#[test]
fn long_term_request_verifies_with_the_md5_key() {
    let message = bytes(LONG_TERM_REQUEST);
    let parsed = Message::parse(&message).unwrap();
    let attributes = Attributes::parse(&parsed).unwrap();
    assert_eq!(attributes.username, Some("マトリックス".as_bytes()));
    assert_eq!(attributes.realm, Some(&b"example.org"[..]));
    // MD5("マトリックス:example.org:TheMatrIX"), the password after SASLprep.
    let key = Key::new(&bytes("e8ca7ad59d5eb0518e312911d2dab2a9")).unwrap();
    assert!(attributes.verify(&key));
}

#[test]
fn one_flipped_bit_breaks_integrity_or_fingerprint() {
    let message = bytes(REQUEST);
    let key = Key::new(PASSWORD).unwrap();
    for bit in (HEADER_BYTES + 4) * 8..message.len() * 8 {
        let mut flipped = message.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let valid = Message::parse(&flipped)
            .ok()
            .and_then(|parsed| Attributes::parse(&parsed).ok().map(|a| a.fingerprint && a.verify(&key)));
        assert_ne!(valid, Some(true), "bit {bit}");
    }
}
