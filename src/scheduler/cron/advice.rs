//! What would be right for a line as a whole: the nearest valid form.
//!
//! Every line that an advice names has been read without complaint, so that none sends people from one
//! refusal to the next.

use super::CronRule;
use super::error::CronError;
use super::field::Manner;
use super::parse::Words;
use crate::scheduler::spread::Spread;
use crate::state::schedule::{DayRule, Dialect};

/// The error, with the nearest valid form of the line where there is one.
pub(super) fn advised(error: CronError, line: &str, dialect: Dialect, day_rule: DayRule) -> CronError {
    let words = Words::split(0, line);
    let words: Vec<&str> = words.list().iter().map(|(_, word)| *word).collect();
    let hint = match dialect {
        Dialect::Unix => for_unix(&error, &words, day_rule),
        Dialect::Quartz => for_quartz(&error, &words),
        Dialect::Aws => for_aws(&error, &words, line),
    };
    match hint {
        Some(hint) => CronError::Advised { error: Box::new(error), hint },
        None => error,
    }
}

fn reads(line: &str, dialect: Dialect, day_rule: DayRule) -> bool {
    CronRule::read(line, Manner { dialect, spread: Spread::default() }, day_rule).is_ok()
}

fn for_unix(error: &CronError, words: &[&str], day_rule: DayRule) -> Option<String> {
    if let (CronError::ForeignCharacter { .. }, [.., day, _, weekday]) = (error, words) {
        if *day == "?" || *weekday == "?" {
            let plain: Vec<&str> = words.iter().map(|word| if *word == "?" { "*" } else { word }).collect();
            let plain = plain.join(" ");
            if reads(&plain, Dialect::Unix, day_rule) {
                return Some(format!("write `*`: `{plain}`"));
            }
        }
        let quartz = match words {
            five @ [_, _, _, _, _] => to_quartz("0", five)?,
            [second, five @ ..] if five.len() == 5 => to_quartz(second, five)?,
            _ => return None,
        };
        return Some(format!("with `dialect: quartz` write `{quartz}`"));
    }
    let [first, .., last] = words else { return None };
    if words.len() != 6 || error.field().is_none() {
        return None;
    }
    let is_year = last.len() == 4 && last.bytes().all(|byte| byte.is_ascii_digit());
    let with_second = format!("0 {}", words.join(" "));
    if is_year && reads(&with_second, Dialect::Unix, day_rule) {
        return Some(format!(
            "six fields begin with the second; with a year there are seven: `{with_second}`"
        ));
    }
    // the second is the commonest one too many, then a user as in /etc/crontab
    let without = [(first, words[1..].join(" ")), (last, words[..5].join(" "))];
    let (surplus, five) = without.iter().rev().find(|(_, five)| reads(five, Dialect::Unix, day_rule))?;
    Some(format!("six fields begin with the second; without `{surplus}` there are five: `{five}`"))
}

fn for_quartz(error: &CronError, words: &[&str]) -> Option<String> {
    match (error, words) {
        (CronError::FieldCount { .. }, five @ [_, _, _, _, _]) => {
            Some(format!("quartz begins with the second: `{}`", to_quartz("0", five)?))
        }
        (CronError::FieldCount { .. }, [word]) if word.starts_with('@') => {
            Some("macros belong to `dialect: unix`".to_owned())
        }
        (CronError::QuestionMarks { .. }, [..]) => {
            with_question_mark(words, 3, Dialect::Quartz).map(|line| format!("write `{line}`"))
        }
        _ => None,
    }
}

fn for_aws(error: &CronError, words: &[&str], line: &str) -> Option<String> {
    let line = line.trim_ascii();
    match (error, words) {
        _ if line.starts_with("rate(") => Some("write `every: 5m` instead of a rate".to_owned()),
        _ if line.starts_with("at(") => Some("write `at: 2026-12-01T09:00:00Z` instead".to_owned()),
        (CronError::FieldCount { .. }, five @ [_, _, _, _, _]) => {
            let line = [five, &["*"]].concat();
            let line = with_question_mark(&line, 2, Dialect::Aws)?;
            Some(format!("aws ends with the year: `{line}`"))
        }
        (CronError::QuestionMarks { .. }, [..]) => {
            with_question_mark(words, 2, Dialect::Aws).map(|line| format!("write `{line}`"))
        }
        _ => None,
    }
}

/// The line with `?` in the one of the day fields that restricts nothing; `day` is where those begin.
fn with_question_mark(words: &[&str], day: usize, dialect: Dialect) -> Option<String> {
    let open = |place: usize| words.get(place).is_some_and(|word| matches!(*word, "*" | "?"));
    let place = [day + 2, day].into_iter().find(|place| open(*place))?;
    let mut words = words.to_vec();
    for each in [day, day + 2] {
        let word = words.get_mut(each)?;
        *word = match *word {
            _ if each == place => "?",
            "?" => "*",
            other => other,
        };
    }
    Some(words.join(" ")).filter(|line| reads(line, dialect, DayRule::OrVixie))
}

/// Five fields as a line of quartz: weekdays by name, for the numbers differ, and `?` where it is needed.
fn to_quartz(second: &str, five: &[&str]) -> Option<String> {
    let [minute, hour, day, month, weekday] = five else { return None };
    let names = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"];
    let mut named = String::new();
    let mut before = ' ';
    for character in weekday.chars() {
        match character.to_digit(8).and_then(|digit| names.get(digit as usize)) {
            // the number behind them is no weekday
            Some(name) if !matches!(before, '#' | '/') => named.push_str(name),
            _ => named.push(character),
        }
        before = character;
    }
    let words = [second, minute, hour, day, month, &named];
    let line = words.join(" ");
    if reads(&line, Dialect::Quartz, DayRule::OrVixie) {
        return Some(line);
    }
    with_question_mark(&words, 3, Dialect::Quartz)
}
