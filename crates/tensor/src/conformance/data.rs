//! Seeded inputs.
use crate::host::{decode_f32, encode_f32};
use crate::{DType, HostTensor, Q8};
use std::sync::Arc;

/// SplitMix64 (Steele, Lea and Flood 2014), and what the suite draws from it.
pub(super) struct Random {
    state: u64,
    /// Type that activations are rounded to, so that all back ends get the same.
    activations: DType,
}

impl Random {
    pub fn new(activations: DType) -> Random {
        Random { state: 0x706c_616e_6973_6821, activations }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// One of `1..=129`, ends and powers of two now and then.
    pub fn size(&mut self) -> usize {
        const OFTEN: [usize; 8] = [1, 2, 16, 17, 64, 65, 128, 129];
        match self.below(3) {
            0 => OFTEN[self.below(OFTEN.len())],
            _ => 1 + self.below(129),
        }
    }

    /// A number of rows: none and one now and then.
    pub fn rows(&mut self, i: usize) -> usize {
        match i {
            0 => 0,
            1 => 1,
            _ => self.size(),
        }
    }

    /// In (-1, 1), more often small.
    pub fn float(&mut self) -> f32 {
        let mut unit = || (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        unit() * unit()
    }

    /// Numbers that every type of 16 bits and more can be given.
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// Activations: rows of different magnitude, with outliers.
    pub fn activations(&mut self, rows: usize, cols: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(rows * cols);
        for _ in 0..rows {
            let magnitude = (self.below(13) as f32 - 6.0).exp2();
            for _ in 0..cols {
                let outlier = if self.below(50) == 0 { 20.0 } else { 1.0 };
                values.push(self.float() * magnitude * outlier);
            }
        }
        self.rounded(&values)
    }

    /// Activations among which some rows are zero, tiny, huge, or have a NaN or an infinity.
    pub fn odd_activations(&mut self, rows: usize, cols: usize) -> Vec<f32> {
        let mut values = self.activations(rows, cols);
        for row in values.chunks_mut(cols) {
            let at = self.below(cols);
            match self.below(16) {
                0 => row.fill(0.0),
                1 => row[at] = f32::NAN,
                2 => row[at] = f32::INFINITY,
                3 => row[at] = f32::NEG_INFINITY,
                4 => row.iter_mut().for_each(|v| *v *= 1e-36),
                5 => row.iter_mut().for_each(|v| *v *= 1e12),
                6 => row.fill(-0.0),
                _ => {}
            }
        }
        self.rounded(&values)
    }

    fn rounded(&self, values: &[f32]) -> Vec<f32> {
        let bytes = encode_f32(self.activations, values).expect("activations are floats");
        decode_f32(self.activations, &bytes)
    }

    /// A float weight `[rows, cols]` whose bytes begin anywhere in a larger buffer, as those of a file do.
    pub fn weight(&mut self, dtype: DType, rows: usize, cols: usize) -> HostTensor {
        let values = self.floats(rows * cols);
        let bytes = encode_f32(dtype, &values).expect("weights are floats");
        let offset = self.below(9);
        let mut buffer = vec![0xA5; offset];
        buffer.extend(&bytes);
        buffer.push(0xA5);
        HostTensor::new(dtype, vec![rows, cols], Arc::new(buffer), offset..offset + bytes.len()).expect("sizes fit")
    }

    /// Codes other than NaN and infinities, extremes among them.
    pub fn codes(&mut self, kind: Q8, n: usize) -> Vec<u8> {
        let mut code = || match (kind, self.below(8)) {
            (Q8::Int8, 0) => 0x80,
            (Q8::Int8, 1) => 0x7F,
            (Q8::Int8, _) => self.next() as u8,
            (Q8::E4M3, _) => (self.next() as u8 & 0x80) | self.below(0x7F) as u8,
            (Q8::E5M2, _) => (self.next() as u8 & 0x80) | self.below(0x7C) as u8,
        };
        (0..n).map(|_| code()).collect()
    }

    /// The numbers `0..n`, shuffled.
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            numbers.swap(i, self.below(i + 1));
        }
        numbers
    }
}
