//! `schedule next`: the occurrences of a schedule, offline.
//!
//! With `-` as the expression it answers requests, one JSON object a line, until standard input
//! ends: other programs check their reading of a schedule against ours with it, some million times
//! over one process. A request that is refused is answered by its `error`, and the next one is
//! read; the exit code tells at the end that there was one.

use std::io::{self, BufRead, Read};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use super::args::{instant, span};
use super::occurrences::Wanted;
use super::printer::Printer;
use super::{Context, Failure, occurrences, tables};
use crate::clock::Clock;
use crate::pb::v1;
use crate::pb::word::{self, Words};
use crate::scheduler::solar;
use crate::scheduler::spread::Spread;
use crate::state::schedule::{DayRule, Dialect, Fold, Gap, Rule, Schedule};
use crate::state::time::Timestamp;

/// Occurrences in one answer at most.
const COUNT_MAX: u32 = 100_000;
/// The longest request line; a list of 10,000 instants fits.
const LINE_BYTES_MAX: usize = 512 << 10;
/// Occurrences in an answer unless the request says otherwise.
const COUNT_DEFAULT: u32 = 10;

const EXAMPLES: &str = "\
Examples:
  chronarch schedule next '30 2 * * *' --timezone Europe/Berlin --after 2026-03-28T00:00:00Z
  chronarch schedule next 90m --kind every --offset 15m --count 3
  chronarch schedule next 2026-12-01T09:00:00Z,2026-12-24T09:00:00Z --kind at
  chronarch schedule next '0 0 6 LW * ?' --dialect quartz --explain
  chronarch schedule next 'DTSTART:20260105T090000 RRULE:FREQ=MONTHLY;BYDAY=-1FR' --kind rrule --timezone Europe/Berlin
  chronarch schedule next 'Mon..Fri *-*-* 09:00' --kind calendar --before 2026-03-01T00:00:00Z
  chronarch schedule next 'sunset 52.52 13.405' --kind solar
  echo '{\"expr\":\"0 9 * * mon\",\"timezone\":\"Asia/Tokyo\",\"count\":2}' | chronarch schedule next -";

#[derive(Debug, Subcommand)]
pub(super) enum ScheduleCommand {
    /// Shows the next occurrences of a schedule, or the last ones, odd days marked
    Next(NextArgs),
}

#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct NextArgs {
    /// A cron line, a duration such as 90m, instants separated by commas, properties of RFC 5545, a
    /// calendar event of systemd, or an event of the sun with latitude and longitude, as --kind says; `-`
    /// reads requests from standard input, one JSON object a line with the names of the flags:
    /// {"kind","expr","dialect","day_rule","timezone","gap","fold","offset","from","job","after","before","count","explain"}
    expr: String,
    /// How the expression is read
    #[arg(long, value_enum, default_value = "cron")]
    kind: Kind,
    /// Dialect of a cron line: unix, quartz, aws
    #[arg(long, value_name = "DIALECT", default_value = "unix", value_parser = dialect)]
    dialect: Dialect,
    /// How day-of-month and day-of-week combine: or_vixie, or_bare, and
    #[arg(long, value_name = "RULE", default_value = "or_vixie", value_parser = day_rule)]
    day_rule: DayRule,
    /// IANA name of the zone of the wall times
    #[arg(long, value_name = "TZ", default_value = "UTC")]
    timezone: String,
    /// A wall time that does not exist that day: run_at_end, shift, skip. Default: run_at_end, and
    /// shift for --kind rrule
    #[arg(long, value_name = "G", value_parser = gap)]
    gap: Option<Gap>,
    /// A wall time that comes twice that day: first, second, both
    #[arg(long, value_name = "F", default_value = "first", value_parser = fold)]
    fold: Fold,
    /// Phase of `--kind every`, such as 15m
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = span)]
    offset: Duration,
    /// What `--kind every` is counted from: epoch, completion (of the last run, here the instant of --after)
    #[arg(long, value_name = "FROM", default_value = "epoch", value_parser = every_from)]
    from: v1::EveryFrom,
    /// The job that `H` and `~` are drawn for: NAME, of the namespace `default`, or NAMESPACE/NAME
    #[arg(long, value_name = "JOB", default_value = "")]
    job: String,
    /// Occurrences after this instant (RFC 3339). Default: now
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    after: Option<Timestamp>,
    /// The last occurrences before this instant instead, the newest first
    #[arg(long, value_name = "INSTANT", value_parser = instant, conflicts_with = "after")]
    before: Option<Timestamp>,
    /// Tell in plain English what the schedule means
    #[arg(long)]
    explain: bool,
    /// How many, 1 to 100000
    #[arg(long, value_name = "N", default_value_t = COUNT_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=i64::from(COUNT_MAX)))]
    count: u32,
}

/// How an expression is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A cron line, as --dialect says, or a macro such as @daily
    Cron,
    /// A duration, counted as --from says
    Every,
    /// Instants in RFC 3339, separated by commas
    At,
    /// Properties of RFC 5545: DTSTART, RRULE, EXDATE, RDATE, separated by blanks or line ends
    Rrule,
    /// A calendar event as systemd writes it
    Calendar,
    /// An event of the sun, a latitude and a longitude
    Solar,
}

/// A request on standard input; what is left out is as with the flags.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Request {
    kind: Option<String>,
    expr: String,
    dialect: Option<String>,
    day_rule: Option<String>,
    timezone: Option<String>,
    gap: Option<String>,
    fold: Option<String>,
    offset: Option<String>,
    from: Option<String>,
    job: Option<String>,
    after: Option<String>,
    before: Option<String>,
    count: Option<u32>,
    explain: Option<bool>,
}

/// The answer to a request that is refused.
#[derive(Serialize)]
struct Refused {
    error: String,
    hint: Option<String>,
}

pub(super) fn carry_out(
    ScheduleCommand::Next(args): &ScheduleCommand,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    if args.expr == "-" {
        let mut input = io::stdin().lock();
        return answer_lines(&mut input, args, &context.clock, printer);
    }
    let found = next(args, &context.clock)?;
    occurrences::print(&found, printer)?;
    if found.occurrences.is_empty() {
        printer.note(tables::NO_OCCURRENCE);
    }
    Ok(())
}

fn rule(args: &NextArgs) -> Result<Rule, Failure> {
    let refused = |message| Failure::Schedule { message, hint: None };
    Ok(match args.kind {
        Kind::Cron => Rule::Cron { line: args.expr.clone(), dialect: args.dialect, day_rule: args.day_rule },
        Kind::Every => {
            let period = span(&args.expr).map_err(refused)?;
            match args.from {
                v1::EveryFrom::Unspecified | v1::EveryFrom::Epoch => {
                    Rule::Every { period, offset: args.offset }
                }
                v1::EveryFrom::Completion => Rule::AfterCompletion { period },
            }
        }
        Kind::At => {
            let instants = args.expr.split(',').map(|text| instant(text.trim()));
            Rule::At(instants.collect::<Result<_, _>>().map_err(refused)?)
        }
        Kind::Rrule => Rule::Recurrence(args.expr.clone()),
        Kind::Calendar => Rule::Calendar(args.expr.clone()),
        Kind::Solar => {
            let (event, place) = solar::parse(&args.expr).map_err(|error| Failure::Schedule {
                message: format!("solar: {error}"),
                hint: error.hint(),
            })?;
            Rule::Solar { event, place }
        }
    })
}

fn next(args: &NextArgs, clock: &Clock) -> Result<v1::NextOccurrencesResponse, Failure> {
    let rule = rule(args)?;
    let schedule = Schedule {
        gap: args.gap.unwrap_or_else(|| rule.usual_gap()),
        rule,
        timezone: args.timezone.clone(),
        fold: args.fold,
        start_at: None,
        end_at: None,
        jitter: Duration::ZERO,
        count: None,
        exclude: Vec::new(),
        only: Vec::new(),
    };
    let (namespace, name) = args.job.split_once('/').unwrap_or(("default", &args.job));
    let spread = Spread::of(namespace, name);
    let wanted = match args.before {
        Some(before) => Wanted::Before(before),
        None => Wanted::After(args.after.unwrap_or_else(|| clock.now())),
    };
    let mut found = occurrences::find(&schedule, spread, wanted, args.count)?;
    if args.explain {
        found.explanation = occurrences::explained(&schedule, spread)?;
    }
    Ok(found)
}

/// Answers one request a line, each at once, until the input ends.
fn answer_lines(
    input: &mut impl BufRead,
    defaults: &NextArgs,
    clock: &Clock,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let (mut asked, mut refused) = (0, 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let failure = |source| Failure::File { path: "-".to_owned(), source };
        let length = input.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line);
        if length.map_err(failure)? == 0 {
            break;
        }
        if line.len() > LINE_BYTES_MAX {
            let too_long = io::Error::other(format!("a request is longer than {LINE_BYTES_MAX} bytes"));
            return Err(failure(too_long));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        asked += 1;
        match answer(&line, defaults, clock) {
            Ok(found) => printer.json_line(&found)?,
            Err(failure) => {
                refused += 1;
                printer.json_line(&Refused { error: failure.to_string(), hint: failure.hint() })?;
            }
        }
    }
    if refused > 0 { Err(Failure::Requests { refused, asked }) } else { Ok(()) }
}

fn answer(line: &[u8], defaults: &NextArgs, clock: &Clock) -> Result<v1::NextOccurrencesResponse, Failure> {
    let request: Request = serde_json::from_slice(line).map_err(|error| Failure::Schedule {
        message: format!("the request is not understood: {error}"),
        hint: None,
    })?;
    let named =
        |name: &str, message: String| Failure::Schedule { message: format!("{name}: {message}"), hint: None };
    let count = request.count.unwrap_or(defaults.count);
    if !(1..=COUNT_MAX).contains(&count) {
        return Err(named("count", format!("{count} is not 1 to {COUNT_MAX}")));
    }
    let kind = request.kind.map_or(Ok(defaults.kind), |text| Kind::from_str(&text, false));
    let args = NextArgs {
        expr: request.expr,
        kind: kind.map_err(|_| {
            let kinds = "expected one of `cron`, `every`, `at`, `rrule`, `calendar`, `solar`";
            named("kind", kinds.to_owned())
        })?,
        dialect: given(request.dialect, defaults.dialect, dialect).map_err(|e| named("dialect", e))?,
        day_rule: given(request.day_rule, defaults.day_rule, day_rule).map_err(|e| named("day_rule", e))?,
        timezone: request.timezone.unwrap_or_else(|| defaults.timezone.clone()),
        gap: given(request.gap, defaults.gap, |text| gap(text).map(Some)).map_err(|e| named("gap", e))?,
        fold: given(request.fold, defaults.fold, fold).map_err(|e| named("fold", e))?,
        offset: given(request.offset, defaults.offset, span).map_err(|e| named("offset", e))?,
        from: given(request.from, defaults.from, every_from).map_err(|e| named("from", e))?,
        job: request.job.unwrap_or_else(|| defaults.job.clone()),
        after: given(request.after, defaults.after, |text| instant(text).map(Some))
            .map_err(|e| named("after", e))?,
        before: given(request.before, defaults.before, |text| instant(text).map(Some))
            .map_err(|e| named("before", e))?,
        explain: request.explain.unwrap_or(defaults.explain),
        count,
    };
    next(&args, clock)
}

fn given<T>(text: Option<String>, default: T, read: impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
    text.map_or(Ok(default), |text| read(&text))
}

/// The value of the protocol's enum that a word names.
fn known<E: Words + TryFrom<i32>>(text: &str) -> Result<E, String> {
    let number = word::number::<E>(text).and_then(|number| E::try_from(number).ok());
    number.ok_or_else(|| format!("expected one of {}", word::choices::<E>()))
}

fn dialect(text: &str) -> Result<Dialect, String> {
    Ok(match known(text)? {
        v1::Dialect::Unspecified | v1::Dialect::Unix => Dialect::Unix,
        v1::Dialect::Quartz => Dialect::Quartz,
        v1::Dialect::Aws => Dialect::Aws,
    })
}

fn every_from(text: &str) -> Result<v1::EveryFrom, String> {
    known(text)
}

fn day_rule(text: &str) -> Result<DayRule, String> {
    Ok(match known(text)? {
        v1::DayRule::Unspecified | v1::DayRule::OrVixie => DayRule::OrVixie,
        v1::DayRule::OrBare => DayRule::OrBare,
        v1::DayRule::And => DayRule::And,
    })
}

fn gap(text: &str) -> Result<Gap, String> {
    Ok(match known(text)? {
        v1::Gap::Unspecified | v1::Gap::RunAtEnd => Gap::RunAtEnd,
        v1::Gap::Shift => Gap::Shift,
        v1::Gap::Skip => Gap::Skip,
    })
}

fn fold(text: &str) -> Result<Fold, String> {
    Ok(match known(text)? {
        v1::Fold::Unspecified | v1::Fold::First => Fold::First,
        v1::Fold::Second => Fold::Second,
        v1::Fold::Both => Fold::Both,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn args(more: &[&str]) -> NextArgs {
        let cli = Cli::try_parse_from([&["chronarch", "schedule", "next"], more].concat());
        match cli.expect("it is understood").command {
            Command::Schedule { command: ScheduleCommand::Next(args) } => args,
            other => panic!("{other:?}"),
        }
    }

    fn ask(line: &str) -> String {
        match answer(line.as_bytes(), &args(&["-"]), &Clock::new(|| Timestamp::EPOCH, 0)) {
            Ok(found) => serde_json::to_string(&found).expect("it is written"),
            Err(failure) => format!("refused: {failure}"),
        }
    }

    #[test]
    fn a_request_is_answered_in_one_document() {
        assert_eq!(
            ask(
                r#"{"kind":"cron","expr":"30 2 * * *","dialect":"unix","timezone":"Europe/Berlin","after":"2026-03-28T12:00:00Z","count":1}"#
            ),
            r#"{"occurrences":[{"at":"2026-03-29T01:00:00.000Z","local":"2026-03-29T03:00:00.000+02:00","note":"gap: 02:30 does not exist, runs at 03:00"}],"explanation":[]}"#
        );
        assert_eq!(
            ask(r#"{"kind":"every","expr":"1h","count":2}"#),
            r#"{"occurrences":[{"at":"1970-01-01T01:00:00.000Z","local":"1970-01-01T01:00:00.000+00:00","note":""},{"at":"1970-01-01T02:00:00.000Z","local":"1970-01-01T02:00:00.000+00:00","note":""}],"explanation":[]}"#
        );
        assert_eq!(
            ask(r#"{"kind":"at","expr":"1969-01-01T00:00:00Z"}"#),
            r#"{"occurrences":[],"explanation":[]}"#
        );
    }

    #[test]
    fn a_request_that_makes_no_sense_is_refused_by_name() {
        for (line, expected) in [
            (
                r#"{"kind":"lunar","expr":"x"}"#,
                "refused: kind: expected one of `cron`, `every`, `at`, `rrule`, `calendar`, `solar`",
            ),
            (
                r#"{"kind":"calendar","expr":"9:60"}"#,
                "refused: calendar: column 3: minute: 60 is out of range, expected 0 to 59",
            ),
            (
                r#"{"kind":"rrule","expr":"FREQ=WEEKLY"}"#,
                "refused: rrule: DTSTART is missing: the day of the week is counted from it",
            ),
            (
                r#"{"kind":"solar","expr":"sunset 91 0"}"#,
                "refused: solar: latitude: 91 is out of range, expected -90 to 90",
            ),
            (
                r#"{"expr":"* * * * *","dialect":"spring"}"#,
                "refused: dialect: expected one of `unix`, `quartz`, `aws`",
            ),
            (r#"{"expr":"* * * * *","count":0}"#, "refused: count: 0 is not 1 to 100000"),
            (
                r#"{"expr":"* * * * *","gap":"jump"}"#,
                "refused: gap: expected one of `run_at_end`, `shift`, `skip`",
            ),
        ] {
            assert_eq!(ask(line), expected, "{line}");
        }
        assert!(ask("{").starts_with("refused: the request is not understood: "));
        assert!(ask(r#"{"expr":"61 * * * *"}"#).starts_with("refused: "));
        assert!(ask(r#"{"exp":"* * * * *"}"#).contains("unknown field `exp`"));
    }

    #[test]
    fn the_flags_default_to_cron_in_utc() {
        let args = args(&["0 0 * * *"]);
        assert_eq!((args.kind, args.timezone.as_str(), args.count), (Kind::Cron, "UTC", COUNT_DEFAULT));
        assert_eq!((args.gap, args.fold, args.day_rule), (None, Fold::First, DayRule::OrVixie));
    }

    #[test]
    fn each_kind_is_answered() {
        for (request, first) in [
            (
                r#"{"kind":"rrule","expr":"DTSTART;TZID=America/New_York:20260307T023000 RRULE:FREQ=DAILY","after":"2026-03-08T00:00:00Z"}"#,
                "2026-03-08T03:30:00.000-04:00",
            ),
            (
                r#"{"kind":"calendar","expr":"Mon 9:00 Asia/Tokyo","after":"2026-03-01T00:00:00Z"}"#,
                "2026-03-02T09:00:00.000+09:00",
            ),
            (
                r#"{"kind":"solar","expr":"solar_noon 0 0","after":"2026-03-01T00:00:00Z"}"#,
                "2026-03-01T12:12",
            ),
            (
                r#"{"kind":"every","expr":"10m","from":"completion","after":"2026-03-01T00:01:00Z"}"#,
                "2026-03-01T00:11:00.000+00:00",
            ),
        ] {
            let found = ask(request);
            assert!(found.contains(&format!(r#""local":"{first}"#)), "{request}: {found}");
        }
    }

    #[test]
    fn the_past_is_told_newest_first_and_a_rule_in_plain_english() {
        assert_eq!(
            ask(r#"{"expr":"0 9 29 2 *","before":"2026-03-01T00:00:00Z","count":2,"explain":true}"#),
            r#"{"occurrences":[{"at":"2024-02-29T09:00:00.000Z","local":"2024-02-29T09:00:00.000+00:00","note":""},{"at":"2020-02-29T09:00:00.000Z","local":"2020-02-29T09:00:00.000+00:00","note":""}],"explanation":["At 09:00 on day 29 of the month in February, UTC."]}"#
        );
    }
}
