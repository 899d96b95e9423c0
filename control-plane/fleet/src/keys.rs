//! The keys that seal tokens: each is known everywhere before it seals, and opens until its last token has ended.

/// A key's times, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Named in each token.
    pub id: u8,
    /// When it was made.
    pub created_unix_s: u64,
    /// Seals from then on; 0 once it may.
    pub seals_from_unix_s: u64,
    /// Goes then; 0 for a key that is not being replaced.
    pub retires_unix_s: u64,
}

/// What is to be done with the keys now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Every server has had them for long enough.
    pub begin_sealing: Vec<u8>,
    /// Their last token has ended.
    pub forget: Vec<u8>,
}

/// What time has made of the keys. The one that seals is never forgotten.
#[must_use]
pub fn steps(keys: &[Key], now_unix_s: u64) -> Steps {
    let is_due = |at: u64| at != 0 && at <= now_unix_s;
    let begin_sealing = keys.iter().filter(|key| is_due(key.seals_from_unix_s)).map(|key| key.id).collect();
    let seals = |key: &&Key| key.seals_from_unix_s == 0 || is_due(key.seals_from_unix_s);
    let sealing = keys.iter().filter(seals).max_by_key(|key| (key.created_unix_s, key.id)).map(|key| key.id);
    let is_over = |key: &&Key| is_due(key.retires_unix_s) && Some(key.id) != sealing;
    let forget = keys.iter().filter(is_over).map(|key| key.id).collect();
    Steps { begin_sealing, forget }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_seals_when_it_is_known_and_goes_when_its_tokens_have_ended() {
        let old = Key { id: 1, created_unix_s: 10, seals_from_unix_s: 0, retires_unix_s: 1_000 };
        let new = Key { id: 2, created_unix_s: 100, seals_from_unix_s: 160, retires_unix_s: 0 };
        assert_eq!(steps(&[old, new], 159), Steps::default());
        assert_eq!(steps(&[old, new], 160), Steps { begin_sealing: vec![2], forget: vec![] });
        let sealing = Key { seals_from_unix_s: 0, ..new };
        assert_eq!(steps(&[old, sealing], 999), Steps::default());
        assert_eq!(steps(&[old, sealing], 1_000), Steps { begin_sealing: vec![], forget: vec![1] });
        assert_eq!(steps(&[old], 5_000), Steps::default(), "the only key stays, whatever its record says");
    }
}
