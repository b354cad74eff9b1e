//! What a change of a definition would change, field by field.
//!
//! Compared are complete definitions in the textual form that a job file has, so a default that one
//! side writes out and the other leaves out is no difference, and neither is another spelling of the
//! same value (`60m` and `1h`).

use serde_json::Value;

use super::spec;
use crate::pb::path::keyed;
use crate::pb::v1 as pb;
use crate::state::spec::JobSpec;

/// The fields whose values differ, in the order of their paths.
#[must_use]
pub fn changes(from: &JobSpec, to: &JobSpec) -> Vec<pb::FieldChange> {
    let text = |spec: &JobSpec| {
        serde_json::to_value(spec::to_pb(spec)).expect("a definition that was checked has a textual form")
    };
    let mut changes = Vec::new();
    compare("", Some(&text(from)), Some(&text(to)), &mut changes);
    changes
}

fn compare(path: &str, from: Option<&Value>, to: Option<&Value>, changes: &mut Vec<pb::FieldChange>) {
    if from == to {
        return;
    }
    if let (Some(Value::Object(_)) | None, Some(Value::Object(_)) | None) = (from, to) {
        for key in keys(from, to) {
            let below = |value: Option<&Value>| value.and_then(|value| value.get(&key)).cloned();
            compare(&keyed(path, &key), below(from).as_ref(), below(to).as_ref(), changes);
        }
        return;
    }
    let (ours, theirs) = (mappings(from), mappings(to));
    if let (Some(ours), Some(theirs)) = (ours, theirs) {
        let count = ours.len().max(theirs.len());
        for place in 0..count {
            // a job file with one schedule does not write it as a list
            let path = if count == 1 { path.to_owned() } else { format!("{path}[{place}]") };
            compare(&path, ours.get(place), theirs.get(place), changes);
        }
        return;
    }
    changes.push(pb::FieldChange { path: path.to_owned(), from: from.map(text), to: to.map(text) });
}

/// The keys of both sides, each once.
fn keys(from: Option<&Value>, to: Option<&Value>) -> std::collections::BTreeSet<String> {
    let objects = [from, to].into_iter().flatten().filter_map(Value::as_object);
    objects.flat_map(|object| object.keys().cloned()).collect()
}

/// The elements of a list of mappings, which are compared one by one; other lists are one value.
fn mappings(value: Option<&Value>) -> Option<&[Value]> {
    match value {
        None => Some(&[]),
        Some(Value::Array(list)) if list.iter().all(Value::is_object) => Some(list),
        Some(_) => None,
    }
}

/// A value as a job file has it.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::state::schedule::Rule;
    use crate::state::spec::{Program, RetryOn, Target};
    use crate::view::fixture::minutely;

    /// What `change` changes, one field a line: `path: from -> to`.
    fn changed(change: impl FnOnce(&mut JobSpec)) -> Vec<String> {
        let before = minutely("a");
        let mut after = before.clone();
        change(&mut after);
        let told = |side: Option<String>| side.unwrap_or_else(|| "nothing".to_owned());
        let changes = changes(&before, &after).into_iter();
        changes
            .map(|change| format!("{}: {} -> {}", change.path, told(change.from), told(change.to)))
            .collect()
    }

    #[test]
    fn the_same_definition_has_no_changes() {
        assert_eq!(changed(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn each_field_that_differs_is_named_with_both_values() {
        let found = changed(|spec| {
            spec.timeout = Duration::from_secs(5_400);
            spec.retry.on = vec![RetryOn::Timeout, RetryOn::Http(500, 599)];
            spec.retry.max_attempts += 1;
            spec.labels.insert("a.b".to_owned(), "x".to_owned());
            spec.labels.remove("team");
            spec.description = "other".to_owned();
        });
        assert_eq!(
            found,
            [
                "description: nothing -> other",
                "labels[\"a.b\"]: nothing -> x",
                "labels.team: a -> nothing",
                "retry.max_attempts: 1 -> 2",
                "retry.on: nothing -> [\"timeout\",\"http:5xx\"]",
                "timeout: 1m -> 1h30m",
            ]
        );
    }

    #[test]
    fn one_schedule_is_no_list_and_several_are() {
        let line = |text: &str| text.to_owned();
        let found = changed(|spec| {
            if let Rule::Cron { line: cron, .. } = &mut spec.schedules[0].rule {
                *cron = line("0 * * * *");
            }
        });
        assert_eq!(found, ["schedule.cron: * * * * * -> 0 * * * *"]);
        let found = changed(|spec| {
            let mut second = spec.schedules[0].clone();
            second.rule = Rule::Every { period: Duration::from_secs(60), offset: Duration::ZERO };
            spec.schedules.push(second);
        });
        assert!(found.contains(&line("schedule[1].every: nothing -> 1m")), "{found:?}");
        assert!(found.iter().all(|change| change.starts_with("schedule[1].")), "{found:?}");
        let found = changed(|spec| spec.schedules.clear());
        assert!(found.contains(&line("schedule.cron: * * * * * -> nothing")), "{found:?}");
    }

    #[test]
    fn another_kind_of_target_shows_what_goes_and_what_comes() {
        let found = changed(|spec| {
            spec.target = Target::Exec {
                program: Program::Command(vec!["true".to_owned(), "x".to_owned()]),
                env: [].into(),
                cwd: None,
                stdin: None,
            };
        });
        assert_eq!(
            found,
            ["target.exec.command: nothing -> [\"true\",\"x\"]", "target.exec.shell: true -> nothing",]
        );
    }
}
