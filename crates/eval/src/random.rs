//! Python's random numbers: the Mersenne Twister (Matsumoto and Nishimura 1998) as CPython's `random.Random` seeds and
//! uses it. lm-evaluation-harness draws few-shot examples and bootstrap samples with it.

const N: usize = 624;
const M: usize = 397;

/// A generator, as `random.Random(seed)`.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u32; N],
    next: usize,
}

impl Random {
    /// Of a seed from 0 up, below 2^32.
    pub fn new(seed: u32) -> Random {
        // CPython seeds with an array of the seed's 32-bit digits, here one.
        let mut random = Random::of_number(19_650_218);
        let (state, mut i) = (&mut random.state, 1);
        for _ in 0..N {
            let before = state[i - 1] ^ state[i - 1] >> 30;
            state[i] = (state[i] ^ before.wrapping_mul(1_664_525)).wrapping_add(seed);
            i = wrapped(state, i);
        }
        for _ in 0..N - 1 {
            let before = state[i - 1] ^ state[i - 1] >> 30;
            state[i] = (state[i] ^ before.wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            i = wrapped(state, i);
        }
        state[0] = 1 << 31;
        random
    }

    fn of_number(seed: u32) -> Random {
        let mut state = [seed; N];
        for i in 1..N {
            let before = state[i - 1] ^ state[i - 1] >> 30;
            state[i] = before.wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Random { state, next: N }
    }

    /// 32 random bits.
    pub fn bits(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9D2C_5680;
        y ^= y << 15 & 0xEFC6_0000;
        y ^ y >> 18
    }

    /// A number from 0 up, below 1: `random()`.
    pub fn unit(&mut self) -> f64 {
        let (a, b) = (self.bits() >> 5, self.bits() >> 6);
        (a as f64 * 67_108_864.0 + b as f64) / 9_007_199_254_740_992.0
    }

    /// A number below `n`, which is at least 1 and below 2^32: `_randbelow(n)`.
    pub fn below(&mut self, n: usize) -> usize {
        let width = usize::BITS - n.leading_zeros();
        loop {
            let r = (self.bits() >> (32 - width)) as usize;
            if r < n {
                return r;
            }
        }
    }

    /// `k` different places of a list of `n`, in the order in which `random.sample` draws them; all, if `k` is more.
    pub fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        let k = k.min(n);
        // Up to this length CPython shuffles a copy; beyond, it draws again what it has drawn.
        let mut limit = 21.0;
        if k > 5 {
            limit += 4f64.powf(((k * 3) as f64).log(4.0).ceil());
        }
        if n as f64 <= limit {
            let mut pool: Vec<usize> = (0..n).collect();
            return (0..k)
                .map(|i| {
                    let j = self.below(n - i);
                    let drawn = pool[j];
                    pool[j] = pool[n - i - 1];
                    drawn
                })
                .collect();
        }
        let mut drawn: Vec<usize> = Vec::with_capacity(k);
        while drawn.len() < k {
            let j = self.below(n);
            if !drawn.contains(&j) {
                drawn.push(j);
            }
        }
        drawn
    }

    fn twist(&mut self) {
        let state = &mut self.state;
        for i in 0..N {
            let y = state[i] & 1 << 31 | state[(i + 1) % N] & !(1 << 31);
            let odd = if y & 1 == 1 { 0x9908_B0DF } else { 0 };
            state[i] = state[(i + M) % N] ^ y >> 1 ^ odd;
        }
        self.next = 0;
    }
}

/// The place after `i`, from 1 on again when all have been.
fn wrapped(state: &mut [u32; N], i: usize) -> usize {
    if i + 1 < N {
        return i + 1;
    }
    state[0] = state[N - 1];
    1
}

#[cfg(test)]
mod tests;
