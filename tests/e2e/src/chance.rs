//! Chance that a test can repeat.

/// Numbers that look random and come again with the seed.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// From a seed; 0 is as good as another.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// From 0 on, less than `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // xorshift64* (Vigna, 2016).
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }
}
