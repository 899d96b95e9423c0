//! The keys that seal tokens: each is known everywhere before it seals, and opens until its last token has ended.

/// A key's times, in Unix seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// Named in each token.
    pub id: u8,
    /// When it was made.
    pub created_unix_s: u64,
    /// Seals from then on; 0 once it may.
    pub seals_from_unix_s: u64,
    /// When it began to seal; 0 where that is not known.
    pub sealing_since_unix_s: u64,
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
    /// They retire later than their records say: sealing moved on late, or tokens live longer than was thought.
    pub keep: Vec<(u8, u64)>,
}

/// What time has made of the keys. The one that seals is never forgotten, and none before the tokens have ended that it
/// sealed until the next one began to: `token_s_max` is the longest life of a token on any server.
#[must_use]
pub fn steps(keys: &[Key], token_s_max: u64, now_unix_s: u64) -> Steps {
    let is_due = |at: u64| at != 0 && at <= now_unix_s;
    let begin_sealing = keys.iter().filter(|key| is_due(key.seals_from_unix_s)).map(|key| key.id).collect();
    let seals = |key: &&Key| key.seals_from_unix_s == 0 || is_due(key.seals_from_unix_s);
    let newest = keys.iter().filter(seals).max_by_key(|key| (key.created_unix_s, key.id));
    let mut steps = Steps { begin_sealing, ..Steps::default() };
    for key in keys.iter().filter(|key| key.retires_unix_s != 0) {
        let is_newer = |other: &&Key| (other.created_unix_s, other.id) > (key.created_unix_s, key.id);
        let successors = keys.iter().filter(seals).filter(is_newer);
        let moved = successors.map(|successor| began(successor, now_unix_s)).min();
        let ended = moved.map_or(0, |moved| moved.saturating_add(token_s_max));
        if ended > key.retires_unix_s {
            steps.keep.push((key.id, ended));
        } else if is_due(key.retires_unix_s) && newest.is_some_and(|newest| newest.id != key.id) {
            steps.forget.push(key.id);
        }
    }
    steps
}

/// When a key began to seal: now, if its time has just come.
fn began(key: &Key, now_unix_s: u64) -> u64 {
    match (key.seals_from_unix_s, key.sealing_since_unix_s) {
        (0, 0) => key.created_unix_s,
        (0, since) => since,
        _ => now_unix_s,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn a_key_seals_when_it_is_known_and_goes_when_its_tokens_have_ended() {
        let old = Key { id: 1, created_unix_s: 10, retires_unix_s: 1_000, ..Key::default() };
        let new = Key { id: 2, created_unix_s: 100, seals_from_unix_s: 160, ..Key::default() };
        assert_eq!(steps(&[old, new], 800, 159), Steps::default());
        assert_eq!(steps(&[old, new], 800, 160), Steps { begin_sealing: vec![2], ..Steps::default() });
        let sealing = Key { seals_from_unix_s: 0, sealing_since_unix_s: 160, ..new };
        assert_eq!(steps(&[old, sealing], 800, 999), Steps::default());
        assert_eq!(steps(&[old, sealing], 800, 1_000), Steps { forget: vec![1], ..Steps::default() });
        assert_eq!(
            steps(&[old], 800, 5_000),
            Steps::default(),
            "the only key stays, whatever its record says"
        );
    }

    #[test]
    fn a_key_is_kept_for_as_long_as_the_longest_nonce() {
        let old = Key { id: 1, created_unix_s: 10, retires_unix_s: 160 + DAY, ..Key::default() };
        let new = Key { id: 2, created_unix_s: 100, sealing_since_unix_s: 160, ..Key::default() };
        let kept = Steps { keep: vec![(1, 160 + 30 * DAY)], ..Steps::default() };
        assert_eq!(steps(&[old, new], 30 * DAY, 160 + DAY), kept);
    }

    proptest! {
        /// A leader looks whenever it happens to be there.
        #[test]
        fn no_key_goes_before_its_last_token(
            pauses in prop::collection::vec(1..3 * DAY, 1..40),
            token_s_max in 30..30 * DAY,
        ) {
            let old = Key { id: 1, created_unix_s: 10, retires_unix_s: 160 + DAY, ..Key::default() };
            let new = Key { id: 2, created_unix_s: 100, seals_from_unix_s: 160, ..Key::default() };
            let (mut keys, mut now, mut last_sealed) = (vec![old, new], 100, None);
            for pause in pauses {
                now += pause;
                let steps = steps(&keys, token_s_max, now);
                for id in steps.begin_sealing {
                    last_sealed = Some(now);
                    let key = keys.iter_mut().find(|key| key.id == id).unwrap();
                    (key.seals_from_unix_s, key.sealing_since_unix_s) = (0, now);
                }
                for (id, until) in steps.keep {
                    keys.iter_mut().find(|key| key.id == id).unwrap().retires_unix_s = until;
                }
                for id in &steps.forget {
                    prop_assert_eq!(*id, 1);
                    prop_assert!(last_sealed.is_some_and(|last| now >= last + token_s_max));
                }
                keys.retain(|key| !steps.forget.contains(&key.id));
            }
            prop_assert!(keys.iter().any(|key| key.id == 2));
        }
    }
}
