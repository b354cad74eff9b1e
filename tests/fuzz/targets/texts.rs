//! Texts that people write: schedules, spans, instants, job files, configuration.

use chronarch::api::spec::from_pb;
use chronarch::client::job_file::{self, Format};
use chronarch::config::{Config, Overrides};
use chronarch::import::{self, Loss, back, import};
use chronarch::pb::{path, span};
use chronarch::scheduler::almanac::Almanac;
use chronarch::scheduler::cron::LINE_BYTES_MAX;
use chronarch::scheduler::english::explain;
use chronarch::scheduler::recurrence;
use chronarch::scheduler::rule::CompiledSchedule;
use chronarch::scheduler::solar;
use chronarch::scheduler::spread::Spread;
use chronarch::state::run::RunId;
use chronarch::state::schedule::{DayRule, Dialect, Fold, Gap, Rule, Schedule};
use chronarch::state::time::Timestamp;
use chronarch::view;

/// Occurrences that are asked for, one after the other.
const OCCURRENCES: usize = 20;
/// Where that begins: the far past, a clock change in Europe, the far future, the end.
const FROM: [i64; 4] = [Timestamp::MIN.millis(), 1_774_745_000_000, 4_417_977_600_000, 253_402_300_000_000];

/// Two bytes of choices, a zone up to the first line feed, and a rule: refused, or its occurrences ascend.
pub(crate) fn schedule(bytes: &[u8]) {
    let [choices, kind, text @ ..] = bytes else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let (timezone, line) = text.split_once('\n').unwrap_or(("UTC", text));
    let (gaps, folds) = ([Gap::RunAtEnd, Gap::Shift, Gap::Skip], [Fold::First, Fold::Second, Fold::Both]);
    let day_rules = [DayRule::OrVixie, DayRule::OrBare, DayRule::And];
    let pick = |shift: u8| usize::from(choices >> shift & 3) % 3;
    let cron = |dialect| Rule::Cron { line: line.to_owned(), dialect, day_rule: day_rules[pick(4)] };
    let rule = match kind % 6 {
        0 => cron(Dialect::Unix),
        1 => cron(Dialect::Quartz),
        2 => cron(Dialect::Aws),
        3 => Rule::Recurrence(line.to_owned()),
        4 => Rule::Calendar(line.to_owned()),
        _ => match solar::parse(line) {
            Ok((event, place)) => Rule::Solar { event, place },
            Err(error) => return drop((error.to_string(), error.hint())),
        },
    };
    let schedule = Schedule {
        rule,
        timezone: timezone.to_owned(),
        gap: gaps[pick(0)],
        fold: folds[pick(2)],
        start_at: None,
        end_at: None,
        jitter: std::time::Duration::ZERO,
        count: None,
        exclude: Vec::new(),
        only: Vec::new(),
    };
    match CompiledSchedule::compile(&schedule, Spread::of("default", timezone), &Almanac::bundled()) {
        Ok(compiled) => {
            let most = if kind % 6 == 3 { recurrence::TEXT_BYTES_MAX } else { LINE_BYTES_MAX };
            assert!(line.trim().len() <= most, "a line beyond the limit is taken");
            let told = explain(&schedule, Spread::of("default", timezone), &Almanac::bundled());
            assert!(told.is_ok_and(|sentences| !sentences.is_empty()), "{line:?} cannot be told");
            FROM.iter().for_each(|from| ascend(&compiled, Timestamp::from_millis(*from)));
        }
        Err(error) => drop((error.to_string(), error.hint())),
    }
}

fn ascend(schedule: &CompiledSchedule, from: Timestamp) {
    let mut at = from;
    for _ in 0..OCCURRENCES {
        let Some(next) = schedule.next_after(at) else { return };
        assert!(next > at && next <= Timestamp::MAX, "{next} after {at}");
        assert_eq!(schedule.describe(next).at, next);
        let after_it = next.plus(std::time::Duration::from_millis(1));
        assert_eq!(schedule.last_before(after_it), Some(next), "backwards it is another one");
        assert_eq!(schedule.count_between(next, next, 9), 1, "{next} is counted otherwise than it is found");
        at = next;
    }
}

/// A span, an instant, a run id, a path: what is read and written again is read as the same.
pub(crate) fn value(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(read) = span::parse(text) {
        assert_eq!(span::parse(&span::format(read)).as_ref(), Ok(&read), "{text}");
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        assert_eq!(at.to_string().parse(), Ok(at), "{text}");
    }
    if let Ok(run) = text.parse::<RunId>() {
        assert_eq!(run.to_string(), text);
    }
    let (steps, said) = path::read(text);
    if steps.is_empty() {
        assert_eq!(said, text.strip_prefix(": ").unwrap_or(text));
    } else {
        // Long keys are cut where a path is written, so it is what is written that is read as the same.
        let written = path::write(&steps);
        let line = format!("{written}: {said}");
        let (again, rest) = path::read(&line);
        assert_eq!((path::write(&again), rest), (written, said), "{text}");
    }
}

/// A byte that names the format, and a job file: refused with places, or definitions that the server refuses with
/// paths or takes, and gives back as they are.
pub(crate) fn job_file(bytes: &[u8]) {
    let Some((format, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let format = [Format::Yaml, Format::Json, Format::Toml][usize::from(*format) % 3];
    match job_file::read("fuzz", format, text) {
        Ok(documents) => {
            drop(job_file::doubled(&documents));
            for document in documents {
                match from_pb(&document.spec) {
                    Ok(spec) => {
                        let shown = view::spec::to_pb(&spec);
                        assert_eq!(from_pb(&shown).ok(), Some(spec), "it is shown otherwise than it is");
                    }
                    Err(problems) => {
                        for problem in problems.list() {
                            drop(document.place(&path::read(&format!("{}: ", problem.path)).0));
                        }
                    }
                }
            }
        }
        Err(problems) => {
            assert!(!problems.is_empty() && problems.len() <= job_file::PROBLEMS_MAX);
            problems.iter().for_each(|problem| drop(problem.to_string()));
        }
    }
}

/// The scheduler of another, by the first byte, choices in the second, and a file of it, of which systemd has two parted
/// by a zero: each job that comes of it would be taken, and what is lost has a line of the file.
pub(crate) fn foreign(bytes: &[u8]) {
    let [format, choices, text @ ..] = bytes else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let formats = [
        ("crontab", import::Format::Crontab),
        ("yaml", import::Format::Kubernetes),
        ("timer", import::Format::Systemd),
        ("json", import::Format::Dkron),
        ("xml", import::Format::WindowsTask),
        ("xml", import::Format::Quartz),
        ("json", import::Format::Celery),
    ];
    let (end, format) = formats[usize::from(*format) % formats.len()];
    let (text, other) = text.split_once('\0').unwrap_or((text, ""));
    let files = [(format!("a.{end}"), text.to_owned()), ("a.service".to_owned(), other.to_owned())];
    let files = if other.is_empty() { &files[..1] } else { &files };
    let options = import::Options {
        timezone: (choices & 1 > 0).then(|| "Europe/Berlin".to_owned()),
        namespace: if choices & 2 > 0 { "team".to_owned() } else { String::new() },
        names_users: [None, Some(false), Some(true), None][usize::from(choices >> 2 & 3)],
    };
    let made = import(format, files, &options);
    // The end of a file has a line of its own behind the last line end.
    let lines = text.split('\n').count().max(other.split('\n').count());
    for finding in &made.findings {
        assert!((1..=lines).contains(&finding.place.line), "of {lines} lines: {finding:?}");
        assert!(!finding.what.is_empty() && !matches!(finding.loss.word(), ""), "{finding:?}");
    }
    let jobs: Vec<_> = made.drafts.into_iter().map(|draft| draft.spec).collect();
    for job in &jobs {
        assert!(from_pb(job).is_ok(), "a server refuses {job:?}");
    }
    // What goes back to cron says the same when it is read again, but for its name.
    let written = back::export(back::Format::Crontab, &jobs, &back::Options::default());
    let name = "a.crontab".to_owned();
    let again = import(import::Format::Crontab, &[(name, written.text)], &import::Options::default());
    let unread: Vec<_> = again.findings.iter().filter(|finding| finding.loss == Loss::Unread).collect();
    assert!(unread.is_empty() && again.drafts.len() == written.jobs, "{unread:?}");
    drop(back::export(back::Format::Kubernetes, &jobs, &back::Options::default()));
}

/// A node's configuration.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Config::read("fuzz", text, Overrides::default()) {
        Ok(config) => assert!(!config.client_address().is_empty() && !config.peer_address().is_empty()),
        Err(error) => assert!(!error.problems.is_empty(), "refused without a reason"),
    }
}
