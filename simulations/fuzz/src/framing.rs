//! Target: messages in a byte stream (RFC 8489 §6.2.2, RFC 8656 §12.5).
//!
//! A stream gives the same messages however it is cut into pieces, and a buffer of [`FRAME_BYTES_MAX`] bytes always
//! suffices.

use trunkline_wire::Kind;
use trunkline_wire::framing::{FRAME_BYTES_MAX, Frame, next_frame};

use crate::bytes::Bytes;

/// Sizes of the pieces first, one byte each up to a zero, then the stream.
pub fn run(input: &[u8]) {
    let mut input = Bytes::new(input);
    let mut sizes = vec![];
    loop {
        match input.byte() {
            0 => break,
            size => sizes.push(usize::from(size)),
        }
    }
    let stream = input.rest();
    let whole = frames_of(std::iter::once(stream));
    assert_eq!(whole, frames_of(pieces(stream, &sizes)), "cut into {sizes:?}");
    assert_eq!(whole, frames_of(stream.chunks(1)), "cut into single bytes");
}

/// `stream` in pieces of these sizes, over and over.
fn pieces<'a>(stream: &'a [u8], sizes: &[usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = stream;
    let sizes = if sizes.is_empty() { vec![1] } else { sizes.to_vec() };
    sizes.into_iter().cycle().map_while(move |size| {
        let (piece, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// How a stream ends once everything was read.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Waiting { buffered: usize },
    Invalid,
}

/// A reader as every stream has one: append what came, take out whole messages.
fn frames_of<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, End) {
    let mut buffer = vec![];
    let mut messages = vec![];
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match next_frame(&buffer) {
                Frame::Incomplete { needed } => {
                    assert!(needed > buffer.len(), "needs {needed} bytes, has {}", buffer.len());
                    assert!(needed <= FRAME_BYTES_MAX);
                    break;
                }
                Frame::Complete { message, consumed } => {
                    assert_eq!((message, consumed), expected(&buffer), "{:02x?}", &buffer[..4]);
                    assert!(consumed <= buffer.len());
                    assert!(matches!(Kind::of(&buffer), Kind::Stun | Kind::ChannelData));
                    messages.push(buffer[..message].to_vec());
                    buffer.drain(..consumed);
                }
                Frame::Invalid => return (messages, End::Invalid),
            }
        }
    }
    (messages, End::Waiting { buffered: buffer.len() })
}

/// What the front of a stream says of itself: a STUN header of 20 bytes and its length, or a ChannelData header of 4
/// bytes, its length, and padding to a multiple of four.
fn expected(stream: &[u8]) -> (usize, usize) {
    let length = usize::from(u16::from_be_bytes([stream[2], stream[3]]));
    if stream[0] < 4 { (20 + length, 20 + length) } else { (4 + length, 4 + length.div_ceil(4) * 4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_whole_stream() {
        let cut: Vec<_> = pieces(b"abcdefgh", &[1, 3]).collect();
        assert_eq!(cut, [&b"a"[..], b"bcd", b"e", b"fgh"]);
        assert_eq!(pieces(b"ab", &[]).count(), 2);
    }
}
