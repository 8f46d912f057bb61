//! A whole run on the device gives the host's checkpoint, but for codes near a tie; a resumed run gives the same.
use super::numbers::{different, off};
use super::open;
use planish_checkpoint::scheme::{QuantFormat, QuantType, Scheme};
use planish_checkpoint::shards::ModelFiles;
use planish_checkpoint::source::TensorSource;
use planish_checkpoint::writer::{CheckpointWriter, WriterOptions};
use planish_checkpoint::{Error, config::Config};
use planish_cpu::{Cpu, Isa, Scalar};
use planish_model::{Absorber, Input, Plan};
use planish_quant::calibrate::run::{Job, Outcome, quantize};
use planish_quant::calibrate::save::Layout;
use planish_quant::calibrate::solve::Algorithm;
use planish_quant::calibrate::strength::Strength;
use planish_quant::gptq::GptqOptions;
use planish_tensor::{Backend, DType, HostTensor, Q8};
use std::path::Path;

/// A source that fails when a block is asked for, as a run that is broken off does.
struct Broken<'a>(&'a dyn TensorSource, String);

impl TensorSource for Broken<'_> {
    fn names(&self) -> Vec<String> {
        self.0.names()
    }
    fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }
    fn tensor(&self, name: &str) -> Result<HostTensor, Error> {
        match name.starts_with(&self.1) {
            true => Err(Error::tensor(Path::new("here"), name, "a tensor", "the end")),
            false => self.0.tensor(name),
        }
    }
    fn release(&self, name: &str) {
        self.0.release(name);
    }
}

fn run<B: Backend>(
    b: &B,
    (kind, smooth, keys): (Q8, bool, Option<DType>),
    algorithm: &Algorithm,
    dir: &Path,
    broken: Option<&str>,
) -> planish_quant::Result<Outcome> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/base");
    let (config, files) = (Config::open(&data).unwrap(), ModelFiles::open(&data).unwrap());
    let plan = Plan::new(&config).unwrap();
    let dtype = if kind == Q8::Int8 { QuantType::Int8 } else { QuantType::Fp8E4M3 };
    let scheme = Scheme::w8a8(QuantFormat::CompressedTensors, dtype, vec!["lm_head".into()]).unwrap();
    let stored = plan.stored_by(scheme.with_kv_cache(Some(QuantType::Fp8E4M3)));
    let sample = |i: u32| (0..20 + 7 * i).map(|j| (i * 97 + j * j * 13 + j) % 256).collect();
    let samples: Vec<Vec<u32>> = (0..16).map(sample).collect();
    let strength = |_: usize, input: Input| {
        smooth.then_some(Strength::Alpha(if matches!(plan.absorber(input), Some(Absorber::Rows(_))) {
            0.5
        } else {
            0.8
        }))
    };
    let broken = broken.map(|name| Broken(&files, name.into()));
    let job = Job {
        plan: &plan,
        stored: &stored,
        source: broken.as_ref().map_or(&files, |b| b),
        samples: &samples,
        held_back: &(0..400).map(|j| (j * j * 7 + j / 3) % 256).collect::<Vec<_>>(),
        kind: &|_, _| Some(kind),
        head: None,
        strength: &strength,
        threads: 2,
        algorithm: algorithm.clone(),
        layout: Layout { scale_name: "weight_scale", scale_dtype: DType::F32, float_dtype: DType::BF16 },
        keys,
    };
    let options = WriterOptions { resume: true, ..WriterOptions::default() };
    let mut writer = CheckpointWriter::create(dir, options).unwrap();
    let outcome = quantize(b, &job, &mut writer, &mut |_| Ok(()))?;
    writer.finish().unwrap();
    Ok(outcome)
}

fn tensors(dir: &Path) -> Vec<(String, HostTensor)> {
    let files = ModelFiles::open(dir).unwrap();
    files.names().into_iter().map(|name| (name.clone(), files.tensor(&name).unwrap())).collect()
}

/// The host's run, on a CPU that rounds to bf16 as the device does. (One that does not is as far from this one as a
/// fifth of all codes.)
fn host(run_of: (Q8, bool, Option<DType>), algorithm: &Algorithm, dir: &Path) -> Outcome {
    match Isa::Avx512Bf16.runs_here() {
        true => run(&Cpu::new(2, Isa::Avx512Bf16), run_of, algorithm, dir, None).unwrap(),
        false => run(&Scalar, run_of, algorithm, dir, None).unwrap(),
    }
}

/// Codes differ only near ties; a code that does moves the states of the blocks after it, and their codes near ties.
/// Smoothing adds a step: its factors are rounded to what a bf16 norm holds, so that a maximum that is a little different
/// may move a whole column. Then many codes differ, and the divergence does not.
#[test]
fn gives_the_checkpoint_of_the_host() {
    let Some(cuda) = open() else { return };
    let gptq = Algorithm::Gptq(GptqOptions::default());
    let mut wrong = Vec::new();
    for (kind, smooth, keys, algorithm, losses, codes) in [
        (Q8::Int8, true, DType::F32, &gptq, 5e-2, 0.3),
        (Q8::Int8, false, DType::F32, &gptq, 5e-3, 0.02),
        (Q8::E4M3, false, DType::F32, &gptq, 2e-2, 0.06),
        (Q8::Int8, true, DType::BF16, &gptq, 5e-2, 0.3),
        (Q8::E4M3, false, DType::BF16, &Algorithm::Rtn, 1e-3, 0.0),
    ] {
        let [on_host, on_device] = [0; 2].map(|_| tempfile::tempdir().unwrap());
        let run_of = (kind, smooth, Some(keys));
        let expected = host(run_of, algorithm, on_host.path());
        let got = run(&cuda, run_of, algorithm, on_device.path(), None).unwrap();
        assert_eq!(got.smoothing.is_some(), expected.smoothing.is_some());
        let differ = share_of_other_codes(on_device.path(), on_host.path());
        let far = farthest(&got, &expected);
        let (a, b) = (got.quantized.mean, expected.quantized.mean);
        let what = format!(
            "{kind:?}, smoothed {smooth}, keys {keys}, {}: KL {a:.3e}, host {b:.3e}; {:.3} % of codes differ; \
             losses off by {far:.2e}",
            if *algorithm == gptq { "gptq" } else { "rtn" },
            100.0 * differ
        );
        println!("{what}");
        if !(differ <= codes && far <= losses && off(a, b) < 0.2) {
            wrong.push(what);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn share_of_other_codes(a: &Path, b: &Path) -> f64 {
    let (mut wrong, mut all) = (0, 0);
    for ((name, a), (_, b)) in tensors(a).iter().zip(&tensors(b)) {
        assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()), "{name}");
        if Q8::from_dtype(a.dtype()).is_some() {
            (wrong, all) = (wrong + different(a.bytes(), b.bytes()), all + a.len());
        } else if name.ends_with(".k_scale") || name.ends_with(".v_scale") {
            let [a, b] = [a, b].map(|scale| f64::from(scale.to_f32()[0]));
            assert!(off(a, b) < 0.2, "{name}: {a}, host {b}");
        }
    }
    wrong as f64 / all as f64
}

/// How far the losses and errors of two runs are off at most.
fn farthest(got: &Outcome, expected: &Outcome) -> f64 {
    let linears = |o: &Outcome| o.layers.iter().flat_map(|l| l.linears.clone()).collect::<Vec<_>>();
    let mut most = 0.0f64;
    for (a, b) in linears(got).iter().zip(&linears(expected)) {
        let pairs = [(a.proxy_loss, b.proxy_loss), (a.output_error, b.output_error), (a.weight_error, b.weight_error)];
        most = pairs.into_iter().filter_map(|(a, b)| a.zip(b)).fold(most, |most, (a, b)| most.max(off(a, b)));
    }
    most
}

#[test]
fn resumes_to_the_same_bytes() {
    let Some(cuda) = open() else { return };
    let gptq = Algorithm::Gptq(GptqOptions::default());
    let [whole, cut] = [0; 2].map(|_| tempfile::tempdir().unwrap());
    run(&cuda, (Q8::Int8, true, None), &gptq, whole.path(), None).unwrap();
    let error = run(&cuda, (Q8::Int8, true, None), &gptq, cut.path(), Some("model.layers.1.mlp.down_proj"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("model.layers.1.mlp.down_proj"), "{error}");
    assert!(ModelFiles::open(cut.path()).is_err());
    run(&cuda, (Q8::Int8, true, None), &gptq, cut.path(), None).unwrap();
    for ((name, a), (_, b)) in tensors(cut.path()).iter().zip(&tensors(whole.path())) {
        assert_eq!(a.bytes(), b.bytes(), "{name}");
    }
}
