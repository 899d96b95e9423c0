//! The STUN header and the attribute list's frame (RFC 8489 §5, §14).

use super::{HEADER_BYTES, MAGIC_COOKIE};

/// The 96-bit transaction ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct TransactionId(pub [u8; 12]);

/// The message class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Answered by a response.
    Request,
    /// Never answered.
    Indication,
    /// A success response.
    Success,
    /// An error response.
    Error,
}

/// The methods this library names (RFC 8489 §18.2, RFC 8656 §17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Binding
    Binding,
    /// Allocate
    Allocate,
    /// Refresh
    Refresh,
    /// Send (indication)
    Send,
    /// Data (indication)
    Data,
    /// CreatePermission
    CreatePermission,
    /// ChannelBind
    ChannelBind,
}

/// The method table: number on the wire, method.
const METHODS: [(u16, Method); 7] = [
    (0x001, Method::Binding),
    (0x003, Method::Allocate),
    (0x004, Method::Refresh),
    (0x006, Method::Send),
    (0x007, Method::Data),
    (0x008, Method::CreatePermission),
    (0x009, Method::ChannelBind),
];

impl Method {
    /// The method with this number, if it is known.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        METHODS.iter().find(|(n, _)| *n == number).map(|(_, method)| *method)
    }

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u16 {
        METHODS.iter().find(|(_, method)| *method == self).map_or(0, |(n, _)| *n)
    }
}

/// The type field of a class and a method's number: the class bits are interleaved (RFC 8489 §5).
pub(super) const fn type_field(class: Class, method: u16) -> u16 {
    let class_bits = match class {
        Class::Request => 0x0000,
        Class::Indication => 0x0010,
        Class::Success => 0x0100,
        Class::Error => 0x0110,
    };
    (method & 0x000F) | ((method & 0x0070) << 1) | ((method & 0x0F80) << 2) | class_bits
}

const fn split_type_field(field: u16) -> (Class, u16) {
    let class = match field & 0x0110 {
        0x0000 => Class::Request,
        0x0010 => Class::Indication,
        0x0100 => Class::Success,
        _ => Class::Error,
    };
    (class, (field & 0x000F) | ((field & 0x00E0) >> 1) | ((field & 0x3E00) >> 2))
}

/// Why bytes are not a STUN message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Fewer than 20 bytes.
    ShortHeader,
    /// The two first bits are set, or bytes 4..8 are not the magic cookie (RFC 3489 clients have none).
    NotStun,
    /// The length field is not a multiple of four or differs from the bytes that there are.
    WrongLength,
    /// An attribute reaches beyond the message.
    AttributeOverrun,
}

/// A STUN message whose header and attribute frame are right. Borrows the bytes it was found in.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    class: Class,
    method: u16,
    transaction: TransactionId,
}

impl<'a> Message<'a> {
    /// Checks the header and that every attribute lies inside the message.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong; such bytes are dropped, not answered (RFC 8489 §6.3).
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Malformed::ShortHeader)?;
        let [t0, t1, l0, l1, c0, c1, c2, c3, transaction @ ..] = *header;
        if t0 & 0xC0 != 0 || u32::from_be_bytes([c0, c1, c2, c3]) != MAGIC_COOKIE {
            return Err(Malformed::NotStun);
        }
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if !length.is_multiple_of(4) || length != body.len() {
            return Err(Malformed::WrongLength);
        }
        let (class, method) = split_type_field(u16::from_be_bytes([t0, t1]));
        let message = Self { bytes, class, method, transaction: TransactionId(transaction) };
        let mut attributes = message.raw_attributes();
        while attributes.next().is_some() {}
        if attributes.rest.is_empty() { Ok(message) } else { Err(Malformed::AttributeOverrun) }
    }

    /// The class.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.class
    }

    /// The method, if it is known.
    #[must_use]
    pub fn method(&self) -> Option<Method> {
        Method::from_number(self.method)
    }

    /// The method's number, known or not.
    #[must_use]
    pub const fn method_number(&self) -> u16 {
        self.method
    }

    /// The transaction ID.
    #[must_use]
    pub const fn transaction(&self) -> TransactionId {
        self.transaction
    }

    /// The whole message.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn raw_attributes(&self) -> RawAttributes<'a> {
        RawAttributes { rest: self.bytes.get(HEADER_BYTES..).unwrap_or_default(), offset: HEADER_BYTES }
    }
}

/// An attribute before its value is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawAttribute<'a> {
    /// Its type.
    pub kind: u16,
    /// Its value without padding.
    pub value: &'a [u8],
    /// Where its type field stands in the message.
    pub offset: usize,
}

/// Walks the attribute list. Ends early, with a rest, where an attribute overruns the message.
pub(super) struct RawAttributes<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for RawAttributes<'a> {
    type Item = RawAttribute<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&[k0, k1, l0, l1], rest) = self.rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let value = rest.get(..length)?;
        // A message's length is a multiple of four, so only a lying attribute lacks its padding.
        let after = rest.get(length.next_multiple_of(4)..)?;
        let attribute = RawAttribute { kind: u16::from_be_bytes([k0, k1]), value, offset: self.offset };
        self.offset = self.offset.saturating_add(self.rest.len().saturating_sub(after.len()));
        self.rest = after;
        Some(attribute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn type_fields_follow_the_rfc() {
        assert_eq!(type_field(Class::Request, 0x001), 0x0001);
        assert_eq!(type_field(Class::Success, 0x001), 0x0101);
        assert_eq!(type_field(Class::Error, 0x003), 0x0113);
        assert_eq!(type_field(Class::Indication, 0x006), 0x0016);
        for method in 0..0x1000 {
            for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
                assert_eq!(split_type_field(type_field(class, method)), (class, method));
            }
        }
    }

    fn message(length: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 1];
        bytes.extend(length.to_be_bytes());
        bytes.extend(MAGIC_COOKIE.to_be_bytes());
        bytes.extend([7; 12]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn frames_that_lie_are_refused() {
        assert_eq!(Message::parse(&message(0, &[])[..19]).unwrap_err(), Malformed::ShortHeader);
        assert_eq!(Message::parse(&message(4, &[])).unwrap_err(), Malformed::WrongLength);
        assert_eq!(Message::parse(&message(0, &[0, 0, 0, 0])).unwrap_err(), Malformed::WrongLength);
        assert_eq!(Message::parse(&message(3, &[0, 0, 0])).unwrap_err(), Malformed::WrongLength);
        assert_eq!(Message::parse(&message(4, &[0, 6, 0, 1])).unwrap_err(), Malformed::AttributeOverrun);
        assert_eq!(
            Message::parse(&message(8, &[0, 6, 0xFF, 0xFF, 0, 0, 0, 0])).unwrap_err(),
            Malformed::AttributeOverrun
        );
        let mut old = message(0, &[]);
        old[4] = 0;
        assert_eq!(Message::parse(&old).unwrap_err(), Malformed::NotStun);
    }

    #[test]
    fn attributes_are_padded_to_four() {
        let bytes = message(16, &[0, 6, 0, 1, b'x', 0, 0, 0, 0, 0x14, 0, 2, b'a', b'b', 0, 0]);
        let parsed = Message::parse(&bytes).unwrap();
        let found: Vec<_> = parsed.raw_attributes().map(|a| (a.kind, a.value.to_vec(), a.offset)).collect();
        assert_eq!(found, vec![(6, b"x".to_vec(), 20), (0x14, b"ab".to_vec(), 28)]);
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Message::parse(&bytes);
        }
    }
}
