//! What an allocation is called outside the process: `shard-index-generation`, unique on its server while it lives.

use trunkline_wire::AllocationId;

/// The name.
#[must_use]
pub fn text(shard: u8, id: AllocationId) -> String {
    format!("{shard}-{}-{}", id.index, id.generation)
}

/// The inverse of [`text`].
#[must_use]
pub fn parse(text: &str) -> Option<(u8, AllocationId)> {
    let mut parts = text.splitn(3, '-');
    let shard = parts.next()?.parse().ok()?;
    let (index, generation) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((shard, AllocationId { index, generation }))
}
