//! XOR'd transport addresses (RFC 8489 §14.2): XOR-MAPPED-, XOR-PEER- and XOR-RELAYED-ADDRESS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::MAGIC_COOKIE;
use super::attribute::{FAMILY_IPV4, FAMILY_IPV6};
use super::message::TransactionId;

/// Length of the value for IPv6; IPv4 takes 8.
pub(super) const VALUE_BYTES_MAX: usize = 20;

const COOKIE_HIGH: u16 = (MAGIC_COOKIE >> 16) as u16;

/// Reads the value; `None` when its family or length is wrong.
pub(super) fn decode(value: &[u8], transaction: TransactionId) -> Option<SocketAddr> {
    let (&[_, family, p0, p1], rest) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([p0, p1]) ^ COOKIE_HIGH;
    let ip = match family {
        FAMILY_IPV4 => {
            let bytes: [u8; 4] = rest.try_into().ok()?;
            IpAddr::V4(Ipv4Addr::from(u32::from_be_bytes(bytes) ^ MAGIC_COOKIE))
        }
        FAMILY_IPV6 => {
            let bytes: [u8; 16] = rest.try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(u128::from_be_bytes(bytes) ^ mask_v6(transaction)))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Writes the value into the front of a buffer and says how long it is.
pub(super) fn encode(address: SocketAddr, transaction: TransactionId) -> ([u8; VALUE_BYTES_MAX], usize) {
    let mut value = [0; VALUE_BYTES_MAX];
    let [p0, p1] = (address.port() ^ COOKIE_HIGH).to_be_bytes();
    let (family, length) = match address {
        SocketAddr::V4(_) => (FAMILY_IPV4, 8),
        SocketAddr::V6(_) => (FAMILY_IPV6, VALUE_BYTES_MAX),
    };
    if let Some((front, rest)) = value.split_first_chunk_mut::<4>() {
        *front = [0, family, p0, p1];
        match address.ip() {
            IpAddr::V4(ip) => put(rest, &(u32::from(ip) ^ MAGIC_COOKIE).to_be_bytes()),
            IpAddr::V6(ip) => put(rest, &(u128::from(ip) ^ mask_v6(transaction)).to_be_bytes()),
        }
    }
    (value, length)
}

fn put(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

fn mask_v6(transaction: TransactionId) -> u128 {
    let mut low = [0; 16];
    put(&mut low, &MAGIC_COOKIE.to_be_bytes());
    put(low.get_mut(4..).unwrap_or_default(), &transaction.0);
    u128::from_be_bytes(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn encode_and_decode_are_inverse(ip in any::<IpAddr>(), port in any::<u16>(), id in any::<[u8; 12]>()) {
            let address = SocketAddr::new(ip, port);
            let (value, length) = encode(address, TransactionId(id));
            prop_assert_eq!(decode(&value[..length], TransactionId(id)), Some(address));
        }
    }

    #[test]
    fn wrong_family_or_length_is_refused() {
        assert_eq!(decode(&[0, 3, 0, 0, 1, 2, 3, 4], TransactionId([0; 12])), None);
        assert_eq!(decode(&[0, 1, 0, 0, 1, 2, 3], TransactionId([0; 12])), None);
        assert_eq!(decode(&[0, 2, 0, 0, 1, 2, 3, 4], TransactionId([0; 12])), None);
        assert_eq!(decode(&[], TransactionId([0; 12])), None);
    }
}
