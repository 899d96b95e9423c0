//! STUN messages (RFC 8489) with TURN's methods and attributes (RFC 8656).
//!
//! [`Message::parse`] checks the frame, [`Attributes::parse`] turns the attributes into typed views, once;
//! [`Builder`] writes messages. Adding an attribute means a line in [`attribute`] and a field in [`Attributes`].

mod address;
pub mod attribute;
mod attributes;
mod builder;
mod error_code;
mod integrity;
mod message;

pub use attributes::{Attributes, AttributesError, EvenPort, Peers};
pub use builder::{Builder, DataIndicationHead};
pub use error_code::ErrorCode;
pub use integrity::{HMAC_BYTES, Key};
pub use message::{Class, Malformed, Message, Method, TransactionId};

/// Fixed value in bytes 4..8 of every STUN message (RFC 8489 §5).
pub const MAGIC_COOKIE: u32 = 0x2112_A442;

/// Bytes of the STUN header (RFC 8489 §5).
pub const HEADER_BYTES: usize = 20;

#[cfg(test)]
mod rfc5769;
