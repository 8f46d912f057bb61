//! Every architecture, size and type, without a GPU.
use super::*;

/// Architectures, a number of multiprocessors that a chip of each has, and the shared memory that a block may ask for, in KiB.
const CHIPS: [(Arch, usize, usize); 10] = [
    (70, 80, 96),
    (72, 8, 96),
    (75, 40, 64),
    (80, 108, 163),
    (86, 84, 99),
    (87, 16, 163),
    (89, 128, 99),
    (90, 132, 227),
    (100, 148, 227),
    (120, 170, 99),
];

const KERNELS: [&str; 2] = [include_str!("../../kernels/gemm_w8a8.cu"), include_str!("../../kernels/gemm_hopper.cu")];

/// Names of the kernels that a file declares, those of its macros included.
fn declared() -> Vec<String> {
    let (mut names, mut families, mut prefixes) = (Vec::new(), Vec::new(), Vec::new());
    let arguments = |line: &'static str, word: &str| {
        let rest = line.trim().strip_prefix(word)?.strip_prefix('(')?;
        Some(rest.split([',', '(', ')']).map(str::trim).collect::<Vec<_>>())
    };
    for line in KERNELS.iter().flat_map(|text| text.lines()) {
        for (word, of) in [("TENSOR_CORE_KERNEL", "TENSOR_CORE_KERNEL"), ("KERNEL", "KERNEL"), ("BY_TURNS", "KERNEL")] {
            match arguments(line, word) {
                Some(a) if a[0].starts_with("NAME##") => families.push((of, a[0].trim_start_matches("NAME##"))),
                Some(a) => names.push(a[0].to_owned()),
                None => {}
            }
        }
        for (word, of) in [("FLOAT8_KERNELS", "TENSOR_CORE_KERNEL"), ("TILES", "KERNEL"), ("FEW_TILES", "FEW")] {
            prefixes.extend(arguments(line, word).map(|a| (of, a[0])));
        }
        if let Some((_, after)) = line.split_once("__launch_bounds__(").filter(|_| line.ends_with("(ARGUMENTS) {")) {
            names.extend(after.split_once(") ").map(|(_, name)| name.trim_end_matches("(ARGUMENTS) {").to_owned()));
        }
    }
    for (of, prefix) in prefixes {
        // What the rarer types have of Hopper's tiles stands after what all types have.
        let (word, skipped) = if of == "FEW" { ("KERNEL", hopper::TILES.len()) } else { (of, 0) };
        let members = families.iter().filter(|(macro_of, _)| *macro_of == word).map(|(_, name)| name);
        let count = if of == "KERNEL" { hopper::TILES.len() } else { usize::MAX };
        names.extend(members.skip(skipped).take(count).map(|name| format!("{prefix}{name}")));
    }
    names
}

#[test]
fn every_tile_for_heads_has_a_kernel() {
    let text = include_str!("../../kernels/gemm_hopper_heads.cu");
    for tile in hopper::TILES.iter().filter(|tile| tile.takes_heads()) {
        assert!(text.contains(&format!("(NAME##_{}_heads,", tile.name())), "{}", tile.name());
    }
}

fn sizes() -> impl Iterator<Item = [usize; 3]> {
    let tokens = || (1..=70).chain([96, 128, 129, 200, 256, 300, 512, 1024, 2048, 4096, 8192]);
    let weights =
        [(1, 16), (8, 128), (333, 144), (100, 130), (4096, 4096), (28672, 4096), (4096, 14336), (128_256, 4096)];
    weights.into_iter().flat_map(move |(n, k)| tokens().map(move |m| [m, n, k]))
}

fn operands() -> impl Iterator<Item = Operands> {
    let pairs = Q8::ALL.into_iter().flat_map(|w| Q8::ALL.into_iter().map(move |x| (w, x)));
    let pairs = pairs.filter(|(w, x)| (*w == Q8::Int8) == (*x == Q8::Int8));
    pairs.flat_map(|(weight, tokens)| [false, true].map(|invariant| Operands { weight, tokens, invariant }))
}

#[test]
fn every_size_has_a_kernel_or_an_error_that_names_what_can() {
    let declared = declared();
    for (arch, sm_count, shared) in CHIPS {
        for operands in operands() {
            for size in sizes() {
                let what = format!("sm_{arch} {operands:?} {size:?}");
                match choose(size, operands, Device { arch, sm_count }) {
                    Ok(kernel) => {
                        assert!(declared.contains(&kernel.name()), "{what}: no file declares {}", kernel.name());
                        assert!(kernel.shared() <= shared << 10, "{what}: {} bytes", kernel.shared());
                        assert!(kernel.to_string().starts_with(&kernel.name()), "{kernel}");
                    }
                    Err(error) => {
                        let (lacks, other) =
                            if arch < 89 { (operands.weight != Q8::Int8, "INT8") } else { (arch >= 100, "FP8") };
                        assert!(lacks && error.to_string().contains(&format!("use {other}")), "{what}: {error}");
                    }
                }
            }
        }
    }
}

#[test]
fn each_architecture_has_its_own_family() {
    let named = |arch, kind, m| {
        let chosen = choose([m, 28672, 4096], Operands::of(kind), Device { arch, sm_count: 100 });
        chosen.map_or_else(|error| error.to_string(), |kernel| kernel.name())
    };
    for (arch, int8, fp8) in [
        (70, ["int8_few_1", "int8_70_64x64", "int8_70_128x128"], None),
        (75, ["int8_75_16x8", "int8_75_64x64", "int8_75_128x128"], None),
        (80, ["int8_80_16x8", "int8_80_64x64", "int8_80_128x128"], None),
        (86, ["int8_80_16x8", "int8_80_64x64", "int8_80_128x128"], None),
        (
            89,
            ["int8_80_16x8", "int8_80_64x64", "int8_80_128x128"],
            Some(["e4m3_e4m3_89_16x8_by_8", "e4m3_e4m3_89_64x64", "e4m3_e4m3_89_128x128"]),
        ),
        (
            90,
            ["int8_80_16x8", "s8_64x128_211_1", "s8_192x128_211_1_turns"],
            Some(["e4m3_e4m3_89_16x8_by_8", "e4m3_64x128_211_1", "e4m3_192x128_211_1_turns"]),
        ),
    ] {
        assert_eq!([1, 64, 4096].map(|m| named(arch, Q8::Int8, m)), int8, "sm_{arch}");
        match fp8 {
            Some(fp8) => assert_eq!([1, 64, 4096].map(|m| named(arch, Q8::E4M3, m)), fp8, "sm_{arch}"),
            None => assert!(named(arch, Q8::E4M3, 1).contains("use INT8"), "sm_{arch}"),
        }
    }
    for arch in [100, 103, 120] {
        let fp8 = ["e4m3_e4m3_89_16x8_by_8", "e4m3_e4m3_89_64x64", "e4m3_e4m3_89_128x128"];
        assert_eq!([1, 64, 4096].map(|m| named(arch, Q8::E4M3, m)), fp8, "sm_{arch}");
        assert!(named(arch, Q8::Int8, 1).contains("use FP8"), "sm_{arch}");
    }
    assert!(named(61, Q8::Int8, 1).contains("--device cpu"));
}

#[test]
fn rows_that_begin_anywhere_have_kernels_of_their_own() {
    for (arch, name) in [(70, "int8_70_64x64"), (75, "int8_75_any"), (80, "int8_80_any"), (90, "int8_80_any")] {
        let chosen = choose([64, 4096, 4100], Operands::of(Q8::Int8), Device { arch, sm_count: 100 });
        assert_eq!(chosen.map(|kernel| kernel.name()), Ok(name.to_owned()));
    }
}

#[test]
fn invariant_sums_are_of_one_kind_at_every_number_of_tokens() {
    for operands in operands().filter(|o| o.invariant && o.weight != Q8::Int8) {
        let hopper = |m| {
            let chosen = choose([m, 4096, 4096], operands, Device { arch: 90, sm_count: 132 });
            matches!(chosen, Ok(Kernel::Hopper(..)))
        };
        assert!((1..300).all(hopper), "{operands:?}");
    }
}

#[test]
fn choices_can_be_read() {
    let print = |m, arch| {
        choose([m, 28672, 4096], Operands::of(Q8::Int8), Device { arch, sm_count: 132 })
            .map(|kernel| kernel.to_string())
    };
    assert_eq!(print(1, 80), Ok("int8_80_16x8: 8 tokens x 16 rows, 256 threads, 1792 blocks".into()));
    let hopper = print(2048, 90).unwrap();
    assert!(
        hopper.starts_with("s8_192x128_211_1_turns: 192 tokens x 128 rows, cluster 2x1x1, 1 a multiprocessor"),
        "{hopper}"
    );
}
