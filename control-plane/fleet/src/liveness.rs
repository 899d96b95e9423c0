//! Who counts as dead.

use std::collections::BTreeSet;

/// The servers of a site that are taken for dead. When more than half of a site (and more than one server) falls
/// silent at once, the cause is shared, and moving everything to the rest would make it worse: then nobody is.
#[must_use]
pub fn dead(joined: &BTreeSet<u16>, silent: &BTreeSet<u16>) -> BTreeSet<u16> {
    let dead: BTreeSet<u16> = joined.intersection(silent).copied().collect();
    let is_shared = dead.len() > 1 && dead.len().saturating_mul(2) > joined.len();
    if is_shared { BTreeSet::new() } else { dead }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_silent_server_is_dead_and_most_of_a_site_is_not() {
        let set = |servers: &[u16]| servers.iter().copied().collect::<BTreeSet<u16>>();
        assert_eq!(dead(&set(&[1, 2]), &set(&[2])), set(&[2]));
        assert_eq!(
            dead(&set(&[1]), &set(&[1])),
            set(&[1]),
            "a site of one: there is nobody to move to anyway"
        );
        assert_eq!(dead(&set(&[1, 2, 3, 4]), &set(&[1, 2])), set(&[1, 2]), "a half");
        assert_eq!(dead(&set(&[1, 2, 3, 4]), &set(&[1, 2, 3])), set(&[]), "more than a half");
        assert_eq!(dead(&set(&[1, 2]), &set(&[1, 2, 9])), set(&[]));
    }
}
