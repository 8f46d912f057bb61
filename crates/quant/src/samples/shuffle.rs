//! The one source of chance in quantizing: documented generators, so that a seed means the same for ever.

/// SplitMix64 (Steele, Lea and Flood, 2014): adds the golden ratio to a counter and mixes the bits.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator that starts from this seed.
    pub fn new(seed: u64) -> SplitMix64 {
        SplitMix64(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`: the high half of the product of 64 bits and the bound (its bias is below `bound / 2^64`).
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }
}

/// The order in which `datasets.Dataset.shuffle(seed)` puts `n` records: numpy's
/// `default_rng(seed).permutation(n)`, so that the same data and seed choose the same samples as elsewhere.
pub fn permutation(n: usize, seed: u64) -> Vec<usize> {
    let mut random = Pcg64::new(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        order.swap(last, random.at_most(last as u64) as usize);
    }
    order
}

/// PCG XSL-RR 128/64 (O'Neill, 2014), seeded as numpy seeds it.
struct Pcg64 {
    state: u128,
    increment: u128,
    /// The upper half of a number whose lower half was taken.
    half: Option<u32>,
}

impl Pcg64 {
    fn new(seed: u64) -> Pcg64 {
        let [a, b, c, d] = seed_sequence(seed);
        let wide = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
        let mut random = Pcg64 { state: 0, increment: wide(c, d) << 1 | 1, half: None };
        random.step();
        random.state = random.state.wrapping_add(wide(a, b));
        random.step();
        random
    }

    fn step(&mut self) {
        const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }

    fn next_u64(&mut self) -> u64 {
        self.step();
        ((self.state >> 64) as u64 ^ self.state as u64).rotate_right((self.state >> 122) as u32)
    }

    fn next_u32(&mut self) -> u32 {
        match self.half.take() {
            Some(half) => half,
            None => {
                let both = self.next_u64();
                self.half = Some((both >> 32) as u32);
                both as u32
            }
        }
    }

    /// A number from 0 to `most`, itself included: as many bits as it has are drawn until they are no larger.
    fn at_most(&mut self, most: u64) -> u64 {
        let mask = u64::MAX.checked_shr(most.leading_zeros()).unwrap_or(0);
        loop {
            let bits = if most <= u64::from(u32::MAX) { u64::from(self.next_u32()) } else { self.next_u64() };
            if bits & mask <= most {
                return bits & mask;
            }
        }
    }
}

/// numpy's `SeedSequence(seed).generate_state(4, uint64)`.
fn seed_sequence(seed: u64) -> [u64; 4] {
    const SHIFT: u32 = 16;
    let mut constant = 0x43b0_d7e5u32;
    let mut hash = |value: u32| {
        let value = value ^ constant;
        constant = constant.wrapping_mul(0x931e_8875);
        let value = value.wrapping_mul(constant);
        value ^ value >> SHIFT
    };
    let mix = |x: u32, y: u32| {
        let mixed = x.wrapping_mul(0xca01_f9dd).wrapping_sub(y.wrapping_mul(0x4973_f715));
        mixed ^ mixed >> SHIFT
    };
    let mut pool = [seed as u32, (seed >> 32) as u32, 0, 0].map(&mut hash);
    for from in 0..4 {
        for to in (0..4).filter(|&to| to != from) {
            pool[to] = mix(pool[to], hash(pool[from]));
        }
    }
    let mut constant = 0x8b51_f9ddu32;
    let words: Vec<u32> = (0..8)
        .map(|i| {
            let value = pool[i % 4] ^ constant;
            constant = constant.wrapping_mul(0x58f3_8ded);
            let value = value.wrapping_mul(constant);
            value ^ value >> SHIFT
        })
        .collect();
    [0, 2, 4, 6].map(|i| u64::from(words[i]) | u64::from(words[i + 1]) << 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_sequence() {
        let mut random = SplitMix64::new(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([random.next_u64(), random.next_u64(), random.next_u64()], expected);
    }

    /// From numpy 2.4.6: `np.random.default_rng(seed).permutation(n)`.
    #[test]
    fn permutations_are_numpys() {
        assert_eq!(permutation(10, 42), [5, 6, 0, 7, 3, 2, 4, 9, 1, 8]);
        assert_eq!(permutation(6, 7), [5, 2, 0, 4, 1, 3]);
        assert_eq!(permutation(1000, 42)[..8], [978, 933, 859, 916, 127, 608, 856, 260]);
        assert_eq!(permutation(5, (1 << 40) + 3), [0, 2, 1, 3, 4]);
        assert_eq!((permutation(0, 1), permutation(1, 1)), (vec![], vec![0]));
    }
}
