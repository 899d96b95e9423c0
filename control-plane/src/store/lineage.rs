//! What tells a store from itself put back to an older state, although it holds nothing but what it held then.

/// What a store says of itself beside its records. Each is read after all that was written before it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// The cluster's id. One that is restored under the same names and addresses has the same.
    pub cluster: u64,
    /// Entries of the cluster's log beyond the store's revision. Each revision takes an entry of its own, so this never
    /// falls; a restore keeps the revision and begins a new log.
    pub surplus: i64,
}

impl Lineage {
    /// Whether a store that said `earlier` can have become this one by being written to.
    #[must_use]
    pub const fn follows(&self, earlier: &Self) -> bool {
        self.cluster == earlier.cluster && self.surplus.saturating_add(TOLERANCE) >= earlier.surplus
    }
}

/// Writes that may come between the two numbers that the surplus is made of, in every one of a few readings.
const TOLERANCE: i64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_follows_itself_and_not_what_it_was_put_back_from() {
        let before = Lineage { cluster: 7, surplus: 3 };
        assert!(
            Lineage { cluster: 7, surplus: 40 }.follows(&before),
            "leases and elections take entries as well"
        );
        assert!(!Lineage { cluster: 7, surplus: 4 - 500 }.follows(&before), "restored at revision 500");
        assert!(!Lineage { cluster: 8, surplus: 3 }.follows(&before), "restored under another name");
        let restored = Lineage { cluster: 7, surplus: 4 - 500 };
        assert!(
            !Lineage { cluster: 7, surplus: 4 - 900 }.follows(&restored),
            "and once more, at revision 900"
        );
    }
}
