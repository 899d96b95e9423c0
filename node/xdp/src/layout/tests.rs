//! The Rust types have the layout that the compiled program says it expects.

use std::mem::offset_of;

use super::*;
use crate::btf::Btf;

/// `(C field, where it is in Rust)` for each struct, and its size.
macro_rules! layouts {
    ($($name:literal = $type:ty { $($field:ident as $c:literal),+ $(,)? })+) => {
        [$(($name, size_of::<$type>(), vec![$(($c, offset_of!($type, $field))),+])),+]
    };
}

#[test]
fn every_struct_is_laid_out_as_the_program_expects() {
    let btf = Btf::of(crate::program::OBJECT).expect("an object with BTF");
    let layouts = layouts! {
        "row" = Row { current as "current", next as "next", previous as "previous", fallback as "fallback" }
        "node" = Node { site as "site", server as "server" }
        "key" = Key { secret as "secret", id as "id", pad as "pad" }
        "address" = Address { ip as "ip", roles as "roles", relay as "relay", pad as "pad" }
        "member" = Member { ip as "ip", port as "port", pad as "pad" }
        "flow" = Flow {
            client as "client", service as "service", client_port as "client_port", service_port as "service_port",
            protocol as "protocol",
        }
        "neighbour" = Neighbour {
            good_until_ns as "good_until_ns", interface as "interface", destination as "destination", source as "source",
        }
        "health" = Health { beat_ns as "beat_ns", is_dead as "is_dead" }
        "config" = Config {
            epoch as "epoch", me as "me", row_mask as "row_mask", mtu as "mtu",
            encapsulation_count as "encapsulation_count", ufrag_count as "ufrag_count", hash_key as "hash_key",
            encapsulation as "encapsulation", ufrag as "ufrag", udp_ports as "udp_ports", tcp_ports as "tcp_ports",
            addresses as "addresses", members as "members", slices as "slices", rows as "rows",
        }
    };
    for (name, size, fields) in layouts {
        let expected = btf.structure(name).unwrap_or_else(|| panic!("the program has no struct {name}"));
        assert_eq!(size, expected.bytes, "size of {name}");
        let expected: Vec<(&str, usize)> =
            expected.fields.iter().map(|(field, at)| (field.as_str(), *at)).collect();
        assert_eq!(fields, expected, "fields of {name}");
    }
}

#[test]
fn numbers_of_reasons_are_the_same() {
    let btf = Btf::of(crate::program::OBJECT).expect("an object with BTF");
    let theirs = btf.enumeration("reason").expect("enum reason");
    let ours =
        trunkline_steer::Reason::ALL.iter().map(|reason| (reason.name().to_uppercase(), *reason as u32));
    assert_eq!(ours.collect::<Vec<_>>(), theirs);
}

#[test]
fn more_servers_relays_or_keys_than_there_is_room_for_are_refused() {
    let mut slots = [Address { ip: [0; 16], roles: 0, relay: 0, pad: 0 }; ADDRESSES_MAX];
    let crowd =
        (0..1_000_u32).try_for_each(|n| put_address(&mut slots, IpAddr::from((n << 8).to_be_bytes()), 1, 0));
    assert_eq!(crowd, Ok(()), "a thousand addresses in a row");
    let all = (0..4_096_u32).try_for_each(|n| put_address(&mut slots, IpAddr::from(n.to_be_bytes()), 1, 0));
    assert_eq!(all, Err(Unfit::Addresses));
}
