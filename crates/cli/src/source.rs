//! A MODEL as users name it (a directory, a GGUF file, a hub id), opened: configuration, tensors, words.
use crate::notice::fetching;
use crate::words::{self, Words};
use anyhow::{Context, Result, bail};
use planish_checkpoint::companions;
use planish_checkpoint::config::Config;
use planish_checkpoint::digests::hex;
use planish_checkpoint::generation::GenerationDefaults;
use planish_checkpoint::gguf::{GgufDtype, GgufModel, GgufSource};
use planish_checkpoint::hub::HubClient;
use planish_checkpoint::scheme::Scheme;
use planish_checkpoint::shards::ModelFiles;
use planish_checkpoint::source::TensorSource;
use planish_model::Plan;
use planish_model::dummy::DummySource;
use planish_tensor::DType;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Random weights are the same in every run.
const DUMMY_SEED: u64 = 42;

/// An opened model.
pub struct Model {
    /// Where it is on disk.
    pub path: PathBuf,
    /// `config.json`.
    pub config: Config,
    /// Sizes, decided.
    pub plan: Plan,
    /// How it is quantized, if it is.
    pub scheme: Option<Scheme>,
    /// Its tensors.
    pub tensors: Box<dyn TensorSource>,
    /// What its authors suggest for sampling.
    pub generation: GenerationDefaults,
    /// Its words, once somebody asked: reading a tokenizer takes as long as reading the weights.
    words: OnceLock<Option<Words>>,
    /// Files to keep beside a quantized copy.
    pub companions: Vec<(String, Vec<u8>)>,
    /// Bytes of its tensors on disk.
    pub bytes: u64,
}

impl Model {
    /// Opens a directory, a `.gguf` file, or a hub id (fetching what is missing, and telling so on stderr if it `talks`).
    pub fn open(name: &str, talks: bool) -> Result<Model> {
        let path = Path::new(name);
        if path.is_dir() {
            return Model::open_dir(path);
        }
        if path.extension().is_some_and(|e| e == "gguf") {
            return Model::open_gguf(path);
        }
        if path.exists() {
            bail!("{name}: expected a model directory, a .gguf file or a hub id, found another kind of file");
        }
        let client = HubClient::from_env()?;
        let fetched = client.fetch_model(name, "main", &mut fetching(talks));
        let dir = fetched.with_context(|| format!("{name}: no such file or directory; asked the hub"))?;
        match gguf_in(&dir)? {
            Some(file) => Model::open_gguf(&file),
            None => Model::open_dir(&dir),
        }
    }

    /// Tokenizer and template, or an error that says what is missing.
    pub fn words(&self) -> Result<&Words> {
        let missing = || format!("{}: expected tokenizer.json or tokenizer.model, found neither", self.path.display());
        self.find_words()?.with_context(missing)
    }

    /// Tokenizer and template, if the model has them; an error if they cannot be read.
    pub fn find_words(&self) -> Result<Option<&Words>> {
        if let Some(words) = self.words.get() {
            return Ok(words.as_ref());
        }
        let words = words::read(&self.companions, &self.path)?;
        Ok(self.words.get_or_init(|| words).as_ref())
    }

    /// A model of a configuration alone (a directory with `config.json`, or such a file), with random weights whose
    /// linears are of this 8-bit type, or in BF16.
    pub fn dummy(name: &str, quant: Option<DType>) -> Result<Model> {
        let given = Path::new(name);
        let (dir, file) = config_file(given);
        let config = read_config(&file).context("--dummy-weights")?;
        let plan = Plan::new(&config)?;
        let tensors = DummySource::new(&plan, quant, DUMMY_SEED, file);
        let bytes = tensors.bytes();
        let (companions, generation) = (companions::read(dir)?, GenerationDefaults::default());
        let tensors = Box::new(tensors);
        let words = OnceLock::new();
        Ok(Model { path: given.into(), config, plan, scheme: None, tensors, generation, words, companions, bytes })
    }

    /// Every tensor's name, type and shape and its stored bytes at both ends: another model of the same shape differs there,
    /// and reading all of it would take as long as the run.
    pub fn weights_digest(&self) -> Result<String> {
        let mut hasher = Sha256::new();
        for name in self.tensors.names() {
            let ends = self.tensors.ends(&name)?;
            let described =
                format!("{name:?} {} {:?} {} {}\n", ends.dtype, ends.shape, ends.first.len(), ends.last.len());
            hasher.update(described);
            hasher.update(&ends.first);
            hasher.update(&ends.last);
        }
        Ok(hex(&hasher.finalize()))
    }

    /// The plan of a model, or of a config.json; no weights are read.
    pub fn shape(name: &str, talks: bool) -> Result<Plan> {
        let given = Path::new(name);
        if !given.is_dir() && given.extension().is_none_or(|e| e != "json") {
            return Ok(Model::open(name, talks)?.plan);
        }
        Ok(Plan::new(&read_config(&config_file(given).1)?)?)
    }

    fn open_dir(dir: &Path) -> Result<Model> {
        let config = Config::open(dir)?;
        let plan = Plan::new(&config)?;
        let scheme = Scheme::from_config(&config)?;
        let files = ModelFiles::open(dir)?;
        plan.check_tensors(&files).with_context(|| dir.display().to_string())?;
        check_types(&plan, scheme.as_ref(), &files, dir)?;
        let bytes = files.total_bytes();
        let companions = companions::read(dir)?;
        let generation = GenerationDefaults::open(dir)?;
        Ok(Model {
            path: dir.into(),
            config,
            plan,
            scheme,
            tensors: Box::new(files),
            generation,
            words: OnceLock::new(),
            companions,
            bytes,
        })
    }

    fn open_gguf(path: &Path) -> Result<Model> {
        let model = GgufModel::open(path, GgufDtype::Bf16)?;
        let config = Config::from_json(model.config().to_string().as_bytes(), path)?;
        let plan = Plan::new(&config)?;
        let generation_json = pretty(model.generation_config());
        let generation = GenerationDefaults::from_json(&generation_json, path)?;
        let tokenizer = model.tokenizer().clone();
        let tokenizer_json = planish_text::gguf::to_json(&words::vocab(&tokenizer))?.to_string().into_bytes();
        let companions = vec![
            ("tokenizer.json".to_owned(), tokenizer_json),
            ("tokenizer_config.json".to_owned(), pretty(&words::tokenizer_config(&tokenizer))),
            ("generation_config.json".to_owned(), generation_json),
        ];
        let bytes = std::fs::metadata(path)?.len();
        let tensors = Box::new(GgufSource { model, path: path.into() });
        plan.check_tensors(tensors.as_ref()).with_context(|| path.display().to_string())?;
        let words = OnceLock::new();
        Ok(Model { path: path.into(), config, plan, scheme: None, tensors, generation, words, companions, bytes })
    }
}

/// Weights must be stored as the configuration says: codes without their scheme, or floats under one, are not a model.
fn check_types(plan: &Plan, scheme: Option<&Scheme>, files: &ModelFiles, dir: &Path) -> Result<()> {
    for (layer, role) in (0..plan.layers).flat_map(|layer| plan.roles(layer).into_iter().map(move |role| (layer, role)))
    {
        let name = plan.linear_name(layer, role);
        let weight = format!("{name}.weight");
        if !files.contains(&weight) {
            // Said by whoever reads it.
            continue;
        }
        let found = files.tensor(&weight)?.dtype();
        let expected = scheme.and_then(|s| s.for_linear(&name)).map(|l| l.weights.dtype.dtype());
        let fits = match expected {
            Some(dtype) => found == dtype,
            None => matches!(found, DType::F32 | DType::F16 | DType::BF16),
        };
        if !fits {
            let expected = expected.map_or("a float type, as config.json has no quantization for it".into(), |d| {
                format!("{d}, as quantization_config in config.json says")
            });
            bail!("{}: tensor {weight}: expected {expected}, found {found}", dir.display());
        }
    }
    Ok(())
}

fn gguf_in(dir: &Path) -> Result<Option<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "gguf") {
            found.push(path);
        }
    }
    if dir.join("config.json").exists() || found.is_empty() {
        return Ok(None);
    }
    if found.len() > 1 {
        bail!("{}: expected one .gguf file, found {}; name one of them", dir.display(), found.len());
    }
    Ok(found.pop())
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text.into_bytes()
}

/// The folder and the configuration that are meant by either of them.
fn config_file(given: &Path) -> (&Path, PathBuf) {
    match given.is_dir() {
        true => (given, given.join("config.json")),
        false => (given.parent().filter(|p| p != &Path::new("")).unwrap_or(Path::new(".")), given.to_owned()),
    }
}

fn read_config(file: &Path) -> Result<Config> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    Ok(Config::from_json(&bytes, file)?)
}
