//! What a million jobs cost a leader that has just begun: `cargo bench --bench plan [-- JOBS [RUNS]]`.
//!
//! All jobs have a cron rule, of [`RULES`] kinds in [`ZONES`], and all are due at [`DUE`]: at the same instant, which is
//! the worst. What a restarted node does before it may lead is in it, its snapshot read, and then the plans that a new
//! leader makes, which remembers nothing: one with nothing due, those until all that is due at one instant is decided,
//! and those after a day in which nothing could fire. Each plan is applied before the next, as one node alone would;
//! what the agreement of three costs is what `chronarch bench` measures.
//!
//! Of RUNS runs (5) the medians are told, with every run behind.

#![expect(clippy::print_stdout, reason = "a table is what it is for")]
#![expect(clippy::disallowed_methods, reason = "it measures, and nothing else runs here")]

use std::fs;
use std::io::{BufReader, BufWriter, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chronarch::api::spec;
use chronarch::pb::v1 as pb;
use chronarch::scheduler::almanac::Almanac;
use chronarch::scheduler::occurrences::arm;
use chronarch::scheduler::plan::{InFlight, Plan, Rules, Sessions, plan};
use chronarch::scheduler::set::ScheduleSet;
use chronarch::state::limits::COMMANDS_PER_ENTRY;
use chronarch::state::time::Timestamp;
use chronarch::state::{Command, Entry, Request, State};

/// As the program has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const JOBS: usize = 1_000_000;
const RUNS: usize = 5;
/// Ten minutes before [`DUE`]: when the jobs are applied.
const APPLIED: &str = "2026-01-05T11:50:00Z";
/// A Monday, the fifth of a month; when each of [`RULES`] is due in each of [`ZONES`].
const DUE: &str = "2026-01-05T12:00:00Z";
const OUTAGE: Duration = Duration::from_secs(86_400);

/// Lines of cron, with `H` for the hour that [`DUE`] is in the zone.
const RULES: [&str; 8] = [
    "0 H * * *",
    "0 * * * *",
    "*/15 * * * *",
    "0 H * * 1-5",
    "0,30 H 1-7 * *",
    "0 H * * mon",
    "*/10 H 5 * *",
    "0 H 5 1 *",
];

/// Zones, and the hour of [`DUE`] in each.
const ZONES: [(&str, u32); 12] = [
    ("UTC", 12),
    ("Europe/Berlin", 13),
    ("Europe/London", 12),
    ("Europe/Athens", 14),
    ("America/New_York", 7),
    ("America/Chicago", 6),
    ("America/Los_Angeles", 4),
    ("America/Sao_Paulo", 9),
    ("Asia/Tokyo", 21),
    ("Asia/Singapore", 20),
    ("Australia/Sydney", 23),
    ("Africa/Lagos", 13),
];

fn instant(text: &str) -> Timestamp {
    text.parse().expect("an instant")
}

fn job(number: usize) -> pb::JobSpec {
    let (zone, hour) = ZONES[number / RULES.len() % ZONES.len()];
    let cron = RULES[number % RULES.len()].replace('H', &hour.to_string());
    let http = pb::HttpTarget { url: format!("http://jobs.example/{number}"), ..Default::default() };
    pb::JobSpec {
        name: format!("job-{number:07}"),
        schedule: vec![pb::Schedule { cron, timezone: zone.to_owned(), ..Default::default() }],
        target: Some(pb::Target { http: Some(http), ..Default::default() }),
        ..Default::default()
    }
}

/// A state with so many jobs, all armed.
fn state(jobs: usize) -> State {
    let at = instant(APPLIED);
    let mut state = State::default();
    let put = |number: usize| {
        let spec = spec::from_pb(&job(number)).expect("a sound job");
        let set = ScheduleSet::of(&spec, &Almanac::bundled()).expect("a sound schedule");
        let next = arm(&spec, &set, at);
        assert_eq!(next.map(|due| due.due_at), Some(instant(DUE)), "{spec:?}");
        Command::PutJob { spec: Arc::new(spec), next, reading: 0, request: Request::default() }
    };
    for (index, first) in (1..).zip((0..jobs).step_by(COMMANDS_PER_ENTRY)) {
        let commands = (first..jobs.min(first + COMMANDS_PER_ENTRY)).map(put).collect();
        state.apply(index, &Entry { at, commands });
    }
    assert_eq!(state.armed_count(), jobs);
    state
}

/// What a leader that begins now does until nothing is left to decide.
struct Begun {
    first: Duration,
    plans: Duration,
    applies: Duration,
    commands: usize,
}

fn begin(mut state: State, now: Timestamp) -> Begun {
    let mut rules = Rules::default();
    let mut begun =
        Begun { first: Duration::ZERO, plans: Duration::ZERO, applies: Duration::ZERO, commands: 0 };
    loop {
        let started = Instant::now();
        let Plan { commands, more, .. } =
            plan(&state, &mut Sessions::default(), &InFlight::default(), now, &mut rules);
        let took = started.elapsed();
        if begun.plans.is_zero() {
            begun.first = took;
        }
        begun.plans += took;
        if commands.is_empty() {
            return begun;
        }
        begun.commands += commands.len();
        let index = state.applied_index() + 1;
        let entry = Entry { at: now, commands };
        let started = Instant::now();
        state.apply(index, &entry);
        begun.applies += started.elapsed();
        if !more {
            return begun;
        }
    }
}

/// What the process holds in memory, in bytes.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("a Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1_024.0
}

/// The runs of each figure, in the order in which they were first told.
#[derive(Default)]
struct Table(Vec<(&'static str, &'static str, Vec<f64>)>);

impl Table {
    fn add(&mut self, name: &'static str, unit: &'static str, value: f64) {
        match self.0.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, _, runs)) => runs.push(value),
            None => self.0.push((name, unit, vec![value])),
        }
    }

    fn print(&self) {
        println!("{:<44} {:>12} {:<6} runs", "figure", "median", "unit");
        for (name, unit, runs) in &self.0 {
            let mut sorted = runs.clone();
            sorted.sort_by(f64::total_cmp);
            let each: Vec<String> = runs.iter().map(|run| format!("{run:.2}")).collect();
            println!("{name:<44} {:>12.2} {unit:<6} {}", sorted[sorted.len() / 2], each.join(", "));
        }
    }
}

fn main() {
    // `cargo test` runs it too, and asks only whether it works.
    let (most, often) =
        if std::env::args().any(|argument| argument == "--bench") { (JOBS, RUNS) } else { (2_000, 1) };
    let mut numbers = std::env::args().filter_map(|argument| argument.parse().ok());
    let jobs = numbers.next().unwrap_or(most);
    let runs = numbers.next().unwrap_or(often);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut out = BufWriter::new(file.as_file());
    state(jobs).write_to(&mut out).and_then(|()| out.flush()).expect("room for a snapshot");
    drop(out);

    let ms = |span: Duration| span.as_secs_f64() * 1e3;
    let mut table = Table::default();
    for run in 0..runs {
        let before = resident();
        let started = Instant::now();
        let mut input = BufReader::new(fs::File::open(file.path()).expect("the snapshot"));
        let state = State::read_from(&mut input).expect("the snapshot as it was written");
        table.add("snapshot read", "ms", ms(started.elapsed()));
        if run == 0 {
            let bytes = file.as_file().metadata().expect("its length").len();
            table.add("snapshot, by each job", "bytes", bytes as f64 / jobs as f64);
            // Later runs get memory that the first one gave back.
            table.add("memory, by each job", "bytes", (resident() - before) / jobs as f64);
        }
        let second = Duration::from_secs(1);
        let begun = begin(state.clone(), instant(APPLIED).plus(second));
        assert_eq!(begun.commands, 0, "nothing is due");
        table.add("nothing due: the plan", "ms", ms(begun.first));
        let begun = begin(state.clone(), instant(DUE));
        assert_eq!(begun.commands, jobs, "each job is due");
        table.add("all due: the first plan, of 1,000 jobs", "ms", ms(begun.first));
        table.add("all due: all plans", "ms", ms(begun.plans));
        table.add("all due: applied", "ms", ms(begun.applies));
        let begun = begin(state, instant(DUE).plus(OUTAGE));
        table.add("a day later: the first plan", "ms", ms(begun.first));
        table.add("a day later: all plans", "ms", ms(begun.plans));
        table.add("a day later: applied", "ms", ms(begun.applies));
    }
    table.print();
}
