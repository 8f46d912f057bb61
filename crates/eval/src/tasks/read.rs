//! From rows to documents: what each task makes of the fields of its data set, as the hub has them and as plain
//! collections of `{question, choices, label}` have them.
use super::python::capitalize;
use planish_checkpoint::rows::{Row, Rows};
use planish_checkpoint::{Error, Result};
use serde_json::Value;

/// What a task asks of one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Doc {
    /// A question and its possible answers.
    Choice {
        /// Before each answer.
        query: String,
        /// The answers.
        choices: Vec<String>,
        /// Which is right.
        gold: usize,
    },
    /// Several contexts of one continuation.
    Blank {
        /// Beginnings of the sentence.
        contexts: Vec<String>,
        /// Its end.
        rest: String,
        /// Which beginning is right.
        gold: usize,
    },
    /// A question with an answer in words.
    Text {
        /// The question.
        query: String,
        /// The answer.
        target: String,
    },
    /// A text to be predicted.
    Page {
        /// As the data set has it: its words and bytes count.
        original: String,
        /// As the model reads it.
        text: String,
    },
}

/// A row being read. Errors name file, row and field.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The file.
    pub rows: &'a Rows,
    /// The row.
    pub row: &'a Row,
}

impl Reader<'_> {
    fn has(&self, field: &str) -> bool {
        self.row.fields.contains_key(field)
    }

    fn error(&self, field: &str, expected: &str) -> Error {
        self.rows.error(self.row, field, expected)
    }

    fn text(&self, field: &str) -> Result<String> {
        let text = self.row.fields.get(field).and_then(Value::as_str);
        text.map(str::to_owned).ok_or_else(|| self.error(field, "a text"))
    }

    /// A list of at least one text that are not empty; `field` may be `choices.text`.
    fn texts(&self, field: &str) -> Result<Vec<String>> {
        let list = self.value(field).and_then(Value::as_array).filter(|list| !list.is_empty());
        let texts = list.and_then(|list| list.iter().map(|v| v.as_str().map(str::to_owned)).collect());
        let texts: Option<Vec<String>> = texts;
        texts.filter(|t| t.iter().all(|t| !t.is_empty())).ok_or_else(|| self.error(field, "a list of texts"))
    }

    fn value(&self, field: &str) -> Option<&Value> {
        match field.split_once('.') {
            Some((outer, inner)) => self.row.fields.get(outer)?.get(inner),
            None => self.row.fields.get(field),
        }
    }

    /// A number below `count`, given as a number, as its digits, or as true and false.
    fn index(&self, field: &str, count: usize) -> Result<usize> {
        let number = match self.value(field) {
            Some(Value::Number(n)) => n.as_u64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(Value::Bool(b)) => Some(*b as u64),
            _ => None,
        };
        let number = number.map(|n| n as usize).filter(|&n| n < count);
        number.ok_or_else(|| self.error(field, &format!("a number from 0 to {}", count - 1)))
    }

    /// The choices of a plain collection, and which is right.
    fn choices(&self) -> Result<(Vec<String>, usize)> {
        let choices = self.texts("choices")?;
        let gold = self.index("label", choices.len())?;
        Ok((choices, gold))
    }

    /// Choices with labels of their own, and the label of the right one.
    fn labelled(&self) -> Result<(Vec<String>, usize)> {
        if self.value("choices").is_some_and(Value::is_array) {
            return self.choices();
        }
        let (choices, labels) = (self.texts("choices.text")?, self.texts("choices.label")?);
        let key = self.text("answerKey")?;
        let gold = labels.iter().position(|label| label == key.trim_start());
        match gold.filter(|&gold| gold < choices.len()) {
            Some(gold) => Ok((choices, gold)),
            None => Err(self.error("answerKey", "one of choices.label")),
        }
    }
}

/// openai/gsm8k.
pub fn gsm8k(row: &Reader<'_>) -> Result<Doc> {
    let query = format!("Question: {}\nAnswer:", row.text("question")?);
    Ok(Doc::Text { query, target: row.text("answer")? })
}

/// EleutherAI/wikitext_document_level.
pub fn wikitext(row: &Reader<'_>) -> Result<Doc> {
    let original = row.text("page")?;
    let text = super::detokenize::wikitext(&original);
    Ok(Doc::Page { original, text })
}

/// Rowan/hellaswag; of a plain collection the context is in one piece, `ctx`.
pub fn hellaswag(row: &Reader<'_>) -> Result<Doc> {
    let context = match row.has("activity_label") {
        true => {
            let (label, a, b) = (row.text("activity_label")?, row.text("ctx_a")?, row.text("ctx_b")?);
            format!("{label}: {a} {}", capitalize(&b))
        }
        false => row.text("ctx")?,
    };
    let endings = row.texts("endings")?;
    let gold = row.index("label", endings.len())?;
    let choices = endings.iter().map(|ending| super::detokenize::hellaswag(ending)).collect();
    Ok(Doc::Choice { query: super::detokenize::hellaswag(&context), choices, gold })
}

/// allenai/ai2_arc.
pub fn arc(row: &Reader<'_>) -> Result<Doc> {
    let (choices, gold) = row.labelled()?;
    Ok(Doc::Choice { query: format!("Question: {}\nAnswer:", row.text("question")?), choices, gold })
}

/// baber/piqa.
pub fn piqa(row: &Reader<'_>) -> Result<Doc> {
    let (goal, choices, gold) = match row.has("goal") {
        true => (row.text("goal")?, vec![row.text("sol1")?, row.text("sol2")?], row.index("label", 2)?),
        false => {
            let (choices, gold) = row.choices()?;
            (row.text("question")?, choices, gold)
        }
    };
    Ok(Doc::Choice { query: format!("Question: {goal}\nAnswer:"), choices, gold })
}

/// allenai/winogrande: each option in the place of `_` is a context, what follows is the continuation of both.
pub fn winogrande(row: &Reader<'_>) -> Result<Doc> {
    let (field, options, gold) = match row.has("sentence") {
        true => {
            let answer = row.index("answer", 3)?;
            let gold = answer.checked_sub(1).ok_or_else(|| row.error("answer", "1 or 2"))?;
            ("sentence", vec![row.text("option1")?, row.text("option2")?], gold)
        }
        false => {
            let (choices, gold) = row.choices()?;
            ("question", choices, gold)
        }
    };
    let sentence = row.text(field)?;
    let (before, after) = sentence.split_once('_').ok_or_else(|| row.error(field, "a text with _"))?;
    let contexts = options.iter().map(|option| format!("{before}{option}")).collect();
    Ok(Doc::Blank { contexts, rest: super::python::strip(after).into(), gold })
}

/// allenai/openbookqa.
pub fn openbookqa(row: &Reader<'_>) -> Result<Doc> {
    let field = if row.has("question_stem") { "question_stem" } else { "question" };
    let (choices, gold) = row.labelled()?;
    Ok(Doc::Choice { query: row.text(field)?, choices, gold })
}

/// boolq of aps/super_glue; of a plain collection without passages the question alone.
pub fn boolq(row: &Reader<'_>) -> Result<Doc> {
    let question = row.text("question")?;
    let query = match row.has("passage") {
        true => format!("{}\nQuestion: {question}?\nAnswer:", row.text("passage")?),
        false => format!("Question: {question}\nAnswer:"),
    };
    Ok(Doc::Choice { query, choices: vec!["no".into(), "yes".into()], gold: row.index("label", 2)? })
}

/// EleutherAI/lambada_openai: the last word after all others.
pub fn lambada(row: &Reader<'_>) -> Result<Doc> {
    let text = row.text("text")?;
    let (query, word) = text.rsplit_once(' ').unwrap_or(("", &text));
    Ok(Doc::Text { query: query.into(), target: format!(" {word}") })
}

/// cais/mmlu; of CSV the choices have fields of their own.
pub fn mmlu(row: &Reader<'_>) -> Result<Doc> {
    const LETTERS: [&str; 4] = ["A", "B", "C", "D"];
    let choices = match row.has("choices") {
        true => row.texts("choices")?,
        false => {
            ["choice0", "choice1", "choice2", "choice3"].map(|f| row.text(f)).into_iter().collect::<Result<_>>()?
        }
    };
    let [a, b, c, d] = &choices[..] else { return Err(row.error("choices", "four texts")) };
    let letter = row.value("answer").and_then(Value::as_str).and_then(|s| LETTERS.iter().position(|l| *l == s.trim()));
    let gold = letter.map_or_else(|| row.index("answer", 4), Ok)?;
    let question = row.text("question")?;
    let query = format!("{}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:", super::python::strip(&question));
    Ok(Doc::Choice { query, choices: LETTERS.map(str::to_owned).into(), gold })
}
