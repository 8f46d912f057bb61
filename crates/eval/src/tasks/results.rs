//! Results in the harness' shape: its JSON and its tables.
use super::list::Group;
use super::metric::{Series, score};
use super::prompt::Question;
use super::run::{Answer, digest};
use super::table::{Cell, markdown};
use super::{Doc, Output, Task, stderr};
use crate::error::Result;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What one task came to.
#[derive(Clone, Debug)]
pub struct TaskResult {
    /// The task.
    pub task: Task,
    /// Few-shot examples.
    pub shots: usize,
    /// Documents of its split.
    pub original: usize,
    /// Its numbers, each with value and standard error.
    pub measured: Vec<Measured>,
    /// Documents that were asked.
    pub documents: usize,
}

/// One number of a task.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What each document contributes.
    pub series: Series,
    /// What it comes to.
    pub value: f64,
    /// Its standard error, if it has one.
    pub stderr: Option<f64>,
}

/// What all tasks came to.
#[derive(Clone, Debug)]
pub struct Results {
    /// Task by task.
    pub tasks: Vec<TaskResult>,
    /// Groups of them, each after those that it is a member of.
    pub groups: Vec<Group>,
}

impl TaskResult {
    /// The numbers of a task from its answers.
    ///
    /// # Errors
    /// An answer does not fit its document.
    pub fn new(task: &Task, shots: usize, docs: &[Doc], answers: &[Answer]) -> Result<TaskResult> {
        let series = score(task, docs, answers)?;
        let measure = |series: Series| {
            let (value, stderr) = (series.value(), series.stderr());
            Measured { series, value, stderr }
        };
        let measured = series.into_iter().map(measure).collect();
        Ok(TaskResult { task: task.clone(), shots, original: docs.len(), measured, documents: answers.len() })
    }
}

/// A line of results: of a task, or of a group.
struct Entry {
    name: String,
    alias: String,
    version: String,
    shots: Option<usize>,
    documents: usize,
    numbers: Vec<Number>,
    is_group: bool,
}

/// One of its numbers.
struct Number {
    metric: &'static str,
    filter: &'static str,
    /// Whether more is better; not said of groups of groups.
    higher: Option<bool>,
    value: f64,
    stderr: Option<f64>,
}

impl Results {
    /// The document that `--json` prints. `config` says how the model was run.
    pub fn to_json(&self, config: Value) -> Value {
        let entries = self.entries();
        let of_groups = |e: &&Entry| self.groups.iter().any(|g| g.name == e.name);
        let numbers = |e: &Entry| (e.name.clone(), e.to_json());
        let mut out = Map::new();
        out.insert("results".into(), entries.iter().map(numbers).collect());
        if !self.groups.is_empty() {
            out.insert("groups".into(), entries.iter().filter(of_groups).map(numbers).collect());
        }
        let subtasks = self.groups.iter().map(|g| (g.name.to_owned(), json!(g.members)));
        out.insert("group_subtasks".into(), subtasks.collect());
        out.insert("configs".into(), sorted(self.tasks.iter().map(|t| (t.task.name.clone(), t.config()))));
        out.insert("versions".into(), sorted(entries.iter().map(|e| (e.name.clone(), e.version()))));
        let shots = entries.iter().filter_map(|e| Some((e.name.clone(), json!(e.shots?))));
        out.insert("n-shot".into(), sorted(shots));
        let directed = entries.iter().filter(|e| e.numbers.iter().any(|n| n.higher.is_some()));
        out.insert("higher_is_better".into(), sorted(directed.map(|e| (e.name.clone(), e.directions()))));
        let counts = |t: &TaskResult| (t.task.name.clone(), json!({"original": t.original, "effective": t.documents}));
        out.insert("n-samples".into(), self.tasks.iter().map(counts).collect());
        out.insert("config".into(), config);
        Value::Object(out)
    }

    /// The harness' table, and one of the groups if there are any.
    pub fn to_text(&self) -> String {
        let entries = self.entries();
        let mut text = self.table("Tasks", &entries.iter().collect::<Vec<_>>());
        let groups: Vec<&Entry> = entries.iter().filter(|e| self.groups.iter().any(|g| g.name == e.name)).collect();
        if !groups.is_empty() {
            text.push('\n');
            text.push_str(&self.table("Groups", &groups));
        }
        text
    }

    /// Tasks first, then groups, the inner ones before the outer.
    fn entries(&self) -> Vec<Entry> {
        self.tasks.iter().map(TaskResult::entry).chain(self.groups.iter().rev().map(|g| self.group(g))).collect()
    }

    /// A group's numbers: means over its tasks, weighted by their documents.
    fn group(&self, group: &Group) -> Entry {
        let tasks = self.leaves(group.name);
        // The harness says nothing of examples and directions where the members are groups themselves.
        let nested = group.members.iter().any(|member| self.groups.iter().any(|g| g.name == member));
        let mut numbers = Vec::new();
        for (i, first) in tasks.first().into_iter().flat_map(|t| t.measured.iter().enumerate()) {
            let of = |t: &&TaskResult| (t.measured[i].value, t.measured[i].stderr, t.documents);
            let parts: Vec<(f64, Option<f64>, usize)> = tasks.iter().map(of).collect();
            let size: usize = parts.iter().map(|p| p.2).sum();
            let value = parts.iter().map(|p| p.0 * p.2 as f64).sum::<f64>() / size as f64;
            let errors: Option<Vec<(f64, usize)>> = parts.iter().map(|p| Some((p.1?, p.2))).collect();
            let stderr = errors.map(|errors| stderr::pooled(&errors));
            let (metric, filter) = (first.series.metric, first.series.filter);
            let higher = (!nested).then_some(metric.higher_is_better());
            numbers.push(Number { metric: metric.name(), filter, higher, value, stderr });
        }
        let shots = tasks.first().map(|t| t.shots).filter(|&shots| !nested && tasks.iter().all(|t| t.shots == shots));
        Entry {
            name: group.name.into(),
            alias: group.alias.into(),
            version: group.version.unwrap_or("N/A").into(),
            shots,
            documents: tasks.iter().map(|t| t.documents).sum(),
            numbers,
            is_group: true,
        }
    }

    /// All tasks below a group.
    pub(super) fn leaves(&self, name: &str) -> Vec<&TaskResult> {
        match self.groups.iter().find(|g| g.name == name) {
            Some(group) => group.members.iter().flat_map(|member| self.leaves(member)).collect(),
            None => self.tasks.iter().filter(|t| t.task.name == name).collect(),
        }
    }

    fn table(&self, column: &str, entries: &[&Entry]) -> String {
        let headers = [column, "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"];
        let mut rows = Vec::new();
        for (entry, depth) in self.in_order(entries) {
            let indent = if depth > 0 { " ".repeat(depth) + "- " } else { String::new() };
            let mut numbers: Vec<_> = entry.numbers.iter().collect();
            numbers.sort_by_key(|n| format!("{},{}", n.metric, n.filter));
            for (i, Number { metric, filter, higher, value, stderr }) in numbers.into_iter().enumerate() {
                let name = if i == 0 { format!("{indent}{}", entry.alias) } else { String::new() };
                let version = entry.version.parse().ok().filter(|_| i == 0).map_or(Cell::text(""), Cell::Number);
                rows.push(vec![
                    Cell::text(name),
                    version,
                    Cell::text(*filter),
                    entry.shots.map_or(Cell::text(" "), |n| Cell::Number(n as f64)),
                    Cell::text(*metric),
                    Cell::text(higher.map_or("", |higher| if higher { "↑" } else { "↓" })),
                    Cell::Number(*value),
                    Cell::text("±"),
                    stderr.map_or(Cell::text("   N/A"), Cell::Number),
                ]);
            }
        }
        markdown(&headers, &rows)
    }

    /// Groups with what is in them, by name, then all others by name; with their depths.
    fn in_order<'e>(&self, entries: &[&'e Entry]) -> Vec<(&'e Entry, usize)> {
        let mut found = Vec::new();
        let inner = |name: &str| self.groups.iter().any(|g| g.members.iter().any(|m| m == name));
        let mut tops: Vec<&str> = self.groups.iter().map(|g| g.name).filter(|name| !inner(name)).collect();
        tops.sort();
        tops.iter().for_each(|top| self.visit(top, 0, entries, &mut found));
        let mut rest: Vec<&&Entry> = entries.iter().filter(|e| !found.iter().any(|f| f.0.name == e.name)).collect();
        rest.sort_by(|a, b| a.name.cmp(&b.name));
        found.extend(rest.into_iter().map(|e| (*e, 0)));
        found
    }

    fn visit<'e>(&self, name: &str, depth: usize, entries: &[&'e Entry], found: &mut Vec<(&'e Entry, usize)>) {
        found.extend(entries.iter().find(|e| e.name == name).map(|e| (*e, depth)));
        let Some(group) = self.groups.iter().find(|g| g.name == name) else { return };
        let mut members: Vec<&String> = group.members.iter().collect();
        members.sort();
        members.iter().for_each(|member| self.visit(member, depth + 1, entries, found));
    }
}

impl TaskResult {
    fn entry(&self) -> Entry {
        let number = |m: &Measured| {
            let (metric, filter) = (m.series.metric, m.series.filter);
            let higher = Some(metric.higher_is_better());
            Number { metric: metric.name(), filter, higher, value: m.value, stderr: m.stderr }
        };
        Entry {
            name: self.task.name.clone(),
            alias: self.task.alias.clone(),
            version: self.task.version.into(),
            shots: Some(self.shots),
            documents: self.documents,
            numbers: self.measured.iter().map(number).collect(),
            is_group: false,
        }
    }

    fn config(&self) -> Value {
        let task = &self.task;
        let output = match task.output {
            Output::MultipleChoice => "multiple_choice",
            Output::Likelihood => "loglikelihood",
            Output::Rolling => "loglikelihood_rolling",
            Output::Generate { .. } => "generate_until",
        };
        let mut config = json!({
            "task": task.name, "dataset_path": task.dataset.repo, "dataset_name": task.dataset.config,
            "description": task.description, "num_fewshot": self.shots, "output_type": output,
            "metadata": {"version": version(task.version)},
        });
        if let Output::Generate { until, max_tokens, .. } = task.output {
            config["generation_kwargs"] =
                json!({"until": until, "do_sample": false, "temperature": 0.0, "max_gen_toks": max_tokens});
        }
        config
    }
}

impl Entry {
    fn to_json(&self) -> Value {
        let mut out = Map::new();
        out.insert("name".into(), json!(self.name));
        out.insert("alias".into(), json!(self.alias));
        out.insert("sample_len".into(), json!(self.documents));
        for Number { metric, filter, value, stderr, .. } in &self.numbers {
            out.insert(format!("{metric},{filter}"), json!(value));
            out.insert(format!("{metric}_stderr,{filter}"), stderr.map_or(json!("N/A"), |x| json!(x)));
        }
        if self.is_group {
            let counts = self.numbers.iter().map(|n| (format!("{},{}", n.metric, n.filter), json!(self.documents)));
            out.insert("sample_count".into(), counts.collect());
        }
        Value::Object(out)
    }

    /// The harness has numbers for tasks and texts for groups.
    fn version(&self) -> Value {
        if self.is_group { json!(self.version) } else { version(&self.version) }
    }

    fn directions(&self) -> Value {
        self.numbers.iter().filter_map(|n| Some((n.metric.to_owned(), json!(n.higher?)))).collect()
    }
}

fn version(text: &str) -> Value {
    text.parse::<f64>().map_or(json!(text), |number| json!(number))
}

fn sorted(fields: impl Iterator<Item = (String, Value)>) -> Value {
    fields.collect::<BTreeMap<_, _>>().into_iter().collect()
}

/// One line for each document, as the harness' `--log_samples`: what was asked and what was answered.
pub fn samples(result: &TaskResult, questions: &[Question], answers: &[Answer]) -> Vec<Value> {
    let mut lines = Vec::new();
    for (item, (question, answer)) in questions.iter().zip(answers).enumerate() {
        let arguments = match question {
            Question::Likelihoods(pairs) => json!(pairs),
            Question::Rolling(text) | Question::Generate(text) => json!([[text]]),
        };
        let scores = result
            .measured
            .iter()
            .map(|m| (format!("{},{}", m.series.metric.name(), m.series.filter), json!(m.series.values[item])));
        let scores: Value = scores.collect();
        lines.push(json!({"task": result.task.name, "doc_id": item, "texts": digest(question),
            "arguments": arguments, "answer": answer, "scores": scores}));
    }
    lines
}
