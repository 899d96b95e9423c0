//! Target: NONCE and RESERVATION-TOKEN.
//!
//! Sealed ones open, on the server that made them and on every other one of the fleet, for their client and while
//! they are fresh; any change closes them; nobody without the key makes one; no bytes make opening panic.

use std::net::SocketAddr;

use trunkline_wire::token::{FleetKey, Keyring, NONCE_CHARS, Nonce, ReservationToken};
use trunkline_wire::{NodeId, Now};

use crate::bytes::Bytes;

const LIFETIME_S: u64 = 3_600;
/// Nonces count in ticks of four seconds.
const TICK_S: u64 = 4;

/// Key and address material first, then what a stranger sends.
pub fn run(input: &[u8]) {
    let mut input = Bytes::new(input);
    let secret: [u8; 16] = input.array();
    let key = FleetKey { id: input.byte(), secret };
    let fleet = Keyring::new(key.clone(), vec![]);
    let node = NodeId::from_bytes(input.array());
    let client = client(&mut input);
    let now = Now { monotonic_ns: 0, unix_s: 1_700_000_000 + u64::from(input.number()) };
    nonce_keeps_its_promises(&fleet, node, client, now, &mut input);
    reservation_keeps_its_promises(&fleet, node, &mut input);
    rotated_key_opens(&key, node, client, now);
    stranger_is_refused(&fleet, client, now, input.rest());
}

fn client(input: &mut Bytes<'_>) -> SocketAddr {
    let ip = if input.flag() { input.array::<16>().into() } else { input.array::<4>().into() };
    SocketAddr::new(ip, input.number())
}

fn nonce_keeps_its_promises(
    fleet: &Keyring,
    node: NodeId,
    client: SocketAddr,
    now: Now,
    input: &mut Bytes<'_>,
) {
    let nonce = Nonce::seal(fleet, node, client, now);
    let open = |bytes: &[u8], client, now| Nonce::open(fleet, bytes, client, now, LIFETIME_S);
    let later_s = u64::from(input.number());
    let opened = open(nonce.as_bytes(), client, now.plus_s(later_s));
    if later_s <= LIFETIME_S {
        assert_eq!(opened, Some(node), "after {later_s} s");
    } else if later_s > LIFETIME_S + TICK_S {
        assert_eq!(opened, None, "after {later_s} s");
    }
    let mut other = client;
    other.set_port(client.port() ^ 1 << (input.byte() % 16));
    assert_eq!(open(nonce.as_bytes(), other, now), None, "another port");
    let mut changed = nonce.as_bytes().to_vec();
    changed[usize::from(input.byte()) % NONCE_CHARS] ^= input.byte().max(1);
    assert_eq!(open(&changed, client, now), None, "changed to {changed:02x?}");
}

fn reservation_keeps_its_promises(fleet: &Keyring, node: NodeId, input: &mut Bytes<'_>) {
    let token = ReservationToken { node, port: input.number() };
    let sealed = token.seal(fleet);
    assert_eq!(ReservationToken::open(fleet, sealed), Some(token));
    // The MAC has 16 bits here, so only a change of the MAC itself is sure to be noticed.
    let mut changed = sealed;
    changed[6 + usize::from(input.flag())] ^= input.byte().max(1);
    assert_eq!(ReservationToken::open(fleet, changed), None);
}

fn rotated_key_opens(old: &FleetKey, node: NodeId, client: SocketAddr, now: Now) {
    let nonce = Nonce::seal(&Keyring::new(old.clone(), vec![]), node, client, now);
    let new = FleetKey { id: old.id.wrapping_add(1), secret: old.secret.map(|byte| !byte) };
    let rotated = Keyring::new(new.clone(), vec![old.clone()]);
    assert_eq!(Nonce::open(&rotated, nonce.as_bytes(), client, now, LIFETIME_S), Some(node));
    let forgotten = Keyring::new(new, vec![]);
    assert_eq!(Nonce::open(&forgotten, nonce.as_bytes(), client, now, LIFETIME_S), None);
}

fn stranger_is_refused(fleet: &Keyring, client: SocketAddr, now: Now, bytes: &[u8]) {
    assert_eq!(Nonce::open(fleet, bytes, client, now, LIFETIME_S), None, "forged {bytes:02x?}");
    if let Some(token) = bytes.first_chunk() {
        // Sixteen bits of MAC can be guessed; what opens must at least be what sealing gives.
        if let Some(opened) = ReservationToken::open(fleet, *token) {
            assert_eq!(opened.seal(fleet), *token);
        }
    }
}
