//! Target: ChannelData headers (RFC 8656 §12.4).
//!
//! Any bytes parse or are refused without a panic; what parses lies inside the message and writes back to the same
//! bytes; first-byte demultiplexing agrees.

use trunkline_wire::Kind;
use trunkline_wire::channel_data::{ChannelData, ChannelNumber, HEADER_BYTES};

/// One datagram.
pub fn run(message: &[u8]) {
    let claimed = (message.len() >= HEADER_BYTES).then(|| {
        (
            u16::from_be_bytes([message[0], message[1]]),
            usize::from(u16::from_be_bytes([message[2], message[3]])),
        )
    });
    let acceptable = claimed.is_some_and(|(channel, length)| {
        (0x4000..0x8000).contains(&channel) && HEADER_BYTES + length <= message.len()
    });
    let Some(parsed) = ChannelData::parse(message) else {
        return assert!(!acceptable, "refused: {message:02x?}");
    };
    assert!(acceptable, "accepted: {message:02x?}");
    assert_eq!(Kind::of(message), Kind::ChannelData);
    let data = &message[parsed.data.clone()];
    let written =
        [&ChannelData::header(parsed.channel, u16::try_from(data.len()).expect("a 16-bit length"))[..], data]
            .concat();
    assert_eq!(written, message[..written.len()]);
    assert_eq!(ChannelNumber::new(parsed.channel.number()), Some(parsed.channel));
}
