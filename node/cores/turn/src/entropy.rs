//! Unpredictable numbers from a seed: SipHash-2-4 of a counter under a secret key, a pseudo-random function in
//! counter mode. The shell brings the seed, so cores stay deterministic.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// A stream of unpredictable 64-bit numbers.
#[derive(Clone)]
pub struct Entropy {
    seed: [u8; 16],
    counter: u64,
}

impl Entropy {
    /// The stream of this seed.
    #[must_use]
    pub const fn new(seed: [u8; 16]) -> Self {
        Self { seed, counter: 0 }
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        let mut hasher = SipHasher24::new_with_key(&self.seed);
        hasher.write_u64(self.counter);
        hasher.finish()
    }

    /// Twelve bytes for a transaction ID.
    pub fn transaction(&mut self) -> trunkline_wire::stun::TransactionId {
        let [a, b, c, d, e, f, g, h] = self.next_u64().to_be_bytes();
        let [i, j, k, l, ..] = self.next_u64().to_be_bytes();
        trunkline_wire::stun::TransactionId([a, b, c, d, e, f, g, h, i, j, k, l])
    }
}
