//! ChannelData messages (RFC 8656 §12.4): a channel number, a length, the bytes.

use std::ops::Range;

/// Bytes before the application data.
pub const HEADER_BYTES: usize = 4;

/// A channel number a server may bind: RFC 8656 clients use 0x4000..=0x4FFF; RFC 5766 clients use up to
/// 0x7FFF, and the largest deployed library still does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// The channel number, if it is one that may be bound.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if matches!(number, 0x4000..=0x7FFF) { Some(Self(number)) } else { None }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// A ChannelData message found in a datagram or a stream frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelData {
    /// The channel it names.
    pub channel: ChannelNumber,
    /// Where the application data lies in the message. Trailing bytes (padding) are outside.
    pub data: Range<usize>,
}

impl ChannelData {
    /// Finds the application data. `None` when the header is short, the number is not a channel, or the length
    /// reaches beyond the message (RFC 8656 §12.6: such a message is dropped).
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let (&[a, b, c, d], rest) = message.split_first_chunk::<HEADER_BYTES>()?;
        let channel = ChannelNumber::new(u16::from_be_bytes([a, b]))?;
        let length = usize::from(u16::from_be_bytes([c, d]));
        (length <= rest.len())
            .then(|| Self { channel, data: HEADER_BYTES..HEADER_BYTES.saturating_add(length) })
    }

    /// The header that precedes `length` bytes of application data.
    #[must_use]
    pub const fn header(channel: ChannelNumber, length: u16) -> [u8; HEADER_BYTES] {
        let [a, b] = channel.0.to_be_bytes();
        let [c, d] = length.to_be_bytes();
        [a, b, c, d]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_turn_ranges_are_channels() {
        for number in 0..=u16::MAX {
            assert_eq!(ChannelNumber::new(number).is_some(), (0x4000..=0x7FFF).contains(&number));
        }
    }

    #[test]
    fn length_beyond_the_datagram_is_refused_and_trailing_bytes_are_tolerated() {
        assert_eq!(ChannelData::parse(&[0x40, 0, 0, 3, 1, 2]), None);
        let parsed = ChannelData::parse(&[0x40, 0, 0, 1, 9, 0, 0, 0]).unwrap();
        assert_eq!(parsed.data, 4..5);
        assert_eq!(ChannelData::parse(&[0x40, 0, 0, 0]).unwrap().data, 4..4);
        assert_eq!(ChannelData::parse(&[0x40, 0, 0]), None);
    }

    proptest! {
        #[test]
        fn header_and_parse_are_inverse(number in 0x4000_u16..=0x7FFF, data in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let channel = ChannelNumber::new(number).unwrap();
            let mut message = ChannelData::header(channel, u16::try_from(data.len()).unwrap()).to_vec();
            message.extend_from_slice(&data);
            let parsed = ChannelData::parse(&message).unwrap();
            prop_assert_eq!(parsed.channel, channel);
            prop_assert_eq!(&message[parsed.data], &data[..]);
        }
    }
}
