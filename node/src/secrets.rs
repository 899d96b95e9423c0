//! Secrets from the operating system's random source.

use std::fmt::Write;

/// The operating system gives no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system's random source failed: {0}")]
pub struct NoEntropy(getrandom::Error);

/// `N` unpredictable bytes.
///
/// # Errors
/// [`NoEntropy`].
pub fn bytes<const N: usize>() -> Result<[u8; N], NoEntropy> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(NoEntropy)?;
    Ok(bytes)
}

/// `N` unpredictable bytes as `2 N` lower-case hexadecimal digits.
///
/// # Errors
/// [`NoEntropy`].
pub fn hex<const N: usize>() -> Result<String, NoEntropy> {
    let mut text = String::with_capacity(2 * N);
    for byte in bytes::<N>()? {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}
