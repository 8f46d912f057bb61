//! Text in, text out: a loaded model behind a handle, with its tokenizer and chat template.
use crate::answer::{Answer, Answering};
use crate::batch::Batch;
use crate::source::Model;
use crate::words::Words;
use anyhow::{Context, Result, anyhow, bail};
use planish_devices::{Opening, Work, give_back_unused, with_device};
use planish_engine::{EngineOptions, Grammar, GrammarSpec, Handle, Request, Sampling, Vocabulary};
use planish_tensor::{Backend, DType};
use planish_text::{ChatInput, Message, SpecialText};

/// Names of the types of keys and values; `auto` is the model's own choice.
pub const KV_DTYPES: [(&str, Option<DType>); 5] = [
    ("auto", None),
    ("f32", Some(DType::F32)),
    ("bf16", Some(DType::BF16)),
    ("int8", Some(DType::I8)),
    ("fp8", Some(DType::F8E4M3)),
];

/// The type of one of these names.
pub fn kv_dtype(name: &str) -> Option<DType> {
    KV_DTYPES.into_iter().find(|(known, _)| *known == name).and_then(|(_, dtype)| dtype)
}

/// How to open a pipeline.
#[derive(Clone, Debug, Default)]
pub struct PipelineOptions {
    /// `auto` unless given.
    pub device: Option<String>,
    /// Threads of a CPU, and whether answers may depend on what else is in the batch.
    pub opening: Opening,
    /// The engine's settings.
    pub engine: EngineOptions,
}

/// What to generate.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Most tokens.
    pub max_new_tokens: usize,
    /// Tokens before a stop token may be chosen.
    pub min_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Answers to each prompt.
    pub n: usize,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Tokens that end the answer, besides the model's own.
    pub stop_ids: Vec<u32>,
    /// Go on after the end-of-text token.
    pub ignore_eos: bool,
    /// Log-probabilities of so many of the likeliest tokens.
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt.
    pub prompt_logprobs: Option<usize>,
    /// Requests with a smaller number go first.
    pub priority: i32,
    /// Only requests of the same salt share cached prefixes.
    pub cache_salt: Option<String>,
    /// What each answer must be. It then ends where the grammar does, whatever `ignore_eos` says.
    pub grammar: Option<GrammarSpec>,
}

impl Default for Generation {
    fn default() -> Self {
        Generation {
            max_new_tokens: 256,
            min_new_tokens: 0,
            sampling: Sampling::default(),
            n: 1,
            stop: Vec::new(),
            stop_ids: Vec::new(),
            ignore_eos: false,
            logprobs: None,
            prompt_logprobs: None,
            priority: 0,
            cache_salt: None,
            grammar: None,
        }
    }
}

/// A model ready to answer.
pub struct Pipeline {
    handle: Handle,
    words: Option<Words>,
    vocabulary: Option<Vocabulary>,
    eos: Vec<u32>,
}

/// Opens a directory, a GGUF file or a hub id on the best device.
pub fn pipeline(model: &str) -> Result<Pipeline> {
    Pipeline::open(&Model::open(model, true)?, &PipelineOptions::default())
}

struct Start<'a> {
    model: &'a Model,
    options: &'a EngineOptions,
}

impl Work for Start<'_> {
    type Output = planish_engine::Result<Handle>;
    fn run<B: Backend>(self, backend: B) -> Self::Output {
        Handle::start(backend, self.model.plan.clone(), self.model.tensors.as_ref(), self.options)
    }
}

impl Pipeline {
    /// Loads an opened model.
    pub fn open(model: &Model, options: &PipelineOptions) -> Result<Pipeline> {
        let device = options.device.as_deref().unwrap_or("auto");
        let start = Start { model, options: &options.engine };
        // Words and weights are read at the same time: both take long, and neither needs the other.
        let (handle, words) = std::thread::scope(|scope| {
            let words = scope.spawn(|| {
                let words = model.find_words();
                // Before the weights are all there: what reading took should not count on top of them.
                give_back_unused();
                words
            });
            (with_device(device, options.opening, start), words.join())
        });
        let handle = handle?.with_context(|| model.path.display().to_string())?;
        let words = words.map_err(|_| anyhow!("{}: reading the tokenizer panicked", model.path.display()))??.cloned();
        let mut eos = model.generation.eos_token_ids.clone();
        eos.extend(model.config.eos_token_ids()?);
        let tokens = |w: &Words| Vocabulary::new(w.tokenizer.clone(), eos.clone(), model.plan.vocab);
        let vocabulary = words.as_ref().map(tokens);
        Ok(Pipeline { handle, words, vocabulary, eos })
    }

    /// The engine.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The words, if the model has any.
    pub fn words(&self) -> Option<&Words> {
        self.words.as_ref()
    }

    /// Tokens that end a text.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The engine, the words and the tokens that end a text, for those who run requests in their own way.
    pub fn into_parts(self) -> (Handle, Option<Words>, Vec<u32>) {
        (self.handle, self.words, self.eos)
    }

    /// Answers several prompts in one batch, greedily.
    pub fn run<S: AsRef<str>>(&self, prompts: impl IntoIterator<Item = S>) -> Result<Vec<Answer>> {
        let tokens = prompts.into_iter().map(|p| self.encode(p.as_ref())).collect::<Result<Vec<_>>>()?;
        self.generate(tokens, &Generation::default())
    }

    /// Token ids of a plain prompt, with what the model puts before a text.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        Ok(self.need_words()?.tokenizer.encode_with_special(prompt)?)
    }

    /// Token ids of a conversation in the model's own template. Special-token text that users wrote stays text.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.encode_conversation(&ChatInput::new(messages, true))
    }

    /// The same with all that a template may be given.
    pub fn encode_conversation(&self, input: &ChatInput) -> Result<Vec<u32>> {
        let words = self.need_words()?;
        let Some(chat) = &words.chat else { bail!("the model has no chat template: leave out --chat") };
        let rendered = chat.render_plain(input, &words.tokenizer)?;
        Ok(words.tokenizer.encode_chat(&rendered)?)
    }

    /// Whether a prompt ends within the model's reasoning, which its template began.
    pub fn begins_reasoning(&self, prompt: &[u32]) -> bool {
        let tail = &prompt[prompt.len().saturating_sub(16)..];
        let text = self.words.as_ref().map(|words| words.tokenizer.decode(tail, false));
        text.and_then(Result::ok).is_some_and(|text| planish_serve::reasoning::is_begun_by(&text))
    }

    /// Token ids of a text with nothing added.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.need_words()?.tokenizer.encode(text, SpecialText::Plain)?)
    }

    /// Answers prompts given as ids, all in one batch: `n` answers to the first, then those to the second, …
    pub fn generate(&self, prompts: Vec<Vec<u32>>, generation: &Generation) -> Result<Vec<Answer>> {
        Batch::start(self, prompts.into_iter().map(|prompt| (prompt, generation)))?.finish()
    }

    /// Answers one prompt given as ids; `show` sees each piece of text as it becomes certain, with the number of its
    /// answer.
    pub fn stream(
        &self,
        prompt: Vec<u32>,
        generation: &Generation,
        mut show: impl FnMut(usize, &str),
    ) -> Result<Vec<Answer>> {
        let mut answering = self.answering(prompt.clone(), generation)?;
        for event in self.handle.generate(self.request(prompt, generation)?)? {
            if answering.take(event, &mut show)? {
                return Ok(answering.into_answers());
            }
        }
        Err(planish_engine::Error::Stopped.into())
    }

    /// What the engine is asked for one prompt.
    pub fn request(&self, prompt: Vec<u32>, generation: &Generation) -> Result<Request> {
        let grammar = generation.grammar.as_ref().map(|spec| self.compile(spec)).transpose()?;
        let mut stop_ids = generation.stop_ids.clone();
        if !generation.ignore_eos || grammar.is_some() {
            stop_ids.extend(&self.eos);
        }
        Ok(Request {
            prompt,
            sampling: generation.sampling.clone(),
            n: generation.n,
            max_new_tokens: generation.max_new_tokens,
            min_new_tokens: generation.min_new_tokens,
            stop_ids,
            logprobs: generation.logprobs,
            prompt_logprobs: generation.prompt_logprobs,
            priority: generation.priority,
            cache_salt: generation.cache_salt.clone(),
            grammar,
        })
    }

    /// A grammar over this model's tokens; the same one is compiled once.
    fn compile(&self, spec: &GrammarSpec) -> Result<Grammar> {
        let missing = "structured output: expected tokenizer.json beside the model, found none";
        let vocabulary = self.vocabulary.as_ref().context(missing)?;
        Ok(Grammar::compile(vocabulary, spec)?)
    }

    /// Nothing yet of the answers to one prompt.
    pub(crate) fn answering(&self, prompt: Vec<u32>, generation: &Generation) -> Result<Answering> {
        let tokenizer = self.words.as_ref().map(|w| &w.tokenizer);
        Answering::new(prompt, generation.n, &generation.stop, tokenizer)
    }

    fn need_words(&self) -> Result<&Words> {
        self.words.as_ref().context("the model has no tokenizer.json: give --input-ids")
    }
}
