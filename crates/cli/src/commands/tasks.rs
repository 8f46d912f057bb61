//! Running evaluation tasks on an opened model: the flags that say which and how, for `eval` and `compare`.
use super::bar;
use crate::Global;
use anyhow::{Context, Result, bail};
use clap::Args;
use planish::Pipeline;
use planish::notice::{fetching, say};
use planish_checkpoint::hub::HubClient;
use planish_eval::tasks::data::{Docs, Source};
use planish_eval::tasks::journal::Journal;
use planish_eval::tasks::prompt::{self, Question, Style};
use planish_eval::tasks::results::{Results, TaskResult, samples};
use planish_eval::tasks::run::{Subject, answers};
use planish_eval::tasks::select::Selection;
use planish_eval::tasks::{Output, Task, list};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Which tasks, and how their questions are put.
#[derive(Args, Clone)]
pub struct TaskFlags {
    /// Examples before each question (default: what the task says; most say 0)
    #[arg(long, value_name = "N")]
    pub num_fewshot: Option<usize>,
    /// First N documents of each task only, or a share of them if below 1
    #[arg(long, value_name = "N", value_parser = parse_limit)]
    pub limit: Option<f64>,
    /// Folder with the tasks' rows (jsonl, json, csv or parquet) in place of the hub
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Whether the tokenizer puts its special tokens around each text (default: as the tokenizer says)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub add_bos_token: Option<bool>,
    /// Make conversations of the questions, by the model's chat template
    #[arg(long)]
    pub apply_chat_template: bool,
    /// With the chat template: whether examples are turns of the conversation, or all in one message (default: turns)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", requires = "apply_chat_template")]
    pub fewshot_as_multiturn: Option<bool>,
}

/// Files that a run keeps.
#[derive(Clone, Copy, Default)]
pub struct Kept<'a> {
    /// Finished answers, to go on from.
    pub journal: Option<&'a Path>,
    /// What answers depend on beside the engine's settings, as one word: the model's weights, the kernels' order.
    pub identity: &'a str,
    /// Questions and answers, one line of JSON each.
    pub samples: Option<&'a Path>,
}

/// Questions that are asked at once if the engine runs so many sequences: some are tokenized while others run.
const AHEAD: usize = 2;

/// Runs the chosen tasks. `what` names the model in messages, and in the journal.
pub fn run(
    global: &Global,
    flags: &TaskFlags,
    chosen: &Selection,
    pipeline: &Pipeline,
    what: &str,
    kept: Kept<'_>,
) -> Result<Results> {
    let subject = subject(flags, pipeline, what)?;
    let chat = match (flags.apply_chat_template, pipeline.words().and_then(|words| words.chat.as_ref())) {
        (true, None) => bail!("--apply-chat-template: {what} has no chat template"),
        (true, chat) => chat,
        (false, _) => None,
    };
    let style = Style { chat, multiturn: flags.fewshot_as_multiturn.unwrap_or(true) };
    let mut journal =
        kept.journal.map(|path| Journal::open(path, &settings(flags, &subject, what, kept.identity))).transpose()?;
    if let Some(journal) = journal.as_ref().filter(|j| j.known() > 0 && global.talks()) {
        say(format_args!("note: {} answers are taken from the journal", journal.known()));
    }
    let mut log = kept.samples.map(create).transpose()?;
    let mut source = source(flags, global.talks())?;
    let mut tasks = Vec::with_capacity(chosen.tasks.len());
    for task in &chosen.tasks {
        let (shots, docs, questions) = questions(&mut source, flags, task, style)?;
        let shown = bar(global.talks(), questions.len() as u64, &task.name);
        let mut progress = |done: usize| shown.set_position(done as u64);
        let answers = answers(&subject, task, &questions, journal.as_mut(), &mut progress)?;
        shown.finish_and_clear();
        let result = TaskResult::new(task, shots, &docs.docs, &answers)?;
        if let Some((path, log)) = &mut log {
            for line in samples(&result, &questions, &answers) {
                writeln!(log, "{line}").with_context(|| format!("--log-samples {}", path.display()))?;
            }
        }
        tasks.push(result);
    }
    if let Some((path, log)) = &mut log {
        log.flush().with_context(|| format!("--log-samples {}", path.display()))?;
    }
    Ok(Results { tasks, groups: chosen.groups.clone() })
}

/// Whether the answers to a question are about as long as the question, and so gain from sharing all of it.
pub fn share_finely(chosen: &Selection) -> bool {
    chosen.tasks.iter().all(|task| task.output == Output::MultipleChoice)
}

/// What stands beside the results in JSON.
pub fn config(flags: &TaskFlags, what: &str, pipeline: &Pipeline) -> Value {
    let info = pipeline.handle().info();
    json!({
        "model": what, "device": info.device, "max_length": info.config.max_model_len,
        "batch_size": info.config.max_batch, "limit": flags.limit, "num_fewshot": flags.num_fewshot,
        "data_dir": flags.data_dir, "add_bos_token": flags.add_bos_token,
        "apply_chat_template": flags.apply_chat_template, "bootstrap_iters": 100_000, "fewshot_seed": 1234,
    })
}

/// Names of all tasks and groups, for `--help`.
pub fn help() -> String {
    let subjects = |name: &&str| !name.starts_with("mmlu_") || !list::tasks().iter().any(|t| t.name == **name);
    let (tasks, groups) = (list::tasks(), list::groups());
    let tasks: Vec<&str> = tasks.iter().map(|t| t.name.as_str()).filter(|name| subjects(name)).collect();
    let groups: Vec<&str> = groups.iter().map(|g| g.name).collect();
    format!(
        "Tasks, separated by commas: {}; groups: {}; mmlu's subjects as mmlu_SUBJECT. --list shows all",
        tasks.join(", "),
        groups.join(", ")
    )
}

fn parse_limit(text: &str) -> Result<f64, String> {
    let limit = text.parse().ok().filter(|&n: &f64| n > 0.0 && n.is_finite() && (n < 1.0 || n.fract() == 0.0));
    limit.ok_or_else(|| "expected a whole number from 1 up, or a share between 0 and 1".into())
}

fn subject<'a>(flags: &TaskFlags, pipeline: &'a Pipeline, what: &str) -> Result<Subject<'a>> {
    let words = pipeline.words().with_context(|| format!("{what}: expected tokenizer.json, found none"))?;
    let handle = pipeline.handle();
    let ends = pipeline.eos();
    let missing = || format!("{what}: expected a bos_token or an eos_token in tokenizer_config.json, found none");
    let prefix = words.bos.or(words.eos).or(ends.first().copied()).with_context(missing)?;
    let spelled = |id: u32| words.tokenizer.decode(&[id], false);
    Ok(Subject {
        handle,
        tokenizer: &words.tokenizer,
        prefix,
        prefix_text: spelled(prefix)?,
        eos: ends.to_vec(),
        eos_text: words.eos.map(spelled).transpose()?.unwrap_or_default(),
        add_bos: flags.add_bos_token,
        room: handle.info().config.max_model_len,
        at_once: handle.info().config.max_batch * AHEAD,
    })
}

/// What answers depend on.
fn settings(flags: &TaskFlags, subject: &Subject<'_>, what: &str, identity: &str) -> String {
    let config = &subject.handle.info().config;
    format!(
        "{what} {identity}, device {}, context {}, keys and values {}, math {:?}, 8-bit head {}, special \
         tokens {:?}, chat {}",
        subject.handle.info().device,
        subject.room,
        config.kv_dtype,
        config.math,
        config.int8_head,
        flags.add_bos_token,
        flags.apply_chat_template
    )
}

fn source<'a>(flags: &'a TaskFlags, talks: bool) -> Result<Source<'a>> {
    if let Some(folder) = &flags.data_dir {
        if !folder.is_dir() {
            bail!("--data-dir {}: expected a folder with rows of the tasks", folder.display());
        }
        return Ok(Source::Folder(folder));
    }
    Ok(Source::Hub(Box::new(HubClient::from_env()?), Box::new(fetching(talks))))
}

/// The documents of a task with their questions, up to the limit.
fn questions(
    source: &mut Source<'_>,
    flags: &TaskFlags,
    task: &Task,
    style: Style<'_>,
) -> Result<(usize, Docs, Vec<Question>)> {
    let shots = flags.num_fewshot.unwrap_or(task.shots.default);
    let docs = source.docs(task, task.dataset.split)?;
    let limit = match flags.limit {
        None => docs.docs.len(),
        Some(share) if share < 1.0 => (docs.docs.len() as f64 * share).ceil() as usize,
        Some(number) => number as usize,
    };
    let pool = match task.shots.split {
        Some(split) if shots > 0 => Some(source.docs(task, split)?),
        _ => None,
    };
    let questions = prompt::questions(task, &docs, pool.as_ref().unwrap_or(&docs), shots, limit, style)?;
    Ok((shots, docs, questions))
}

fn create(path: &Path) -> Result<(PathBuf, BufWriter<File>)> {
    let file = File::create(path).with_context(|| format!("--log-samples {}", path.display()))?;
    Ok((path.to_owned(), BufWriter::new(file)))
}
