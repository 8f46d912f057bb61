//! The kernels of `kernels/gemm_w8a8.cu`, which several architectures have in families, and which of a family multiplies
//! a size. Numbers are those of the `.cu` file.
use super::tile::{Tile, fastest, narrowest};
use crate::{Arch, support};
use planish_tensor::{Error, Q8, Result};

/// Tiles of a family: by number of tokens, then for more tokens than those, then for rows that begin anywhere.
pub(super) struct Family {
    few: &'static [Tile],
    /// In place of `few` where floating sums may depend on the number of tokens; none if there are no better.
    pub(super) split: &'static [Tile],
    many: &'static [Tile],
    any: Tile,
}

const INT8_80: Family = Family {
    few: &[
        Tile::tensor_core("int8_80_16x8", [1, 1, 8, 1, 1, 512, 4]),
        Tile::tensor_core("int8_80_16x16", [1, 1, 8, 1, 2, 512, 4]),
        Tile::tensor_core("int8_80_32x32", [1, 1, 8, 2, 4, 512, 3]),
        Tile::tensor_core("int8_80_32x64", [1, 1, 8, 2, 8, 256, 4]),
    ],
    split: &[],
    many: &[
        Tile::tensor_core("int8_80_128x128", [2, 4, 1, 4, 4, 64, 4]).known(2, 70, 46),
        Tile::tensor_core("int8_80_64x64", [2, 2, 1, 2, 4, 128, 4]).known(3, 30, 11),
        Tile::tensor_core("int8_80_64x64_by_2", [2, 2, 2, 2, 4, 128, 4]).known(2, 28, 8),
    ],
    any: Tile::tensor_core("int8_80_any", [2, 2, 1, 2, 4, 64, 2]),
};

const INT8_75: Family = Family {
    few: &[
        Tile::tensor_core("int8_75_16x8", [1, 1, 8, 1, 1, 512, 2]),
        Tile::tensor_core("int8_75_16x16", [1, 1, 8, 1, 2, 512, 2]),
        Tile::tensor_core("int8_75_32x32", [1, 1, 8, 2, 4, 256, 2]),
    ],
    split: &[],
    many: &[
        Tile::tensor_core("int8_75_128x128", [2, 4, 1, 4, 4, 64, 2]).known(2, 58, 47),
        Tile::tensor_core("int8_75_64x64", [2, 2, 2, 2, 4, 128, 2]).known(4, 26, 11),
    ],
    any: Tile::tensor_core("int8_75_any", [2, 2, 1, 2, 4, 64, 2]),
};

const INT8_70: Family = Family {
    few: &[
        Tile::plain("int8_few_1", 16, 1, 256),
        Tile::plain("int8_few_2", 16, 2, 256),
        Tile::plain("int8_few_4", 16, 4, 256),
    ],
    split: &[],
    many: &[
        Tile::plain("int8_70_128x128", 128, 128, 256).known(1, 180, 180),
        Tile::plain("int8_70_64x64", 64, 64, 64).known(6, 105, 34),
    ],
    any: Tile::plain("int8_70_64x64", 64, 64, 64),
};

macro_rules! float8_family {
    ($pair:literal, $split:expr) => {
        Family {
            few: &[
                Tile::tensor_core(concat!($pair, "_89_16x8"), [1, 1, 1, 1, 1, 256, 6]),
                Tile::tensor_core(concat!($pair, "_89_16x32"), [1, 4, 1, 1, 1, 256, 4]),
            ],
            split: $split,
            many: &[
                Tile::tensor_core(concat!($pair, "_89_128x128"), [2, 4, 1, 4, 4, 64, 4]).known(2, 70, 46),
                Tile::tensor_core(concat!($pair, "_89_64x64"), [2, 2, 1, 2, 4, 128, 4]).known(3, 30, 11),
            ],
            any: Tile::tensor_core(concat!($pair, "_89_any"), [2, 2, 1, 2, 4, 64, 2]),
        }
    };
}

const E4M3_E4M3: Family = float8_family!("e4m3_e4m3", E4M3_SPLIT);
const E4M3_E5M2: Family = float8_family!("e4m3_e5m2", &[]);
const E5M2_E4M3: Family = float8_family!("e5m2_e4m3", &[]);
const E5M2_E5M2: Family = float8_family!("e5m2_e5m2", &[]);

/// Eight warps share k, as those of INT8 do.
const E4M3_SPLIT: &[Tile] = &[
    Tile::tensor_core("e4m3_e4m3_89_16x8_by_8", [1, 1, 8, 1, 1, 512, 4]),
    Tile::tensor_core("e4m3_e4m3_89_16x16_by_8", [1, 1, 8, 1, 2, 512, 4]),
    Tile::tensor_core("e4m3_e4m3_89_32x32_by_8", [1, 1, 8, 2, 4, 512, 3]),
];

/// The kernels of a weight's and the tokens' 8-bit type on an architecture, or what the chip can run instead.
pub(super) fn family(weight: Q8, tokens: Q8, arch: Arch) -> Result<&'static Family> {
    support::family(weight, arch)?;
    match (weight, tokens) {
        (Q8::Int8, Q8::Int8) if arch >= 80 => Ok(&INT8_80),
        (Q8::Int8, Q8::Int8) if arch >= 75 => Ok(&INT8_75),
        (Q8::Int8, Q8::Int8) => Ok(&INT8_70),
        (Q8::E4M3, Q8::E4M3) => Ok(&E4M3_E4M3),
        (Q8::E4M3, Q8::E5M2) => Ok(&E4M3_E5M2),
        (Q8::E5M2, Q8::E4M3) => Ok(&E5M2_E4M3),
        (Q8::E5M2, Q8::E5M2) => Ok(&E5M2_E5M2),
        _ => Err(Error::dtype(format!("gemm_w8a8: weights of {weight:?} with tokens of {tokens:?}"))),
    }
}

/// The kernel for a product `[t, k]` by `[n, k]`; `invariant`: floating sums may not depend on t.
pub(super) fn place(family: &'static Family, [t, n, k]: [usize; 3], sm_count: usize, invariant: bool) -> &'static Tile {
    if !k.is_multiple_of(16) {
        return &family.any;
    }
    let tiles = if invariant || family.split.is_empty() { family.few } else { family.split };
    let narrow = narrowest(tiles, t);
    // By dp4a, weights that are read again from the cache cost less than a large tile that is mostly empty.
    let again = tiles.last().filter(|tile| tile.shared == 0 && t <= 5 * tile.tokens);
    let few = narrow.or(again);
    // A block of few tokens reads them all for its few rows: with many rows, larger tiles read less.
    let wide = t > 32 && n >= 96 * sm_count;
    let chosen = if wide { None } else { few };
    chosen.or_else(|| fastest(family.many, t, n, sm_count)).unwrap_or(&family.any)
}

/// Every kernel of a family.
pub(super) fn tiles(family: &'static Family) -> impl Iterator<Item = &'static Tile> {
    family.few.iter().chain(family.split).chain(family.many).chain(std::iter::once(&family.any))
}

/// The kernels of few tokens by dp4a, which newer chips have too.
pub(super) const DP4A_FEW: &[Tile] = INT8_70.few;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_without_a_type_name_the_one_that_they_have() {
        let refusal = |kind, arch| family(kind, kind, arch).err().map(|e| e.to_string());
        assert!(refusal(Q8::E4M3, 86).is_some_and(|e| e.contains("use INT8")));
        assert!(refusal(Q8::Int8, 100).is_some_and(|e| e.contains("use FP8")));
        for arch in [70, 75, 80, 86, 89, 90] {
            assert_eq!(refusal(Q8::Int8, arch), None);
        }
        assert_eq!(refusal(Q8::E5M2, 89), None);
    }

    #[test]
    fn tiles_suit_the_number_of_tokens() {
        let name = |t, n, k| place(&INT8_80, [t, n, k], 132, true).name;
        assert_eq!(name(1, 4096, 4096), "int8_80_16x8");
        assert_eq!(name(16, 4096, 4096), "int8_80_16x16");
        assert_eq!(name(64, 4096, 14336), "int8_80_32x64");
        assert_eq!(name(64, 28672, 4096), "int8_80_64x64_by_2");
        assert_eq!(name(256, 6144, 4096), "int8_80_64x64");
        assert_eq!(name(4096, 28672, 4096), "int8_80_128x128");
        assert_eq!(name(8192, 4096, 4100), "int8_80_any");
        let name = |t| place(&INT8_70, [t, 4096, 4096], 80, true).name;
        assert_eq!(
            [1, 2, 3, 20, 21].map(name),
            ["int8_few_1", "int8_few_2", "int8_few_4", "int8_few_4", "int8_70_64x64"]
        );
    }

    #[test]
    fn float_sums_are_split_only_where_they_may_be() {
        let name = |t, invariant| place(&E4M3_E4M3, [t, 4096, 4096], 132, invariant).name;
        assert_eq!([1, 8, 16].map(|t| name(t, true)), ["e4m3_e4m3_89_16x8", "e4m3_e4m3_89_16x8", "e4m3_e4m3_89_16x32"]);
        assert_eq!(name(1, false), "e4m3_e4m3_89_16x8_by_8");
        assert_eq!(name(16, false), "e4m3_e4m3_89_16x16_by_8");
        assert_eq!(place(&E5M2_E4M3, [1, 4096, 4096], 132, false).name, "e5m2_e4m3_89_16x8");
        assert_eq!(place(&INT8_80, [1, 4096, 4096], 132, false), place(&INT8_80, [1, 4096, 4096], 132, true));
    }

    #[test]
    fn shared_memory_fits_the_chips() {
        let all = |f: &'static Family| tiles(f).map(|tile| tile.shared).max();
        assert!(all(&INT8_75) <= Some(64 * 1024));
        for family in [&INT8_80, &E4M3_E4M3] {
            assert!(all(family) <= Some(99 * 1024));
        }
    }
}
