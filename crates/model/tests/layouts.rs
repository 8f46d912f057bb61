//! Every 8-bit layout of llm-compressor and LMDeploy: linear by linear, then whole models, on the reference and on the
//! fast back end. See data/README.md.
use planish_checkpoint::{config::Config, shards::ModelFiles, source::TensorSource};
use planish_cpu::{Cpu, Isa, Scalar};
use planish_model::{Decoder, KvPool, LoadOptions, Plan, Workspace, weights::read_weight};
use planish_tensor::{Backend, Batch, DType, FloatMath, Grid, Q8, Q8Rows, Tensor, q8};
use std::path::{Path, PathBuf};

const PAGE: usize = 16;

/// Checkpoints with INT8 activations per token, which the tools simulate on another grid than kernels have.
const SIMULATED: [&str; 6] =
    ["w8a8_rtn", "w8a8_rtn_f32", "w8a8_sq_gptq", "w8a8_sq_gptq_f32", "mixed_fp8down_int8rest", "w8a8_lm_head"];
const OTHERS: [&str; 10] = [
    "fp8_dynamic",
    "fp8_static",
    "fp8_static_kv",
    "fp8_block",
    "mxfp8",
    "int8_static_tensor_sym",
    "int8_static_tensor_asym",
    "int8_dynamic_token_asym",
    "lmdeploy_int8",
    "lmdeploy_fp8",
];

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn prompt() -> Vec<u32> {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(data("prompts.json")).unwrap()).unwrap();
    serde_json::from_value(json["prompts"][0].clone()).unwrap()
}

fn values(folder: &str, tensor: &str) -> Vec<f32> {
    ModelFiles::open(&data(folder)).unwrap().tensor(tensor).unwrap().to_f32()
}

fn plan(name: &str) -> Plan {
    Plan::new(&Config::open(&data(name)).unwrap()).unwrap()
}

fn download<B: Backend>(b: &B, t: &Tensor<B>) -> Vec<f32> {
    let mut bytes = vec![0; t.rows * t.cols * t.dtype.size()];
    b.download(t, &mut bytes).unwrap();
    planish_tensor::host::decode_f32(t.dtype, &bytes)
}

fn upload<B: Backend>(b: &B, values: &[f32], cols: usize) -> Tensor<B> {
    let mut t = b.alloc(DType::F32, values.len() / cols, cols).unwrap();
    b.upload(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(), &mut t).unwrap();
    t
}

/// Codes on the simulation's grid.
fn simulate<B: Backend>(b: &B, x: &[f32], k: usize, rows: &mut Q8Rows<B>) {
    let scales: Vec<f32> = x.chunks_exact(k).map(|row| q8::absmax(row) / 127.5).collect();
    let codes: Vec<u8> = x.iter().enumerate().map(|(i, v)| Q8::Int8.encode(v / scales[i / k])).collect();
    b.upload(&codes, &mut rows.codes).unwrap();
    b.upload(&scales.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<u8>>(), &mut rows.scales).unwrap();
}

/// The fastest kernels whose attention does not round to bf16: static scales saturate and round what is near a border, so
/// that a small difference before them is a large one behind.
fn fast() -> Cpu {
    let exact = Isa::available().into_iter().rfind(|isa| !isa.has_fast_bf16_dots());
    Cpu::new(2, exact.expect("scalar kernels run everywhere"))
}

/// Each recorded input gives its recorded output within 2e-6 of the largest; returns how many there were.
fn check_linears<B: Backend>(b: &B, name: &str) -> usize {
    let (plan, files) = (plan(name), ModelFiles::open(&data(name)).unwrap());
    let recorded = ModelFiles::open(&data(name).join("expected")).unwrap();
    let mut count = 0;
    for entry in recorded.names().iter().filter_map(|n| n.strip_prefix("io.")?.strip_suffix(".x")) {
        let (x, y) = (recorded.tensor(&format!("io.{entry}.x")).unwrap(), recorded.tensor(&format!("io.{entry}.y")));
        let (y, k) = (y.unwrap(), x.shape()[1]);
        let n = y.shape()[1];
        let part = read_weight(&plan, &files, entry, n, k, None).unwrap();
        let (grid, kind) = (part.grid, Q8::from_dtype(part.weight.dtype()).expect("every recorded linear has codes"));
        let linear = b.load_linear(&[part]).unwrap();
        let mut rows = b.alloc_q8_for(kind, &[grid], x.shape()[0], k).unwrap();
        if SIMULATED.contains(&name) && kind == Q8::Int8 {
            assert_eq!(grid, Grid::Token);
            simulate(b, &x.to_f32(), k, &mut rows);
        } else {
            b.quantize_rows(&upload(b, &x.to_f32(), k), &mut rows).unwrap();
        }
        let mut out = b.alloc(DType::F32, x.shape()[0], n).unwrap();
        b.gemm_w8a8(&rows, &linear, &mut out).unwrap();
        let wanted = y.to_f32();
        let worst = download(b, &out).iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let limit = 2e-6 * q8::absmax(&wanted);
        assert!(worst <= limit, "{} {name} {entry}: {worst} > {limit}", b.describe());
        count += 1;
    }
    count
}

#[test]
fn every_linear_matches() {
    let fast = Cpu::new(2, Isa::best());
    for name in SIMULATED.into_iter().chain(OTHERS) {
        let expected = if name == "w8a8_lm_head" { 8 } else { 7 };
        assert_eq!((check_linears(&Scalar, name), check_linears(&fast, name)), (expected, expected), "{name}");
    }
}

/// Logits `[t, v]` of the first prompt.
fn logits<B: Backend>(b: &B, name: &str, kv: DType) -> Vec<f32> {
    let (plan, files) = (plan(name), ModelFiles::open(&data(name)).unwrap());
    let mut kv = KvPool::new(b, &plan, plan.layers, 8, PAGE, kv).unwrap();
    let mut ws = Workspace::new(b, &plan, 64, 64).unwrap();
    let options = LoadOptions { math: FloatMath::F32, positions: 128, int8_head: false };
    let decoder = Decoder::load(b, plan, &files, &options).unwrap();
    decoder.fix_kv_scales(&mut kv);
    let tokens = prompt();
    let mut batch = Batch::fresh(&[tokens.len()], PAGE);
    batch.logit_rows = (0..tokens.len() as u32).collect();
    batch.tokens = tokens;
    decoder.forward(b, &batch, &mut kv, &mut ws).unwrap();
    download(b, &ws.logits)
}

/// Root mean square of the difference (all positions; the median position), mean KL, share of equal first choices.
fn distance(got: &[f32], want: &[f32]) -> (f64, f64, f64, f64) {
    assert_eq!(got.len(), want.len());
    let mean_square =
        |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64;
    let rows = || got.chunks(256).zip(want.chunks(256));
    let mut each: Vec<f64> = rows().map(|(a, b)| mean_square(a, b).sqrt()).collect();
    each.sort_by(f64::total_cmp);
    let count = each.len() as f64;
    let first = |x: &[f32]| (1..x.len()).fold(0, |best, i| if x[i] > x[best] { i } else { best });
    let same = rows().filter(|(a, b)| first(a) == first(b)).count() as f64 / count;
    let divergence = rows().map(|(a, b)| kl(b, a)).sum::<f64>() / count;
    (mean_square(got, want).sqrt(), each[each.len() / 2], divergence, same)
}

fn kl(p: &[f32], q: &[f32]) -> f64 {
    let log_softmax = |x: &[f32]| {
        let sum: f64 = x.iter().map(|&x| f64::from(x).exp()).sum();
        x.iter().map(|&x| f64::from(x) - sum.ln()).collect::<Vec<_>>()
    };
    log_softmax(p).iter().zip(log_softmax(q)).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// Where scales are dynamic, a code on a rounding tie may fall to the other side and then moves all later positions a
/// little; where they are static, fewer do.
#[test]
fn every_model_matches() {
    let fast = fast();
    for name in SIMULATED.into_iter().chain(OTHERS) {
        let (folder, tensor) = match name {
            "w8a8_rtn" | "w8a8_sq_gptq_f32" => ("expected", "logits_act127_0"),
            name if SIMULATED.contains(&name) => ("act127", "logits_0"),
            _ => ("expected", "logits_0"),
        };
        let want = values(&format!("{name}/{folder}"), tensor);
        let kv = if name == "fp8_static_kv" { DType::F8E4M3 } else { DType::F32 };
        let limit = if name.contains("static") { 0.02 } else { 0.05 };
        for (device, got) in [("scalar", logits(&Scalar, name, kv)), ("fast", logits(&fast, name, kv))] {
            let (rms, median, kl, same) = distance(&got, &want);
            println!("{name} {device}: rms {rms:.2e}, median {median:.2e}, KL {kl:.2e}, first {same:.3}");
            let close = rms <= limit && kl <= 5e-4 && same >= 0.97;
            assert!(close, "{name} {device}: rms {rms}, median {median}, KL {kl}, first choices {same}");
        }
    }
}

/// A cache of codes with the checkpoint's scales is another function than one with a scale for each vector.
#[test]
fn kv_scales_of_a_checkpoint_are_used_for_their_type_alone() {
    let want = values("fp8_static_kv/expected", "logits_0");
    let rms = |kv| distance(&logits(&Scalar, "fp8_static_kv", kv), &want).0;
    assert!(rms(DType::F8E4M3) < 0.02);
    assert!(rms(DType::I8) > 0.05 && rms(DType::F32) > 0.05);
}
