//! From the names that a user gives to tasks and groups.
use super::Task;
use super::list::{Group, groups, tasks};
use crate::error::{Error, Result};

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Tasks, each once, in the order in which they were named.
    pub tasks: Vec<Task>,
    /// Groups among them, each after those that it is a member of.
    pub groups: Vec<Group>,
}

/// Finds the tasks of a list of names of tasks and groups.
///
/// # Errors
/// A name is not known (the nearest that is comes with it), or there is none.
pub fn select<S: AsRef<str>>(names: &[S]) -> Result<Selection> {
    let (tasks, groups) = (tasks(), groups());
    let mut chosen = Selection { tasks: Vec::new(), groups: Vec::new() };
    for name in names.iter().map(|name| name.as_ref().trim()).filter(|name| !name.is_empty()) {
        add(name, &tasks, &groups, &mut chosen)?;
    }
    match chosen.tasks.is_empty() {
        true => Err(Error::NoTask),
        false => Ok(chosen),
    }
}

fn add(name: &str, tasks: &[Task], groups: &[Group], chosen: &mut Selection) -> Result<()> {
    if let Some(task) = tasks.iter().find(|task| task.name == name) {
        if !chosen.tasks.iter().any(|t| t.name == name) {
            chosen.tasks.push(task.clone());
        }
        return Ok(());
    }
    let Some(group) = groups.iter().find(|group| group.name == name) else {
        let known = tasks.iter().map(|t| t.name.as_str()).chain(groups.iter().map(|g| g.name));
        return Err(Error::UnknownTask { found: name.into(), nearest: nearest(name, known).into() });
    };
    if group.version.is_some() && !chosen.groups.iter().any(|g| g.name == name) {
        chosen.groups.push(group.clone());
    }
    group.members.iter().try_for_each(|member| add(member, tasks, groups, chosen))
}

/// The known name with the fewest changed letters.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    known.min_by_key(|known| distance(name, known)).unwrap_or_default()
}

/// Letters to insert, drop or change to make one word of the other (Levenshtein 1966).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + (x != *y) as usize;
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_bring_their_tasks() {
        let chosen = select(&["piqa", "mmlu", " piqa"]).unwrap();
        assert_eq!((chosen.tasks.len(), chosen.groups.len()), (58, 5));
        assert_eq!((chosen.tasks[0].name.as_str(), chosen.groups[0].name), ("piqa", "mmlu"));
        assert_eq!(
            chosen.tasks[1].description.lines().next(),
            Some("The following are multiple choice questions (with answers) about abstract algebra.")
        );
        let arc = select(&["ai2_arc"]).unwrap();
        assert_eq!((arc.tasks.len(), arc.groups.len()), (2, 0));
        for group in groups() {
            assert!(select(&[group.name]).is_ok());
        }
    }

    #[test]
    fn unknown_names_come_with_the_nearest() {
        let message = |name: &str| select(&[name]).unwrap_err().to_string();
        assert!(message("helaswag").starts_with("--tasks: unknown task helaswag: did you mean hellaswag?"));
        assert!(message("mmlu_stems").contains("mmlu_stem?"));
        assert!(select(&["", " "]).is_err());
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
