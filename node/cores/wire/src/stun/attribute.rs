//! The attribute table (RFC 8489 §18.3, RFC 8656 §18).

/// MAPPED-ADDRESS.
pub const MAPPED_ADDRESS: u16 = 0x0001;
/// USERNAME.
pub const USERNAME: u16 = 0x0006;
/// MESSAGE-INTEGRITY.
pub const MESSAGE_INTEGRITY: u16 = 0x0008;
/// ERROR-CODE.
pub const ERROR_CODE: u16 = 0x0009;
/// UNKNOWN-ATTRIBUTES.
pub const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
/// CHANNEL-NUMBER.
pub const CHANNEL_NUMBER: u16 = 0x000C;
/// LIFETIME.
pub const LIFETIME: u16 = 0x000D;
/// XOR-PEER-ADDRESS.
pub const XOR_PEER_ADDRESS: u16 = 0x0012;
/// DATA.
pub const DATA: u16 = 0x0013;
/// REALM.
pub const REALM: u16 = 0x0014;
/// NONCE.
pub const NONCE: u16 = 0x0015;
/// XOR-RELAYED-ADDRESS.
pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
/// REQUESTED-ADDRESS-FAMILY.
pub const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
/// EVEN-PORT.
pub const EVEN_PORT: u16 = 0x0018;
/// REQUESTED-TRANSPORT.
pub const REQUESTED_TRANSPORT: u16 = 0x0019;
/// DONT-FRAGMENT.
pub const DONT_FRAGMENT: u16 = 0x001A;
/// MESSAGE-INTEGRITY-SHA256.
pub const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
/// XOR-MAPPED-ADDRESS.
pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// RESERVATION-TOKEN.
pub const RESERVATION_TOKEN: u16 = 0x0022;
/// PRIORITY and the rest of ICE (RFC 8445 §7.1): agents test their candidates through TURN ports too.
pub const ICE_PRIORITY: u16 = 0x0024;
/// USE-CANDIDATE (RFC 8445 §7.1.2).
pub const ICE_USE_CANDIDATE: u16 = 0x0025;
/// ADDITIONAL-ADDRESS-FAMILY (comprehension-optional).
pub const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
/// ADDRESS-ERROR-CODE (comprehension-optional).
pub const ADDRESS_ERROR_CODE: u16 = 0x8001;
/// ICMP (comprehension-optional).
pub const ICMP: u16 = 0x8004;
/// SOFTWARE (comprehension-optional).
pub const SOFTWARE: u16 = 0x8022;
/// FINGERPRINT (comprehension-optional).
pub const FINGERPRINT: u16 = 0x8028;

/// Attributes below this must be understood or the request is refused with 420 (RFC 8489 §14).
pub const COMPREHENSION_OPTIONAL: u16 = 0x8000;

/// Address family numbers of REQUESTED-ADDRESS-FAMILY and mapped addresses (RFC 8489 §14.1).
pub const FAMILY_IPV4: u8 = 0x01;
/// See [`FAMILY_IPV4`].
pub const FAMILY_IPV6: u8 = 0x02;

/// REQUESTED-TRANSPORT's protocol number for UDP (RFC 8656 §18.7).
pub const PROTOCOL_UDP: u8 = 17;
