//! Who counts as dead.
//!
//! When more than half of a site (and more than one server) falls silent together, the cause is likely shared, such as
//! their way to the control plane, and they serve on: moving everything to the rest would make it worse.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Without a new report for so long a server is silent: five reports did not come.
pub const SILENT_AFTER: Duration = Duration::from_secs(10);
/// Servers that fall silent within so long of each other do so together: reports come every two seconds, and a slow
/// one is not yet a lost one.
const TOGETHER: Duration = Duration::from_secs(6);

/// What silence means for the servers of a site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    /// Their rows go to others.
    pub dead: BTreeSet<u16>,
    /// They fell silent with most of the site: nothing moves.
    pub spared: BTreeSet<u16>,
}

/// What the silence of the joined servers of a site means: for each, how long ago it was last heard of, by a monotonic
/// clock. As long as nobody speaks again the answer about those who are silent stays the same, so nothing has to be
/// remembered.
#[must_use]
pub fn judge(silent_for: &BTreeMap<u16, Duration>) -> Silence {
    let mut quiet: Vec<(Duration, u16)> =
        silent_for.iter().filter(|(_, silence)| **silence >= TOGETHER).map(|(n, s)| (*s, *n)).collect();
    // The longest silent first.
    quiet.sort_unstable_by_key(|(silence, number)| (std::cmp::Reverse(*silence), *number));
    let mut alive = silent_for.len();
    let mut verdict = Silence::default();
    for together in quiet.chunk_by(|(a, _), (b, _)| a.saturating_sub(*b) < TOGETHER) {
        let is_shared = together.len() > 1 && together.len().saturating_mul(2) > alive;
        let silent =
            together.iter().filter(|(silence, _)| *silence >= SILENT_AFTER).map(|(_, number)| *number);
        if is_shared {
            verdict.spared.extend(silent);
        } else {
            verdict.dead.extend(silent);
        }
        alive = alive.saturating_sub(together.len());
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(silences_s: &[u64]) -> Silence {
        let numbered = (1_u16..).zip(silences_s);
        judge(&numbered.map(|(number, silence)| (number, Duration::from_secs(*silence))).collect())
    }

    fn silence(dead: &[u16], spared: &[u16]) -> Silence {
        Silence { dead: dead.iter().copied().collect(), spared: spared.iter().copied().collect() }
    }

    #[test]
    fn one_silent_server_is_dead_and_most_of_a_site_is_not() {
        assert_eq!(site(&[0, 9]), silence(&[], &[]), "not yet silent");
        assert_eq!(site(&[0, 10]), silence(&[2], &[]));
        assert_eq!(site(&[10]), silence(&[1], &[]), "a site of one: there is nobody to move to anyway");
        assert_eq!(site(&[10, 11, 0, 1]), silence(&[1, 2], &[]), "a half");
        assert_eq!(site(&[10, 11, 12, 1]), silence(&[], &[1, 2, 3]), "more than a half");
    }

    #[test]
    fn servers_that_fall_together_are_noticed_together_although_not_at_once() {
        assert_eq!(site(&[10, 8, 0]), silence(&[], &[1]), "the second has missed reports too");
        assert_eq!(site(&[12, 10, 0]), silence(&[], &[1, 2]));
    }

    #[test]
    fn one_that_died_long_ago_stays_dead_when_another_follows() {
        assert_eq!(site(&[90_000, 10, 0]), silence(&[1, 2], &[]), "one after the other");
        assert_eq!(site(&[90_000, 10, 12, 0, 0]), silence(&[1, 2, 3], &[]));
        assert_eq!(site(&[90_000, 10, 12, 0]), silence(&[1], &[2, 3]), "two of the three that lived");
    }
}
