//! The list of tasks: help, errors and documentation come from it.
use super::data::Dataset;
use super::{Choice, Filter, Metric, Output, Shots, Task, read};
use planish_checkpoint::Result;

/// Tasks that are measured and shown together.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: &'static str,
    /// What it is called in tables, below its group.
    pub alias: &'static str,
    /// What it is, for `--help` and the documentation.
    pub about: &'static str,
    /// Version of the harness' declaration; none for a mere name for several tasks, which has no result of its own.
    pub version: Option<&'static str>,
    /// Its groups and tasks.
    pub members: Vec<String>,
}

const ACC: &[Metric] = &[Metric::Acc];
const ACC_NORM: &[Metric] = &[Metric::Acc, Metric::AccNorm];
const GSM8K: Output = Output::Generate {
    until: &["Question:", "</s>", "<|im_end|>"],
    max_tokens: 256,
    filters: &[
        Filter { name: "strict-match", pattern: r"#### (\-?[0-9\.\,]+)", last: false },
        Filter { name: "flexible-extract", pattern: r"(-?[$0-9.,]{2,})|(-?[0-9]+)", last: true },
    ],
};
/// From the training split, a document never being its own example: what the harness does where a task has no test split.
const TRAIN: Shots = Shots { default: 0, split: Some("train"), choice: Choice::Random, excludes_itself: true };
/// From the training split of a task with a test split.
const TRAIN_OF_TEST: Shots = Shots { excludes_itself: false, ..TRAIN };
const DEV: Shots = Shots { default: 0, split: Some("dev"), choice: Choice::First, excludes_itself: false };

/// All tasks.
pub fn tasks() -> Vec<Task> {
    let five = Shots { default: 5, ..TRAIN_OF_TEST };
    let own = Shots { split: None, ..TRAIN_OF_TEST };
    let gsm8k = Dataset::new("openai/gsm8k", Some("main"), "test", &["gsm8k"]);
    let wikitext = Dataset::new("EleutherAI/wikitext_document_level", Some("wikitext-2-raw-v1"), "test", &["wikitext"]);
    let lambada = Dataset::new("EleutherAI/lambada_openai", Some("default"), "test", &["lambada_openai", "lambada"]);
    let hellaswag = Dataset::new("Rowan/hellaswag", None, "validation", &["hellaswag"]);
    let easy = Dataset::new("allenai/ai2_arc", Some("ARC-Easy"), "test", &["ARC-Easy", "arc_easy"]);
    let challenge = Dataset::new("allenai/ai2_arc", Some("ARC-Challenge"), "test", &["ARC-Challenge", "arc_challenge"]);
    let piqa = Dataset::new("baber/piqa", None, "validation", &["piqa"]);
    let winogrande = Dataset::new("allenai/winogrande", Some("winogrande_xl"), "validation", &["winogrande"]);
    let openbookqa = Dataset::new("allenai/openbookqa", Some("main"), "test", &["openbookqa"]);
    let boolq = Dataset::new("aps/super_glue", Some("boolq"), "validation", &["boolq"]);
    let mut tasks = vec![
        task("gsm8k", "grade-school mathematics, worked out", "3.0", gsm8k, five, read::gsm8k, GSM8K, EXACT),
        task("wikitext", "perplexity of WikiText-2", "2.0", wikitext, NO_SHOTS, read::wikitext, Output::Rolling, PPL),
        task("hellaswag", "how a story goes on", "1.0", hellaswag, TRAIN, read::hellaswag, CHOICE, ACC_NORM),
        task("arc_easy", "school science, easy", "1.0", easy, TRAIN_OF_TEST, read::arc, CHOICE, ACC_NORM),
        task("arc_challenge", "school science, hard", "1.0", challenge, TRAIN_OF_TEST, read::arc, CHOICE, ACC_NORM),
        task("piqa", "everyday physics", "1.0", piqa, TRAIN, read::piqa, CHOICE, ACC_NORM),
        task("winogrande", "whom a pronoun means", "1.0", winogrande, TRAIN, read::winogrande, CHOICE, ACC),
        task("openbookqa", "elementary science", "1.0", openbookqa, TRAIN_OF_TEST, read::openbookqa, CHOICE, ACC_NORM),
        task("boolq", "yes or no, after a passage", "2.0", boolq, TRAIN, read::boolq, CHOICE, ACC),
        task("lambada_openai", "the last word", "1.0", lambada, own, read::lambada, Output::Likelihood, LAST_WORD),
    ];
    tasks.extend(SUBJECTS.iter().flat_map(|(_, subjects)| *subjects).map(|subject| mmlu(subject)));
    tasks
}

const CHOICE: Output = Output::MultipleChoice;
const EXACT: &[Metric] = &[Metric::ExactMatch];
const PPL: &[Metric] = &[Metric::WordPerplexity, Metric::BytePerplexity, Metric::BitsPerByte];
const LAST_WORD: &[Metric] = &[Metric::Perplexity, Metric::Acc];
const NO_SHOTS: Shots = Shots { split: None, ..TRAIN_OF_TEST };

fn task(
    name: &'static str,
    about: &'static str,
    version: &'static str,
    dataset: Dataset,
    shots: Shots,
    read: fn(&read::Reader<'_>) -> Result<super::Doc>,
    output: Output,
    metrics: &'static [Metric],
) -> Task {
    let (name, alias, description) = (name.into(), name.into(), String::new());
    Task { name, alias, about, version, dataset, shots, description, read, output, metrics }
}

fn mmlu(subject: &'static str) -> Task {
    let dataset = Dataset::new("cais/mmlu", Some(subject), "test", &[subject]);
    let of = subject.replace('_', " ");
    Task {
        name: format!("mmlu_{subject}"),
        alias: subject.into(),
        description: format!("The following are multiple choice questions (with answers) about {of}.\n\n"),
        ..task("", "a subject of MMLU", "1.0", dataset, DEV, read::mmlu, CHOICE, ACC)
    }
}

/// All groups. Each stands after those that it is a member of.
pub fn groups() -> Vec<Group> {
    let mmlu = |category: &str| format!("mmlu_{category}");
    let mut groups = vec![
        Group {
            name: "ai2_arc",
            alias: "ai2_arc",
            about: "arc_easy and arc_challenge",
            version: None,
            members: vec!["arc_easy".into(), "arc_challenge".into()],
        },
        Group {
            name: "mmlu",
            alias: "mmlu",
            about: "57 subjects in four groups, each weighted by its questions",
            version: Some("2"),
            members: SUBJECTS.iter().map(|((category, _), _)| mmlu(category)).collect(),
        },
    ];
    for ((category, alias), subjects) in SUBJECTS {
        let members = subjects.iter().map(|subject| mmlu(subject)).collect();
        let name = match *category {
            "stem" => "mmlu_stem",
            "other" => "mmlu_other",
            "social_sciences" => "mmlu_social_sciences",
            _ => "mmlu_humanities",
        };
        groups.push(Group { name, alias, about: "a part of mmlu", version: Some("2"), members });
    }
    groups
}

/// MMLU's subjects by category: its name, its name in tables, and what belongs to it.
const SUBJECTS: &[((&str, &str), &[&str])] = &[
    (
        ("stem", "stem"),
        &[
            "abstract_algebra",
            "anatomy",
            "astronomy",
            "college_biology",
            "college_chemistry",
            "college_computer_science",
            "college_mathematics",
            "college_physics",
            "computer_security",
            "conceptual_physics",
            "electrical_engineering",
            "elementary_mathematics",
            "high_school_biology",
            "high_school_chemistry",
            "high_school_computer_science",
            "high_school_mathematics",
            "high_school_physics",
            "high_school_statistics",
            "machine_learning",
        ],
    ),
    (
        ("other", "other"),
        &[
            "business_ethics",
            "clinical_knowledge",
            "college_medicine",
            "global_facts",
            "human_aging",
            "management",
            "marketing",
            "medical_genetics",
            "miscellaneous",
            "nutrition",
            "professional_accounting",
            "professional_medicine",
            "virology",
        ],
    ),
    (
        ("social_sciences", "social sciences"),
        &[
            "econometrics",
            "high_school_geography",
            "high_school_government_and_politics",
            "high_school_macroeconomics",
            "high_school_microeconomics",
            "high_school_psychology",
            "human_sexuality",
            "professional_psychology",
            "public_relations",
            "security_studies",
            "sociology",
            "us_foreign_policy",
        ],
    ),
    (
        ("humanities", "humanities"),
        &[
            "formal_logic",
            "high_school_european_history",
            "high_school_us_history",
            "high_school_world_history",
            "international_law",
            "jurisprudence",
            "logical_fallacies",
            "moral_disputes",
            "moral_scenarios",
            "philosophy",
            "prehistory",
            "professional_law",
            "world_religions",
        ],
    ),
];
