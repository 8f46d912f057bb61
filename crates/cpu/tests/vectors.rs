//! Every kernel family against vectors made by reference tools; see data/vectors/README.md.
use half::bf16;
use planish_cpu::gemm_w8a8::{PackedQ8, Q8Slice, gemm_w8a8};
use planish_cpu::isa::Isa;
use planish_cpu::rowwise::{Q8SliceMut, quantize_on, quantize_rows};
use planish_cpu::threads::Threads;
use planish_tensor::{Grid, Q8, float8, q8};
use std::collections::HashMap;
use std::path::Path;

const T: usize = 16;
const K: usize = 160;
const N: usize = 48;

/// The tensors of a safetensors file: type and bytes by name.
struct Tensors(HashMap<String, (String, Vec<u8>)>);

impl Tensors {
    fn read(name: &str) -> Tensors {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vectors").join(name);
        let file = std::fs::read(path).unwrap();
        let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let json: serde_json::Value = serde_json::from_slice(&file[8..8 + header]).unwrap();
        let data = &file[8 + header..];
        let entries = json.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
        let tensors = entries.map(|(name, entry)| {
            let offset = |i: usize| entry["data_offsets"][i].as_u64().unwrap() as usize;
            let dtype = entry["dtype"].as_str().unwrap().to_string();
            (name.clone(), (dtype, data[offset(0)..offset(1)].to_vec()))
        });
        Tensors(tensors.collect())
    }

    fn bytes(&self, name: &str) -> &[u8] {
        &self.0.get(name).unwrap_or_else(|| panic!("tensor {name}")).1
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let bytes = self.bytes(name);
        match self.0[name].0.as_str() {
            "F32" => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            "BF16" => bytes.as_chunks::<2>().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
            other => panic!("{name} is {other}"),
        }
    }

    fn ints(&self, name: &str) -> Vec<i32> {
        assert_eq!(self.0[name].0, "I32");
        self.bytes(name).as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b)).collect()
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    // Zeros of either sign are one number; a bias of +0 turns -0 into +0.
    x.iter().map(|&x| if x == 0.0 { 0 } else { x.to_bits() }).collect()
}

/// The vectors keep a scale of 0 for a row of zeros, where checkpoints have a tiny number.
fn weight_scales(file: &Tensors, name: &str) -> Vec<f32> {
    let scales = file.floats(name);
    assert_eq!((scales[3], scales.iter().filter(|&&s| s == 0.0).count()), (0.0, 1));
    scales.into_iter().map(|s| if s == 0.0 { q8::ZERO_ROW_SCALE } else { s }).collect()
}

fn quantized_tokens(isa: Isa, kind: Q8, x: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let (mut codes, mut xs) = (vec![0; T * K], vec![0.0; T]);
    quantize_rows(&Threads::new(1), isa, kind, x, K, Q8SliceMut { codes: &mut codes, xs: &mut xs });
    (codes, xs)
}

fn product(isa: Isa, kind: Q8, x: &[u8], xs: &[f32], w: &[u8], ws: &[f32]) -> Vec<f32> {
    let threads = Threads::new(2);
    let packed = PackedQ8::pack(kind, K, &[(w, ws)], None, isa, &threads);
    let mut y = vec![f32::NAN; T * N];
    gemm_w8a8(&threads, Q8Slice { codes: x, xs }, &packed, &mut y);
    y
}

#[test]
fn int8_is_exact() {
    let file = Tensors::read("w8a8_vectors.safetensors");
    for p in ["f32", "bf16"] {
        let (x, w) = (file.floats(&format!("{p}.x")), file.floats(&format!("{p}.w")));
        let (mut w_q, mut ws) = (vec![0; N * K], Vec::new());
        for (row, codes) in w.chunks(K).zip(w_q.chunks_mut(K)) {
            ws.push(q8::quantize_weight_row(Q8::Int8, row, codes));
        }
        assert_eq!(w_q, file.bytes(&format!("{p}.int8.w_q")));
        assert_eq!(bits(&ws), bits(&weight_scales(&file, &format!("{p}.int8.w_scale"))));
        let acc: Vec<f32> = file.ints(&format!("{p}.int8.acc")).iter().map(|&a| a as f32).collect();
        for isa in Isa::available() {
            let (codes, xs) = quantized_tokens(isa, Q8::Int8, &x);
            assert_eq!(codes, file.bytes(&format!("{p}.int8.x_q_127")), "{isa:?} {p}");
            assert_eq!(bits(&xs), bits(&file.floats(&format!("{p}.int8.x_scale_127"))), "{isa:?} {p}");
            assert_eq!(product(isa, Q8::Int8, &codes, &[1.0; T], &w_q, &[1.0; N]), acc, "{isa:?} {p}");
            let y = product(isa, Q8::Int8, &codes, &xs, &w_q, &ws);
            assert_eq!(bits(&y), bits(&file.floats(&format!("{p}.int8.y_f32"))), "{isa:?} {p}");
        }
    }
}

#[test]
fn zero_points_are_exact() {
    let file = Tensors::read("w8a8_vectors.safetensors");
    let threads = Threads::new(2);
    for p in ["f32", "bf16"] {
        let name = |part: &str| format!("{p}.int8_asym.{part}");
        let x = file.floats(&format!("{p}.x"));
        for isa in Isa::available() {
            let (mut codes, mut xs, mut zeros) = (vec![0; T * K], vec![0.0; T], vec![9; T]);
            let out = Q8SliceMut { codes: &mut codes, xs: &mut xs };
            quantize_on(&threads, isa, Q8::Int8, Grid::Asymmetric, &x, K, out, Some(&mut zeros));
            assert_eq!(bits(&xs), bits(&file.floats(&name("x_scale"))), "{isa:?} {p}");
            let want: Vec<i32> = file.bytes(&name("x_zp")).iter().map(|&z| z as i8 as i32).collect();
            assert_eq!(zeros, want, "{isa:?} {p}");
            let mut ties = 0;
            for (i, (&code, &want)) in codes.iter().zip(file.bytes(&name("x_q"))).enumerate() {
                let (units, zero) = (x[i] / xs[i / K], zeros[i / K] as f32);
                // The vectors' maker rounds before it adds the zero point; the definition, as compressed-tensors, after.
                let rounded_first = (units.round_ties_even() + zero).clamp(-128.0, 127.0);
                let added_first = (units + zero).round_ties_even().clamp(-128.0, 127.0);
                if xs[i / K] == 0.0 || rounded_first == added_first {
                    assert_eq!(code, want, "{isa:?} {p} element {i}");
                    continue;
                }
                ties += 1;
                assert_eq!((units + zero).fract().abs(), 0.5, "{isa:?} {p} element {i}: only ties tell the two apart");
                assert_eq!(
                    (code as i8 as f32, want as i8 as f32),
                    (added_first, rounded_first),
                    "{isa:?} {p} element {i}"
                );
            }
            assert_eq!(ties, if p == "bf16" { 2 } else { 0 }, "{isa:?} {p}");
        }
    }
}

#[test]
fn float8_codes_are_exact_and_sums_are_close() {
    let file = Tensors::read("w8a8_vectors.safetensors");
    for p in ["f32", "bf16"] {
        let (x, w) = (file.floats(&format!("{p}.x")), file.floats(&format!("{p}.w")));
        let (mut w_q, mut ws) = (vec![0; N * K], Vec::new());
        for (row, codes) in w.chunks(K).zip(w_q.chunks_mut(K)) {
            ws.push(q8::quantize_weight_row(Q8::E4M3, row, codes));
        }
        assert_eq!(w_q, file.bytes(&format!("{p}.fp8.w_q")));
        assert_eq!(bits(&ws), bits(&weight_scales(&file, &format!("{p}.fp8.w_scale"))));
        let (acc, y) = (file.floats(&format!("{p}.fp8.acc_f32")), file.floats(&format!("{p}.fp8.y_f32")));
        for isa in Isa::available() {
            let (codes, xs) = quantized_tokens(isa, Q8::E4M3, &x);
            assert_eq!(codes, file.bytes(&format!("{p}.fp8.x_q")), "{isa:?} {p}");
            assert_eq!(bits(&xs), bits(&file.floats(&format!("{p}.fp8.x_scale"))), "{isa:?} {p}");
            let got_acc = product(isa, Q8::E4M3, &codes, &[1.0; T], &w_q, &[1.0; N]);
            let got_y = product(isa, Q8::E4M3, &codes, &xs, &w_q, &ws);
            for i in 0..T * N {
                let (r, c) = (i / N, i % N);
                let value = |codes: &[u8], at: usize| Q8::E4M3.decode(codes[at]).abs();
                let size: f32 = (0..K).map(|j| value(&codes, r * K + j) * value(&w_q, c * K + j)).sum();
                assert!((got_acc[i] - acc[i]).abs() <= 1e-5 * size, "{isa:?} {p} sum {r},{c}");
                let bound = 1e-5 * size * xs[r] * ws[c] + f32::MIN_POSITIVE;
                assert!((got_y[i] - y[i]).abs() <= bound, "{isa:?} {p} output {r},{c}: {} for {}", got_y[i], y[i]);
            }
        }
    }
}

#[test]
fn float8_tables() {
    let file = Tensors::read("float8_tables.safetensors");
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    for (name, kind) in [("e4m3fn", Q8::E4M3), ("e5m2", Q8::E5M2)] {
        for (code, &want) in file.floats(&format!("{name}.decode")).iter().enumerate() {
            assert!(same(kind.decode(code as u8), want), "{name} {code:#x}");
        }
        let (inputs, codes) = (file.floats(&format!("{name}.in_f32")), file.bytes(&format!("{name}.clamped_cast")));
        assert_eq!(inputs.len(), codes.len());
        for (&x, &want) in inputs.iter().zip(codes) {
            if x.is_nan() {
                let code = if kind == Q8::E4M3 { float8::f32_to_e4m3(x) } else { float8::f32_to_e5m2(x) };
                assert!(kind.decode(code).is_nan() && kind.decode(want).is_nan());
            } else {
                assert_eq!(kind.encode(x), want, "{name} {x:e}");
            }
        }
    }
}

/// The same inputs through the vector encoders: a token that also holds the largest value has a scale of one.
#[test]
fn float8_encoders_of_every_family() {
    let file = Tensors::read("float8_tables.safetensors");
    for (name, kind) in [("e4m3fn", Q8::E4M3), ("e5m2", Q8::E5M2)] {
        let (inputs, codes) = (file.floats(&format!("{name}.in_f32")), file.bytes(&format!("{name}.clamped_cast")));
        let top = kind.activation_range();
        let inside = inputs.iter().zip(codes).filter(|(x, _)| x.abs() <= top);
        let (mut x, mut want): (Vec<f32>, Vec<u8>) = inside.map(|(&x, &code)| (x, code)).unzip();
        assert!(x.len() > 500);
        x.push(top);
        want.push(kind.encode(top));
        for isa in Isa::available() {
            let (mut got, mut xs) = (vec![0; x.len()], [0.0]);
            quantize_rows(&Threads::new(1), isa, kind, &x, x.len(), Q8SliceMut { codes: &mut got, xs: &mut xs });
            assert_eq!(xs, [1.0]);
            assert_eq!(got, want, "{isa:?} {name}");
        }
    }
}
