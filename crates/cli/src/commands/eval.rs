//! `planish eval`: tasks of lm-evaluation-harness, with its prompts, metrics and table.
use super::flags::EngineFlags;
use super::tasks::{self, Kept, TaskFlags};
use super::{check_device, open, print, print_json};
use crate::Global;
use anyhow::Result;
use clap::Args;
use planish::Model;
use planish_eval::tasks::{list, select};
use std::path::PathBuf;

/// Flags of the command.
#[derive(Args)]
pub struct Flags {
    /// Directory, .gguf file or hub id
    #[arg(required_unless_present = "list")]
    model: Option<String>,
    /// Tasks and groups, separated by commas
    #[arg(long, value_delimiter = ',', required_unless_present = "list", long_help = tasks::help())]
    tasks: Vec<String>,
    /// Show all tasks and groups
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    how: TaskFlags,
    /// Sequences that run at once, or auto; results do not depend on it
    #[arg(long, value_name = "N", value_parser = parse_batch, conflicts_with = "max_batch", default_value = "auto")]
    batch_size: Batch,
    /// Keep finished answers in this file, and go on from those that are there
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Write each question with its answer and scores, one line of JSON a document
    #[arg(long, value_name = "FILE")]
    log_samples: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineFlags,
}

/// How many sequences run at once.
#[derive(Clone, Copy)]
struct Batch(Option<usize>);

fn parse_batch(text: &str) -> Result<Batch, String> {
    match text {
        "auto" => Ok(Batch(None)),
        _ => match text.parse() {
            Ok(n) if n > 0 => Ok(Batch(Some(n))),
            _ => Err("expected auto or a number from 1 up".into()),
        },
    }
}

/// Runs the command.
pub fn run(global: &Global, flags: &Flags) -> Result<()> {
    let Some(name) = flags.model.as_ref().filter(|_| !flags.list) else { return show_list(global) };
    let chosen = select::select(&flags.tasks)?;
    check_device(&global.device)?;
    let mut options = flags.engine.options(global);
    options.engine.max_batch = flags.batch_size.0.or(options.engine.max_batch);
    options.engine.offline = true;
    options.engine.fine_pages = tasks::share_finely(&chosen);
    let model = Model::open(name, global.talks())?;
    let pipeline = open(global, &model, &options)?;
    let identity = match &flags.journal {
        Some(_) if flags.engine.batch_invariant => model.weights_digest()? + " batch-invariant",
        Some(_) => model.weights_digest()?,
        None => String::new(),
    };
    let (journal, samples) = (flags.journal.as_deref(), flags.log_samples.as_deref());
    let kept = Kept { journal, samples, identity: &identity };
    let results = tasks::run(global, &flags.how, &chosen, &pipeline, name, kept)?;
    match global.json {
        true => print_json(&results.to_json(tasks::config(&flags.how, name, &pipeline))),
        false => print(&results.to_text()),
    }
}

fn show_list(global: &Global) -> Result<()> {
    let (tasks, groups) = (list::tasks(), list::groups());
    if global.json {
        let tasks: Vec<&str> = tasks.iter().map(|t| t.name.as_str()).collect();
        let groups: Vec<_> = groups.iter().map(|g| serde_json::json!({"name": g.name, "members": g.members})).collect();
        return print_json(&serde_json::json!({"tasks": tasks, "groups": groups}));
    }
    let mut text = String::new();
    for task in &tasks {
        let metrics: Vec<&str> = task.metrics.iter().map(|m| m.name()).collect();
        let examples = task.shots.default;
        text += &format!("{:<40} {examples}-shot  {:<46} {}\n", task.name, metrics.join(", "), task.about);
    }
    for group in &groups {
        text += &format!("{:<40} group   {}\n", group.name, group.about);
    }
    print(&text)
}
