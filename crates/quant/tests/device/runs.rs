//! A whole run on the device gives the host's checkpoint, but for codes near a tie; a resumed run gives the same.
use super::numbers::{different, off};
use super::open;
use planish_checkpoint::shards::ModelFiles;
use planish_checkpoint::source::TensorSource;
use planish_checkpoint::writer::{CheckpointWriter, WriterOptions};
use planish_checkpoint::{Error, config::Config};
use planish_cpu::{Cpu, Isa};
use planish_model::{Absorber, Input, Plan};
use planish_quant::calibrate::run::{Job, Outcome, quantize};
use planish_quant::calibrate::save::Layout;
use planish_quant::calibrate::solve::Algorithm;
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
    kind: Q8,
    algorithm: &Algorithm,
    dir: &Path,
    broken: Option<&str>,
) -> planish_quant::Result<Outcome> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/base");
    let (config, files) = (Config::open(&data).unwrap(), ModelFiles::open(&data).unwrap());
    let plan = Plan::new(&config).unwrap();
    let sample = |i: u32| (0..20 + 7 * i).map(|j| (i * 97 + j * j * 13 + j) % 256).collect();
    let samples: Vec<Vec<u32>> = (0..24).map(sample).collect();
    let alpha = |_: usize, input: Input| {
        (kind == Q8::Int8).then_some(if matches!(input.absorber(), Absorber::Rows(_)) { 0.5 } else { 0.8 })
    };
    let broken = broken.map(|name| Broken(&files, name.into()));
    let job = Job {
        plan: &plan,
        source: broken.as_ref().map_or(&files, |b| b),
        samples: &samples,
        held_back: &samples[3].iter().map(|t| (t * 5 + 1) % 256).collect::<Vec<_>>(),
        kind,
        alpha: &alpha,
        algorithm: algorithm.clone(),
        quantized: &|_, _| true,
        layout: Layout { scale_name: "weight_scale", scale_dtype: DType::F32, float_dtype: DType::BF16 },
    };
    let options = WriterOptions { resume: true, ..WriterOptions::default() };
    let mut writer = CheckpointWriter::create(dir, options).unwrap();
    let outcome = quantize(b, &job, &mut writer, &mut |_| {})?;
    writer.finish().unwrap();
    Ok(outcome)
}

fn tensors(dir: &Path) -> Vec<(String, HostTensor)> {
    let files = ModelFiles::open(dir).unwrap();
    files.names().into_iter().map(|name| (name.clone(), files.tensor(&name).unwrap())).collect()
}

#[test]
fn gives_the_checkpoint_of_the_host() {
    let Some(cuda) = open() else { return };
    let gptq = Algorithm::Gptq(GptqOptions::default());
    for (kind, algorithm) in [(Q8::Int8, &gptq), (Q8::E4M3, &gptq), (Q8::E4M3, &Algorithm::Rtn)] {
        let [host, device] = [0; 2].map(|_| tempfile::tempdir().unwrap());
        let expected = run(&Cpu::new(2, Isa::best()), kind, algorithm, host.path(), None).unwrap();
        let got = run(&cuda, kind, algorithm, device.path(), None).unwrap();
        println!("{kind:?} {algorithm:?}: KL {} {}", got.quantized.mean, expected.quantized.mean);
        assert!(off(got.quantized.mean, expected.quantized.mean) < 0.05, "{got:?}");
        assert_eq!(got.smoothing.is_some(), expected.smoothing.is_some());
        let linears = |o: &Outcome| o.layers.iter().flat_map(|l| l.linears.clone()).collect::<Vec<_>>();
        for (a, b) in linears(&got).iter().zip(&linears(&expected)) {
            let pairs =
                [(a.proxy_loss, b.proxy_loss), (a.output_error, b.output_error), (a.weight_error, b.weight_error)];
            for (a, b) in pairs.into_iter().filter_map(|(a, b)| a.zip(b)) {
                assert!(off(a, b) < 0.02, "{kind:?}: {a} {b}");
            }
        }
        // Keys in bf16 move maxima and with them smoothing factors a little; without smoothing nothing else may.
        let (mut wrong, mut all) = (0, 0);
        for ((name, a), (_, b)) in tensors(device.path()).iter().zip(&tensors(host.path())) {
            assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()), "{name}");
            if Q8::from_dtype(a.dtype()).is_some() {
                (wrong, all) = (wrong + different(a.bytes(), b.bytes()), all + a.len());
            }
        }
        println!("{kind:?} {algorithm:?}: {wrong} of {all} codes differ");
        assert!(wrong * 50 <= all, "{kind:?}: {wrong} of {all} codes differ");
        assert!(*algorithm != Algorithm::Rtn || wrong == 0, "{wrong}");
    }
}

#[test]
fn resumes_to_the_same_bytes() {
    let Some(cuda) = open() else { return };
    let gptq = Algorithm::Gptq(GptqOptions::default());
    let [whole, cut] = [0; 2].map(|_| tempfile::tempdir().unwrap());
    run(&cuda, Q8::Int8, &gptq, whole.path(), None).unwrap();
    let error = run(&cuda, Q8::Int8, &gptq, cut.path(), Some("model.layers.1.mlp.down_proj")).unwrap_err().to_string();
    assert!(error.contains("model.layers.1.mlp.down_proj"), "{error}");
    assert!(ModelFiles::open(cut.path()).is_err());
    run(&cuda, Q8::Int8, &gptq, cut.path(), None).unwrap();
    for ((name, a), (_, b)) in tensors(cut.path()).iter().zip(&tensors(whole.path())) {
        assert_eq!(a.bytes(), b.bytes(), "{name}");
    }
}
