//! From the names that a user gives to tasks and groups.
use super::Task;
use super::list::{Group, groups, tasks};
use crate::error::{Error, Result};
use planish_checkpoint::nearest::nearest;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Tasks, each once, in the order in which they were named.
    pub tasks: Vec<Task>,
    /// Groups among them, each after those that it is a member of.
    pub groups: Vec<Group>,
}

/// Finds the tasks of a list of names of tasks and groups; `*` in a name stands for any letters.
///
/// # Errors
/// A name is not known (the nearest that is comes with it), a pattern is nobody's, or there is none.
pub fn select<S: AsRef<str>>(names: &[S]) -> Result<Selection> {
    let (tasks, groups) = (tasks(), groups());
    let mut chosen = Selection { tasks: Vec::new(), groups: Vec::new() };
    for name in names.iter().map(|name| name.as_ref().trim()).filter(|name| !name.is_empty()) {
        let known = groups.iter().map(|g| g.name).chain(tasks.iter().map(|t| t.name.as_str()));
        let meant: Vec<&str> = known.filter(|known| matches(name, known)).collect();
        if meant.is_empty() {
            add(name, &tasks, &groups, &mut chosen)?;
        }
        meant.into_iter().try_for_each(|name| add(name, &tasks, &groups, &mut chosen))?;
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
        let known: Vec<&str> = tasks.iter().map(|t| t.name.as_str()).chain(groups.iter().map(|g| g.name)).collect();
        return Err(Error::UnknownTask { found: name.into(), nearest: nearest(name, &known).map(str::to_owned) });
    };
    if group.version.is_some() && !chosen.groups.iter().any(|g| g.name == name) {
        chosen.groups.push(group.clone());
    }
    group.members.iter().try_for_each(|member| add(member, tasks, groups, chosen))
}

/// Whether a name is `pattern`, in which `*` stands for any letters, as on the harness' command line.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(before) else { return false };
    rest.char_indices().map(|(i, _)| i).chain([rest.len()]).any(|i| matches(after, &rest[i..]))
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
    fn stars_stand_for_any_letters() {
        let names = |pattern: &str| select(&[pattern]).unwrap().tasks.into_iter().map(|t| t.name).collect::<Vec<_>>();
        assert_eq!(names("arc_*"), ["arc_easy", "arc_challenge"]);
        assert_eq!(names("mmlu_*_us_*y"), ["mmlu_high_school_us_history"]);
        assert_eq!((names("*").len(), names("mmlu*").len(), names("mmlu").len()), (67, 57, 57));
        assert!(matches("*", "") && matches("a*", "a") && matches("**a", "xa") && !matches("a*b", "acbd"));
    }

    #[test]
    fn unknown_names_come_with_the_nearest() {
        let message = |name: &str| select(&[name]).unwrap_err().to_string();
        assert!(message("helaswag").starts_with("--tasks: unknown task helaswag: did you mean hellaswag?"));
        assert!(message("mmlu_stems").contains("mmlu_stem?"));
        assert!(message("zzzzzzzz").starts_with("--tasks: unknown task zzzzzzzz; `planish eval --list`"));
        assert!(message("mmlu_*y_of_everything").contains("unknown task mmlu_*y"));
        assert!(select(&["", " "]).is_err());
    }
}
