//! What the next occurrence of a rule costs, beside the crates `croner` and `cron`: `cargo bench --bench schedule`.
//!
//! Each rule is walked from 2026 on, one occurrence after the other and from the start again where it ends, for
//! [`SPAN`]; of [`ROUNDS`] such walks the fastest counts, for on a busy machine the others measure the neighbours.
//! `croner` and `cron` are asked in UTC, with the same rule written as they want it, and where they have no such rule
//! there is a dash. With `-- --json` each row is a line of JSON, with the rule as `croner` wants it: `scripts/peers-rules`
//! times others beside it.

#![expect(clippy::print_stdout, reason = "a table is what it is for")]
#![expect(clippy::disallowed_methods, reason = "it measures, and nothing else runs here")]

use std::hint::black_box;
use std::str::FromStr;
use std::time::{Duration, Instant};

use chronarch::scheduler::rule::CompiledSchedule;
use chronarch::scheduler::solar;
use chronarch::scheduler::spread::Spread;
use chronarch::state::schedule::{DayRule, Dialect, Fold, Rule, Schedule};
use chronarch::state::time::Timestamp;
use chrono::{DateTime, TimeZone, Utc};

/// How long each walk goes on.
const SPAN: Duration = Duration::from_millis(40);
const ROUNDS: usize = 5;
/// Steps between two looks at the clock.
const STEPS: u32 = 16;
/// 2026-01-01T00:00:00Z.
const START: i64 = 1_767_225_600;

/// A rule of ours in a zone, and the same for `croner` and for `cron`; nothing where they have none.
struct Row {
    name: &'static str,
    rule: Rule,
    zone: &'static str,
    croner: &'static str,
    cron: &'static str,
}

fn unix(line: &'static str, zone: &'static str, cron: &'static str) -> Row {
    let rule = Rule::Cron { line: line.to_owned(), dialect: Dialect::Unix, day_rule: DayRule::OrVixie };
    Row { name: line, rule, zone, croner: line, cron }
}

fn quartz(line: &'static str, croner: &'static str) -> Row {
    let rule = Rule::Cron { line: line.to_owned(), dialect: Dialect::Quartz, day_rule: DayRule::OrVixie };
    Row { name: line, rule, zone: "UTC", croner, cron: "" }
}

fn ours(name: &'static str, rule: Rule) -> Row {
    Row { name, rule, zone: "America/New_York", croner: "", cron: "" }
}

fn rows() -> Vec<Row> {
    let recurrence = |text: &'static str| ours(text, Rule::Recurrence(text.to_owned()));
    let calendar = |text: &'static str| ours(text, Rule::Calendar(text.to_owned()));
    let (event, place) = solar::parse("sunset 52.52 13.405").expect("a place");
    vec![
        unix("* * * * *", "UTC", "0 * * * * *"),
        unix("*/15 * * * *", "UTC", "0 */15 * * * *"),
        unix("0 * * * *", "UTC", "0 0 * * * *"),
        unix("30 2 * * *", "UTC", "0 30 2 * * *"),
        unix("30 2 * * *", "America/New_York", "0 30 2 * * *"),
        unix("*/5 9-17 * * 1-5", "America/New_York", "0 */5 9-17 * * Mon-Fri"),
        unix("0 9 * * mon", "Europe/Berlin", "0 0 9 * * Mon"),
        unix("0 0 1 * *", "UTC", "0 0 0 1 * *"),
        unix("0 0 13 * 5", "UTC", ""),
        unix("0 0 31 12 *", "UTC", "0 0 0 31 12 *"),
        unix("0 0 29 2 *", "UTC", "0 0 0 29 2 *"),
        unix("*/10 * * * * *", "UTC", "*/10 * * * * *"),
        quartz("0 0 6 L * ?", "0 0 6 L * *"),
        quartz("0 0 6 LW * ?", "0 0 6 LW * *"),
        quartz("0 30 9 ? * FRI#3", "0 30 9 * * FRI#3"),
        quartz("0 30 9 ? 2 SUN#5", "0 30 9 * 2 SUN#5"),
        recurrence("DTSTART:20200101T090000 RRULE:FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,WE"),
        recurrence("DTSTART:20200101T090000 RRULE:FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1"),
        recurrence("DTSTART:20200101T090000 RRULE:FREQ=SECONDLY;INTERVAL=7"),
        calendar("Mon *-05~07/1 09:00"),
        ours("sunset 52.52 13.405", Rule::Solar { event, place }),
        ours("every 90s", Rule::Every { period: Duration::from_secs(90), offset: Duration::ZERO }),
    ]
}

/// Nanoseconds for one step of the walk.
fn walk<T: Copy>(start: T, mut next: impl FnMut(T) -> Option<T>) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let (mut at, mut steps) = (start, 0_u32);
        let begun = Instant::now();
        while begun.elapsed() < SPAN {
            for _ in 0..STEPS {
                at = black_box(next(black_box(at))).unwrap_or(start);
            }
            steps += STEPS;
        }
        best = best.min(begun.elapsed().as_nanos() as f64 / f64::from(steps));
    }
    best
}

/// Nanoseconds to read it.
fn read(mut once: impl FnMut()) -> f64 {
    walk((), |()| {
        once();
        Some(())
    })
}

fn cell(nanos: Option<f64>) -> String {
    nanos.map_or_else(|| "-".to_owned(), |nanos| format!("{nanos:.0}"))
}

fn main() {
    let as_json = std::env::args().any(|argument| argument == "--json");
    if !as_json {
        println!(
            "{:<82} {:<18} {:>9} {:>9} {:>9} {:>9}",
            "rule", "zone", "read ns", "next ns", "croner", "cron"
        );
    }
    let start: DateTime<Utc> = Utc.timestamp_opt(START, 0).single().expect("an instant");
    for Row { name, rule, zone, croner, cron } in rows() {
        let schedule = Schedule {
            gap: rule.usual_gap(),
            rule,
            timezone: zone.to_owned(),
            fold: Fold::First,
            start_at: None,
            end_at: None,
            jitter: Duration::ZERO,
            count: None,
            exclude: Vec::new(),
            only: Vec::new(),
        };
        let compile = || {
            CompiledSchedule::compile(
                &schedule,
                Spread::default(),
                &chronarch::scheduler::almanac::Almanac::bundled(),
            )
            .expect("a sound rule")
        };
        let compiled = compile();
        let read_ns = read(|| drop(black_box(compile())));
        let next_ns = walk(Timestamp::from_millis(START * 1_000), |at| compiled.next_after(at));
        let croner_ns = croner::Cron::from_str(croner)
            .ok()
            .filter(|_| !croner.is_empty())
            .map(|rule| walk(start, |at| rule.find_next_occurrence(&at, false).ok()));
        let cron_ns = cron::Schedule::from_str(cron)
            .ok()
            .filter(|_| !cron.is_empty())
            .map(|rule| walk(start, |at| rule.after(&at).next()));
        if as_json {
            let row = serde_json::json!({
                "rule": name, "zone": zone, "line": croner,
                "read_ns": read_ns, "next_ns": next_ns, "croner_ns": croner_ns, "cron_ns": cron_ns,
            });
            println!("{row}");
            continue;
        }
        let (croner_ns, cron_ns) = (cell(croner_ns), cell(cron_ns));
        println!("{name:<82} {zone:<18} {read_ns:>9.0} {next_ns:>9.0} {croner_ns:>9} {cron_ns:>9}");
    }
}
