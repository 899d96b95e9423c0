//! Where one message ends in a byte stream (RFC 8489 §6.2.2, RFC 8656 §12.5).

/// What the front of a stream's bytes holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// More bytes are needed; at least this many in total.
    Incomplete {
        /// Total bytes the buffer must reach before it is worth looking again.
        needed: usize,
    },
    /// A whole message.
    Complete {
        /// Bytes of the message itself.
        message: usize,
        /// Bytes to consume: the message and, for ChannelData, its padding to a multiple of four.
        consumed: usize,
    },
    /// Neither STUN nor ChannelData: the stream cannot be understood any further.
    Invalid,
}

/// Largest frame there can be: a STUN message whose length field is 65,532 (ChannelData ends at 65,540).
pub const FRAME_BYTES_MAX: usize = 20 + 65_532;

const STUN_HEADER_BYTES: usize = 20;

/// Looks at the front of a stream. Never needs more than [`FRAME_BYTES_MAX`] bytes.
#[must_use]
pub fn next_frame(stream: &[u8]) -> Frame {
    let Some(&[first, _, c, d]) = stream.first_chunk::<4>() else {
        return match stream.first() {
            Some(0..=3 | 0x40..=0x7F) | None => Frame::Incomplete { needed: 4 },
            Some(_) => Frame::Invalid,
        };
    };
    let length = usize::from(u16::from_be_bytes([c, d]));
    let (message, consumed) = match first {
        0..=3 if length.is_multiple_of(4) => {
            let total = STUN_HEADER_BYTES.saturating_add(length);
            (total, total)
        }
        0x40..=0x7F => {
            let total = length.saturating_add(4);
            (total, total.next_multiple_of(4))
        }
        _ => return Frame::Invalid,
    };
    if stream.len() < consumed {
        Frame::Incomplete { needed: consumed }
    } else {
        Frame::Complete { message, consumed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_data_over_a_stream_is_padded_to_four() {
        let five = [0x40, 0, 0, 5, 1, 2, 3, 4, 5];
        assert_eq!(next_frame(&five), Frame::Incomplete { needed: 12 });
        let mut padded = five.to_vec();
        padded.extend([0, 0, 0]);
        assert_eq!(next_frame(&padded), Frame::Complete { message: 9, consumed: 12 });
    }

    #[test]
    fn stun_length_is_a_multiple_of_four_or_the_stream_is_invalid() {
        assert_eq!(next_frame(&[0, 1, 0, 3]), Frame::Invalid);
        assert_eq!(next_frame(&[0, 1, 0, 8]), Frame::Incomplete { needed: 28 });
        assert_eq!(next_frame(b"\x80RTP"), Frame::Invalid);
        assert_eq!(next_frame(b"\x16"), Frame::Invalid);
    }

    #[test]
    fn no_frame_is_larger_than_the_bound() {
        for first in [0_u8, 3, 0x40, 0x7F] {
            for length in 0..=u16::MAX {
                let [c, d] = length.to_be_bytes();
                match next_frame(&[first, 0, c, d]) {
                    Frame::Incomplete { needed } => assert!(needed <= FRAME_BYTES_MAX),
                    Frame::Complete { consumed, .. } => assert_eq!(consumed, 4),
                    Frame::Invalid => {}
                }
            }
        }
    }
}
