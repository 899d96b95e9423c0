//! Seeded mutations of inputs: the same seed gives the same inputs, so a failure is replayed from its seed.

/// A stream of inputs made from a corpus.
#[derive(Debug)]
pub struct Mutations<'a> {
    corpus: &'a [Vec<u8>],
    state: u64,
}

/// Longest input made here.
const INPUT_BYTES_MAX: usize = 2_048;

impl<'a> Mutations<'a> {
    /// Mutations of `corpus`, which may be empty.
    #[must_use]
    pub const fn new(corpus: &'a [Vec<u8>], seed: u64) -> Self {
        Self { corpus, state: seed }
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random() >> 33).unwrap_or(0) % bound.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.random().to_be_bytes()[0]
    }

    fn pick(&mut self) -> Vec<u8> {
        let chosen = self.below(self.corpus.len());
        self.corpus.get(chosen).cloned().unwrap_or_default()
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let place = self.below(input.len());
        match self.below(6) {
            0 if !input.is_empty() => input[place] ^= 1 << self.below(8),
            1 if !input.is_empty() => input[place] = self.byte(),
            2 if !input.is_empty() => {
                let end = place + self.below(input.len() - place).min(16);
                input.drain(place..=end.min(input.len() - 1));
            }
            3 => {
                let other = self.pick();
                let from = self.below(other.len());
                input.truncate(place);
                input.extend_from_slice(&other[from..]);
            }
            4 if !input.is_empty() => {
                let end = (place + 1 + self.below(16)).min(input.len());
                let copied = input[place..end].to_vec();
                input.splice(place..place, copied);
            }
            _ => {
                let inserted: Vec<u8> = (0..=self.below(8)).map(|_| self.byte()).collect();
                input.splice(place..place, inserted);
            }
        }
    }
}

impl Iterator for Mutations<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut input = self.pick();
        for _ in 0..=self.below(4) {
            self.mutate(&mut input);
        }
        input.truncate(INPUT_BYTES_MAX);
        Some(input)
    }
}

#[cfg(test)]
mod tests {
    use super::Mutations;

    #[test]
    fn a_seed_is_a_sequence() {
        let corpus = vec![b"hello".to_vec(), vec![]];
        let of = |seed| Mutations::new(&corpus, seed).take(50).collect::<Vec<_>>();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert!(Mutations::new(&[], 1).take(50).any(|input| input.len() > 3));
    }
}
