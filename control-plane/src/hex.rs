//! Bytes as hexadecimal digits.

use std::fmt::Write;

/// Two lower-case digits for each byte.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The inverse of [`encode`]; capital letters too. `None` for anything else.
#[must_use]
pub fn decode(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back() {
        assert_eq!(encode(&[0x00, 0x7f, 0xff]), "007fff");
        assert_eq!(decode("007FfF"), Some(vec![0x00, 0x7f, 0xff]));
        assert_eq!(decode(""), Some(vec![]));
    }

    #[test]
    fn what_is_no_byte_is_refused() {
        for digits in ["0", "0g", "+1", " 1", "0x", "é"] {
            assert_eq!(decode(digits), None, "{digits:?}");
        }
    }
}
