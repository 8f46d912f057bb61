//! Text in, text out: a loaded model behind a handle, with its tokenizer and chat template.
use crate::source::{Model, Words};
use anyhow::{Context, Result, bail};
use planish_devices::{Work, with_device};
use planish_engine::{
    EngineOptions, Event, FinishReason, Handle, Request, Sampling, Stream as TokenStream, TokenLogprobs,
};
use planish_tensor::Backend;
use planish_text::{ChatInput, Detokenizer, Message, SpecialText, StopResult, StopStrings};

/// How to open a pipeline.
#[derive(Clone, Debug, Default)]
pub struct PipelineOptions {
    /// `auto` unless given.
    pub device: Option<String>,
    /// Threads of a CPU.
    pub threads: Option<usize>,
    /// The engine's settings.
    pub engine: EngineOptions,
}

/// What to generate.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Most tokens.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Go on after the end-of-text token.
    pub ignore_eos: bool,
    /// Log-probabilities of so many of the likeliest tokens.
    pub logprobs: Option<usize>,
}

impl Default for Generation {
    fn default() -> Self {
        Generation {
            max_new_tokens: 256,
            sampling: Sampling::default(),
            stop: Vec::new(),
            ignore_eos: false,
            logprobs: None,
        }
    }
}

/// A finished answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its text, without special tokens and stop strings.
    pub text: String,
    /// Its tokens.
    pub token_ids: Vec<u32>,
    /// The prompt's tokens.
    pub prompt_token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// For each token, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
}

/// A model ready to answer.
pub struct Pipeline {
    handle: Handle,
    words: Option<Words>,
    eos: Vec<u32>,
}

/// Opens a directory, a GGUF file or a hub id on the best device.
pub fn pipeline(model: &str) -> Result<Pipeline> {
    Pipeline::open(&Model::open(model)?, &PipelineOptions::default())
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
        let handle = with_device(device, options.threads, start)?.with_context(|| model.path.display().to_string())?;
        let mut eos = model.generation.eos_token_ids.clone();
        eos.extend(model.config.eos_token_ids()?);
        Ok(Pipeline { handle, words: model.words.clone(), eos })
    }

    /// The engine.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Answers several prompts in one batch, greedily.
    pub fn run<S: AsRef<str>>(&self, prompts: impl IntoIterator<Item = S>) -> Result<Vec<Answer>> {
        let tokens = prompts.into_iter().map(|p| self.encode(p.as_ref())).collect::<Result<Vec<_>>>()?;
        self.generate(tokens, &Generation::default())
    }

    /// Token ids of a plain prompt, with what the model puts before a text.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        Ok(self.words()?.tokenizer.encode_with_special(prompt)?)
    }

    /// Token ids of a conversation in the model's own template. Special-token text that users wrote stays text.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let words = self.words()?;
        let Some(chat) = &words.chat else { bail!("the model has no chat template: leave out --chat") };
        let rendered = chat.render_plain(&ChatInput::new(messages, true), &words.tokenizer)?;
        Ok(words.tokenizer.encode_chat(&rendered)?)
    }

    /// Token ids of a text with nothing added.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.words()?.tokenizer.encode(text, SpecialText::Plain)?)
    }

    /// Answers prompts given as ids, all in one batch.
    pub fn generate(&self, prompts: Vec<Vec<u32>>, generation: &Generation) -> Result<Vec<Answer>> {
        let streams: Vec<Answering> = prompts.into_iter().map(|p| self.stream(p, generation)).collect::<Result<_>>()?;
        streams.into_iter().map(|s| s.finish(|_| {})).collect()
    }

    /// Starts one answer.
    pub fn stream(&self, prompt: Vec<u32>, generation: &Generation) -> Result<Answering> {
        let stop_ids = if generation.ignore_eos { Vec::new() } else { self.eos.clone() };
        let request = Request {
            prompt: prompt.clone(),
            sampling: generation.sampling.clone(),
            max_new_tokens: generation.max_new_tokens,
            stop_ids,
            logprobs: generation.logprobs,
            ..Request::default()
        };
        let tokens = self.handle.generate(request)?;
        let detokenizer = self.words.as_ref().map(|w| Detokenizer::after(w.tokenizer.clone(), &prompt, true));
        Ok(Answering { tokens, detokenizer, stops: StopStrings::new(generation.stop.clone())?, prompt })
    }

    fn words(&self) -> Result<&Words> {
        self.words.as_ref().context("the model has no tokenizer.json: give --input-ids")
    }
}

/// An answer in the making.
pub struct Answering {
    tokens: TokenStream,
    detokenizer: Option<Detokenizer>,
    stops: StopStrings,
    prompt: Vec<u32>,
}

impl Answering {
    /// Waits for the end; `show` sees each piece of text as it becomes certain.
    pub fn finish(mut self, mut show: impl FnMut(&str)) -> Result<Answer> {
        let mut answer = Answer {
            text: String::new(),
            token_ids: Vec::new(),
            prompt_token_ids: std::mem::take(&mut self.prompt),
            finish_reason: FinishReason::Length,
            logprobs: Vec::new(),
        };
        let mut emit = |text: &str, answer: &mut Answer| {
            show(text);
            answer.text.push_str(text);
        };
        loop {
            match self.tokens.next() {
                Some(Event::Prompt(_)) => {}
                Some(Event::Token { id, logprobs, .. }) => {
                    answer.token_ids.push(id);
                    answer.logprobs.extend(logprobs);
                    let piece = match &mut self.detokenizer {
                        Some(d) => d.push(id)?.unwrap_or_default(),
                        None => continue,
                    };
                    match self.stops.push(&piece) {
                        StopResult::Text(text) => emit(&text, &mut answer),
                        StopResult::Stopped { text, .. } => {
                            emit(&text, &mut answer);
                            answer.finish_reason = FinishReason::Stop;
                            return Ok(answer);
                        }
                    }
                }
                Some(Event::Done { reason, .. }) => {
                    answer.finish_reason = reason;
                    let rest = match &mut self.detokenizer {
                        Some(d) => d.finish()?,
                        None => String::new(),
                    };
                    let stopped = self.stops.push(&rest);
                    match stopped {
                        StopResult::Text(text) => {
                            emit(&text, &mut answer);
                            let held = self.stops.finish();
                            emit(&held, &mut answer);
                        }
                        StopResult::Stopped { text, .. } => emit(&text, &mut answer),
                    }
                    return Ok(answer);
                }
                Some(Event::Failed(e)) => return Err(e.into()),
                None => return Err(planish_engine::Error::Stopped.into()),
            }
        }
    }
}
