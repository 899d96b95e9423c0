//! Our keys among those of others in the same etcd.

use etcd_client::KeyValue;

use super::super::{Entry, Event, Revision};

/// The prefix that keys have in etcd.
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// As etcd knows it.
    pub(super) fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// From the first key with this prefix up to the first key after them; `\0` is etcd's "no end".
    pub(super) fn range(&self, prefix: &str) -> (Vec<u8>, Vec<u8>) {
        let mut start = self.full(prefix).into_bytes();
        if start.is_empty() {
            start.push(0);
            return (start, vec![0]);
        }
        (start.clone(), after_prefix(start))
    }

    /// As callers know it; nothing for what is not theirs.
    pub(super) fn entry(&self, found: &KeyValue) -> Option<Entry> {
        let key = self.own(found)?;
        Some(Entry { key, value: found.value().to_owned(), revision: revision(found.mod_revision()) })
    }

    pub(super) fn event(&self, event: &etcd_client::Event) -> Option<Event> {
        let found = event.kv()?;
        match event.event_type() {
            etcd_client::EventType::Put => self.entry(found).map(Event::Put),
            etcd_client::EventType::Delete => {
                Some(Event::Deleted { key: self.own(found)?, revision: revision(found.mod_revision()) })
            }
        }
    }

    fn own(&self, found: &KeyValue) -> Option<String> {
        let key = std::str::from_utf8(found.key()).ok()?.strip_prefix(&self.prefix)?;
        (!key.starts_with(MARKS)).then(|| key.to_owned())
    }
}

/// The smallest key that is greater than every key with this prefix.
fn after_prefix(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last.saturating_add(1));
            return prefix;
        }
    }
    vec![0]
}

/// etcd's revisions are never negative.
pub(super) fn revision(etcd: i64) -> Revision {
    Revision(etcd.unsigned_abs())
}

/// As etcd has it.
pub(super) fn etcd_revision(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// Where [`super::marks`] keeps its own keys; callers never see them.
pub(super) const MARKS: &str = "~commit/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_key_that_does_not_start_with_it() {
        let range = Keys::new("trunkline/").range("node/");
        assert_eq!(range, (b"trunkline/node/".to_vec(), b"trunkline/node0".to_vec()));
        assert_eq!(Keys::new("").range(""), (vec![0], vec![0]));
        assert_eq!(after_prefix(vec![1, 255, 255]), [2]);
        assert_eq!(after_prefix(vec![255]), [0]);
    }
}
