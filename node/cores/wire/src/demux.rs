//! First-byte demultiplexing of what clients send (RFC 7983 §7, RFC 8656 §12.4).

/// What a client's message is, told from its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A STUN message: 0..=3.
    Stun,
    /// ChannelData of channels 0x4000..=0x7FFF: 64..=127. RFC 7983 gives TURN 64..=79; older clients use the
    /// whole range of RFC 5766, and nothing else in it reaches a TURN port.
    ChannelData,
    /// DTLS: 20..=63.
    Dtls,
    /// RTP or RTCP: 128..=191.
    Rtp,
    /// Anything else, the empty datagram included.
    Unknown,
}

impl Kind {
    /// Classifies a message by its first byte.
    #[must_use]
    pub fn of(message: &[u8]) -> Self {
        match message.first() {
            Some(0..=3) => Self::Stun,
            Some(20..=63) => Self::Dtls,
            Some(64..=127) => Self::ChannelData,
            Some(128..=191) => Self::Rtp,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Kind;

    #[test]
    fn first_bytes_follow_rfc_7983() {
        let expect = |range: std::ops::RangeInclusive<u8>, kind| {
            for byte in range {
                assert_eq!(Kind::of(&[byte]), kind, "first byte {byte}");
            }
        };
        expect(0..=3, Kind::Stun);
        expect(4..=19, Kind::Unknown);
        expect(20..=63, Kind::Dtls);
        expect(64..=127, Kind::ChannelData);
        expect(128..=191, Kind::Rtp);
        expect(192..=255, Kind::Unknown);
        assert_eq!(Kind::of(&[]), Kind::Unknown);
    }
}
