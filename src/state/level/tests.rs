//! What needs which level, and that what needs none is what the first builds read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

use super::*;
use crate::state::broker::{
    AmqpTarget, CeleryExpiry, CeleryPlace, CeleryTarget, NatsTarget, RedisPlace, RedisTarget,
};
use crate::state::calendar::CalendarSpec;
use crate::state::namespace::NamespaceLimits;
use crate::state::queue::QueueLimits;
use crate::state::run::{AttemptOutcome, Cause, JobId, Report, RunId, TaskNews};
use crate::state::schedule::{DayRule, SolarEvent, SolarPlace};
use crate::state::time::Timestamp;
use crate::state::tzdata::{ZoneData, ZoneFile};
use crate::state::{
    Again, BreakerKey, CodecError, Due, JobRef, Outcome, Rearmed, Rejection, Request, State, StateHash,
};
use crate::view::fixture::minutely;

#[path = "targets.rs"]
mod targets;

use targets::{amqp, celery, grpc, nats, redis};

const VARIANTS: usize = 31;

/// Numbers all variants: a new one does not get past this, and then has to be in [`commands`].
const fn number(command: &Command) -> usize {
    match command {
        Command::Lead { .. } => 0,
        Command::RaiseLevel { .. } => 1,
        Command::PutJob { .. } => 2,
        Command::DeleteJob { .. } => 3,
        Command::PauseJob { .. } => 4,
        Command::ResumeJob { .. } => 5,
        Command::TriggerJob { .. } => 6,
        Command::Backfill { .. } => 7,
        Command::Fire { .. } => 8,
        Command::Disarm { .. } => 9,
        Command::Start { .. } => 10,
        Command::Spread { .. } => 11,
        Command::Complete { .. } => 12,
        Command::Renew { .. } => 13,
        Command::Lose { .. } => 14,
        Command::Retry { .. } => 15,
        Command::Expire { .. } => 16,
        Command::CancelRun { .. } => 17,
        Command::HalfOpen { .. } => 18,
        Command::SetQueue { .. } => 19,
        Command::TripBreaker { .. } => 20,
        Command::ResetBreaker { .. } => 21,
        Command::SetNamespace { .. } => 22,
        Command::Arm { .. } => 23,
        Command::SetTzdata { .. } => 24,
        Command::Reread { .. } => 25,
        Command::PutCalendar { .. } => 26,
        Command::DeleteCalendar { .. } => 27,
        Command::HandOver { .. } => 28,
        Command::StopTask { .. } => 29,
        Command::HearTask { .. } => 30,
    }
}

const AT: Timestamp = Timestamp::from_millis(60_000);
const PLACE: SolarPlace = SolarPlace { latitude_micro: 1, longitude_micro: 2 };
const RUN: RunId = RunId { job: JobId(4_096), at: AT, seq: 0 };

fn job() -> JobRef {
    JobRef { id: RUN.job, namespace: "default".into(), name: "a".into() }
}

/// One of each, as the first builds have it.
fn commands() -> Vec<Command> {
    let request = Request::default;
    let (breaker, worker, run) = (BreakerKey::Job(RUN.job), Arc::<str>::from("w/1"), RUN);
    vec![
        Command::Lead { node: 1, term: 2, silent_for: Some(Duration::from_millis(5)) },
        Command::RaiseLevel { from: 0, to: 1 },
        Command::PutJob { spec: Arc::new(minutely("a")), next: None, request: request(), reading: 0 },
        Command::DeleteJob { job: job(), cancel_runs: true, request: request() },
        Command::PauseJob { job: job(), request: request(), until: None },
        Command::ResumeJob { job: job(), version: 1, next: None, request: request(), reading: 0 },
        Command::TriggerJob { job: job(), request: request(), params: [].into(), again: None, place: None },
        Command::Backfill { job: job(), version: 1, instants: vec![AT], request: request() },
        Command::Fire { job: RUN.job, version: 1, expect: AT, verdicts: Vec::new(), next: None },
        Command::Disarm { job: RUN.job, version: 1, expect: AT, why: "no such zone".into() },
        Command::Start { run, attempt: 1, worker: worker.clone(), lease_until: AT },
        Command::Spread { run, places: vec!["w".into()] },
        Command::Complete {
            run,
            fence: 3,
            outcome: AttemptOutcome::Failed,
            report: Arc::new(Report { output: vec![7], ..Report::default() }),
            retry_after: Duration::from_secs(1),
        },
        Command::Renew { worker: worker.clone(), lease_until: AT },
        Command::Lose { worker, expect: AT, retry_after: Duration::ZERO },
        Command::Retry { run },
        Command::Expire { run },
        Command::CancelRun { run, request: request() },
        Command::HalfOpen { breaker: breaker.clone(), opened: 9 },
        Command::SetQueue { queue: "q".into(), limits: QueueLimits::default(), request: request() },
        Command::TripBreaker { breaker: breaker.clone(), open_for: None, request: request() },
        Command::ResetBreaker { breaker, request: request() },
        set_namespace(),
        arm(),
        set_tzdata(),
        reread(),
        put_calendar(),
        delete_calendar(),
        hand_over(),
        Command::StopTask { run: RUN, fence: 3 },
        hear_task(),
    ]
}

fn put(change: impl FnOnce(&mut JobSpec)) -> Command {
    let mut spec = minutely("a");
    change(&mut spec);
    Command::PutJob { spec: Arc::new(spec), next: None, request: Request::default(), reading: 0 }
}

fn set_namespace() -> Command {
    let limits = NamespaceLimits { runs: Some(5), age: None };
    Command::SetNamespace { namespace: "n".into(), limits, request: Request::default() }
}

fn hand_over() -> Command {
    Command::HandOver {
        run: RUN,
        fence: 3,
        connection: "main".into(),
        task: "t".into(),
        expires_at: None,
        queue: None,
    }
}

fn hear_task() -> Command {
    let news = TaskNews::Retried { count: 1, error: "e".into() };
    Command::HearTask { run: RUN, fence: 3, by: "w".into(), news }
}

fn set_tzdata() -> Command {
    let file = ZoneFile { names: vec!["UTC".to_owned()], tzif: vec![0, 200, 255] };
    Command::SetTzdata {
        data: Arc::new(ZoneData { release: "2026f".to_owned(), files: vec![file] }),
        shifts: BTreeMap::from([("UTC".to_owned(), -3_600)]),
        expect: Some(StateHash([200; 32])),
        request: Request::default(),
    }
}

fn reread() -> Command {
    let armed = vec![Rearmed { job: RUN.job, version: 1, next: None }];
    Command::Reread { generation: 9, after: None, through: Some(RUN.job), armed }
}

fn put_calendar() -> Command {
    let dates = vec!["12-25 Christmas".parse().expect("a day")];
    let spec = CalendarSpec { name: "c".to_owned(), dates, ..CalendarSpec::default() };
    Command::PutCalendar { spec: Arc::new(spec), request: Request::default() }
}

fn delete_calendar() -> Command {
    Command::DeleteCalendar { calendar: "c".into(), request: Request::default() }
}

fn fire(verdict: Verdict) -> Command {
    Command::Fire { job: RUN.job, version: 1, expect: AT, verdicts: vec![verdict], next: None }
}

fn put_off() -> Command {
    let (from, scheduled_at, due_at, cause) = (AT, AT, AT, Cause::Schedule);
    let moved = Some("c: 12-25".into());
    fire(Verdict::Run { from, scheduled_at, due_at, cause, stands_for: 1, moved })
}

fn arm() -> Command {
    let next = Due { scheduled_at: AT, due_at: AT };
    Command::Arm { job: RUN.job, version: 1, since: Timestamp::EPOCH, next }
}

/// A job with such a schedule.
fn due(rule: Rule, count: Option<u32>) -> Command {
    put(|spec| {
        spec.schedules[0].rule = rule;
        spec.schedules[0].count = count;
    })
}

fn cron(line: &str, dialect: Dialect) -> Rule {
    Rule::Cron { line: line.to_owned(), dialect, day_rule: DayRule::default() }
}

fn completed(report: Report) -> Command {
    let (outcome, retry_after) = (AttemptOutcome::Failed, Duration::ZERO);
    Command::Complete { run: RUN, fence: 3, outcome, report: Arc::new(report), retry_after }
}

/// What came with a level, alone; and in what words its refusal names it.
fn later() -> Vec<(u32, &'static str, Command)> {
    let trigger = Command::TriggerJob {
        job: job(),
        request: Request::default(),
        params: [].into(),
        again: None,
        place: Some("w".into()),
    };
    vec![
        (1, "`target.redis`", put(|spec| spec.target = redis())),
        (1, "`target.celery`", put(|spec| spec.target = celery())),
        (1, "`target.amqp`", put(|spec| spec.target = amqp())),
        (1, "`target.nats`", put(|spec| spec.target = nats())),
        (1, "`target.grpc`", put(|spec| spec.target = grpc())),
        (
            1,
            "a param in a text of `target`",
            put(|spec| spec.target = Target::Queue { payload: "{{ params.a }}".into() }),
        ),
        (1, "the limits of a namespace", set_namespace()),
        (1, "`schedule.from: completion`", arm()),
        (1, "the pinned data of the time zones", set_tzdata()),
        (1, "the pinned data of the time zones", reread()),
        (
            1,
            "`schedule.from: completion`",
            due(Rule::AfterCompletion { period: Duration::from_secs(1) }, None),
        ),
        (1, "`schedule.rrule`", due(Rule::Recurrence("FREQ=DAILY".to_owned()), None)),
        (1, "`schedule.calendar`", due(Rule::Calendar("daily".to_owned()), None)),
        (1, "`schedule.solar`", due(Rule::Solar { event: SolarEvent::Sunrise, place: PLACE }, None)),
        (1, "`schedule.dialect`", due(cron("0 0 0 ? * 1", Dialect::Quartz), None)),
        (1, "`schedule.dialect`", due(cron("0 0 ? * 1 *", Dialect::Aws), None)),
        (1, "`H`, `~` and years in `schedule.cron`", due(cron("0 H * * *", Dialect::Unix), None)),
        (1, "`H`, `~` and years in `schedule.cron`", due(cron("~ 0 * * *", Dialect::Unix), None)),
        (1, "`H`, `~` and years in `schedule.cron`", due(cron("5,h(1-9) 0 * * *", Dialect::Unix), None)),
        (1, "`H`, `~` and years in `schedule.cron`", due(cron("0 0 0 1 1 * 2030", Dialect::Unix), None)),
        (1, "`schedule.count`", due(cron("@daily", Dialect::Unix), Some(3))),
        (1, "`every_node`", put(|spec| spec.every_node = true)),
        (1, "calendars", put_calendar()),
        (1, "calendars", delete_calendar()),
        (1, "tasks that others end", hand_over()),
        (1, "tasks that others end", Command::StopTask { run: RUN, fence: 3 }),
        (1, "tasks that others end", hear_task()),
        (1, "calendars", put_off()),
        (1, "calendars", fire(Verdict::Excluded { from: AT, until: AT, count: 1, why: "c: 12-25".into() })),
        (1, "`on_excluded`", put(|spec| spec.on_excluded = OnExcluded::NextAllowed)),
        (
            1,
            "`schedule.exclude` and `schedule.only`",
            put(|spec| spec.schedules[0].exclude = vec!["c".to_owned()]),
        ),
        (
            1,
            "`schedule.exclude` and `schedule.only`",
            put(|spec| spec.schedules[0].only = vec!["c".to_owned()]),
        ),
        (1, "`retry.on: grpc`", put(|spec| spec.retry.on = vec![RetryOn::Failed, RetryOn::Grpc(14)])),
        (1, "a run for one worker", trigger),
        (1, "`every_node`", Command::Spread { run: RUN, places: vec!["w".into()] }),
        (1, "the status of a grpc call", completed(Report { grpc_status: Some(0), ..Report::default() })),
    ]
}

/// Fields that came later than their structs, but before the first builds that speak of levels.
fn of_the_first_builds() -> Vec<Command> {
    let again = Some(Again { run: RUN, chain: RUN });
    let params = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    let request = Request::default;
    vec![
        Command::PauseJob { job: job(), request: request(), until: Some(AT) },
        Command::TriggerJob { job: job(), request: request(), params: [].into(), again, place: None },
        Command::TriggerJob {
            job: job(),
            request: request(),
            params: params.clone(),
            again: None,
            place: None,
        },
        put(|spec| spec.params = params),
        put(|spec| spec.priority = -1),
        due(cron("0 0 * * THU,Fri-MON", Dialect::Unix), None),
        due(cron("0 0 0 1 1 *", Dialect::Unix), None),
        completed(Report { result: "[1]".to_owned(), ..Report::default() }),
    ]
}

fn entry(commands: Vec<Command>) -> Entry {
    Entry { at: AT, commands }
}

#[test]
fn every_command_reads_back_whatever_it_says() {
    let listed: BTreeSet<usize> = commands().iter().map(number).collect();
    assert_eq!(listed, (0..VARIANTS).collect(), "each variant is listed");
    let later = later().into_iter().map(|(_, _, command)| command);
    for command in commands().into_iter().chain(of_the_first_builds()).chain(later) {
        let entry = entry(vec![command]);
        assert_eq!(Entry::decode(&entry.encode()).unwrap(), entry);
    }
}

#[test]
fn what_came_later_needs_its_level_and_what_was_there_needs_none() {
    for command in commands().into_iter().chain(of_the_first_builds()) {
        let is_new = matches!(
            command,
            Command::Spread { .. }
                | Command::SetNamespace { .. }
                | Command::Arm { .. }
                | Command::SetTzdata { .. }
                | Command::Reread { .. }
                | Command::PutCalendar { .. }
                | Command::DeleteCalendar { .. }
                | Command::HandOver { .. }
                | Command::StopTask { .. }
                | Command::HearTask { .. }
        );
        assert_eq!(command.need().level, u32::from(is_new), "{command:?}");
    }
    for (level, what, command) in later() {
        assert_eq!(command.need(), Need { level, what }, "{command:?}");
        let among = entry(vec![commands().remove(0), command, commands().remove(2)]);
        assert_eq!(among.need(), Need { level, what }, "one command of an entry is enough");
    }
    assert_eq!(entry(Vec::new()).need(), Need::NONE);
    let newest = later().iter().map(|(level, _, _)| *level).max();
    assert_eq!(newest, Some(SPOKEN.newest), "a level that brings nothing is none");
}

/// As the first builds have them.
#[derive(Debug, Deserialize)]
enum First {
    PauseJob { job: JobRef, request: Request },
    TriggerJob { job: JobRef, request: Request },
}

#[derive(Debug, Deserialize)]
struct FirstEntry {
    at: Timestamp,
    commands: Vec<First>,
}

#[test]
fn what_says_nothing_new_has_the_bytes_of_the_first_builds() {
    let request = Request { actor: "u".to_owned(), ..Request::default() };
    let pause = Command::PauseJob { job: job(), request: request.clone(), until: None };
    let trigger = Command::TriggerJob { job: job(), request, params: [].into(), again: None, place: None };
    let bytes = entry(vec![trigger, pause]).encode();
    let job = b"\x93\xcd\x10\x00\xa7default\xa1a";
    let request = b"\x93\xa0\xa1u\xa0";
    let pinned = [
        &b"\x02\x92\xcd\xea\x60\x92\x81\xaaTriggerJob\x92"[..],
        job,
        request,
        b"\x81\xa8PauseJob\x92",
        job,
        request,
    ];
    assert_eq!(bytes, pinned.concat());
    let read: FirstEntry = crate::state::command::decode(&bytes).unwrap();
    assert_eq!(read.at, AT);
    let [First::TriggerJob { job, request }, First::PauseJob { job: paused, request: by }] =
        read.commands.as_slice()
    else {
        panic!("{read:?}")
    };
    assert_eq!((job, request), (paused, by));
}

/// How many fields an array has, whose bytes follow the version.
fn fields(bytes: &[u8]) -> usize {
    match bytes[1] {
        short @ 0x90..=0x9f => usize::from(short - 0x90),
        0xdc => usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
        other => panic!("{other:#x} is no array"),
    }
}

#[test]
fn no_field_that_came_later_is_written_while_it_says_nothing() {
    use crate::state::command::encode;
    let mut state = State::default();
    let put = state.apply(1, &entry(vec![put(|_| ())])).outcomes.remove(0);
    let Outcome::Put { job: id, .. } = put else { panic!("{put:?}") };
    let job = state.job(id).unwrap().reference();
    let (request, params) = (Request::default(), BTreeMap::new());
    let trigger = Command::TriggerJob { job, request, params, again: None, place: None };
    state.apply(2, &entry(vec![trigger]));
    let run = state.runs().next().unwrap();
    assert_eq!(fields(&encode(&minutely("a"))), 17, "up to `retention`");
    assert_eq!(fields(&run.encode()), 23, "up to `overdue_at`");
    assert_eq!(fields(&encode(&Report::default())), 5, "up to `output_truncated`");
    assert_eq!(
        fields(&encode(state.job(id).unwrap().as_ref())),
        12,
        "up to `origin`, which is where it came from"
    );
}

#[test]
fn what_the_first_builds_wrote_is_read() {
    // All fields that they knew, each at its default: three of a trigger, of which the third is of this release.
    let bytes = b"\x02\x92\xcd\xea\x60\x91\x81\xaaTriggerJob\x94\x93\xcd\x10\x00\xa7default\xa1a\x93\xa0\xa0\xa0\x80\xc0";
    let trigger = Command::TriggerJob {
        job: job(),
        request: Request::default(),
        params: [].into(),
        again: None,
        place: None,
    };
    assert_eq!(Entry::decode(bytes).unwrap(), entry(vec![trigger]));
}

#[test]
fn raising_the_level_is_pinned() {
    // It has to be read by releases to come, and by those that it shuts out.
    let bytes = entry(vec![Command::RaiseLevel { from: 0, to: 1 }]).encode();
    assert_eq!(bytes, b"\x02\x92\xcd\xea\x60\x91\x81\xaaRaiseLevel\x92\x00\x01");
}

#[test]
fn the_level_rises_from_where_it_is_and_never_falls() {
    let mut state = State::default();
    let mut raise = |index, from, to| {
        let outcome = state.apply(index, &entry(vec![Command::RaiseLevel { from, to }])).outcomes.remove(0);
        (outcome, state.level())
    };
    assert_eq!(raise(1, 0, 2), (Outcome::Done, 2));
    assert_eq!(raise(2, 0, 3), (Outcome::Rejected(Rejection::Stale), 2), "it is not there any more");
    assert_eq!(raise(3, 2, 2), (Outcome::Rejected(Rejection::Malformed), 2));
    assert_eq!(raise(4, 2, 1), (Outcome::Rejected(Rejection::Malformed), 2));
    assert_eq!(raise(5, 2, 3), (Outcome::Done, 3));
}

#[test]
fn a_snapshot_tells_its_level_first_and_only_where_it_rose() {
    let mut state = State::default();
    let mut low = Vec::new();
    state.write_to(&mut low).unwrap();
    state.apply(1, &entry(vec![Command::RaiseLevel { from: 0, to: 7 }]));
    let mut bytes = Vec::new();
    state.write_to(&mut bytes).unwrap();
    assert_eq!(bytes[..9], [10, 4, 0, 0, 0, 7, 0, 0, 0]);
    assert_eq!(low[0], 1, "the header; the first builds know no other section there");

    let spoken = |newest| Levels { oldest: 0, newest };
    assert_eq!(State::read_spoken(&mut bytes.as_slice(), spoken(7)).unwrap(), state);
    // What follows is not looked at.
    let refused = State::read_spoken(&mut &bytes[..9], spoken(6));
    let too_new = LevelError::TooNew { level: 7, newest: 6 };
    assert!(matches!(refused, Err(CodecError::Level(error)) if error == too_new), "{refused:?}");
    let refused = State::read_spoken(&mut low.as_slice(), Levels { oldest: 1, newest: 7 });
    let too_old = LevelError::TooOld { level: 0, oldest: 1 };
    assert!(matches!(refused, Err(CodecError::Level(error)) if error == too_old), "{refused:?}");
}

#[test]
fn a_report_of_a_later_worker_loses_what_the_cluster_cannot_tell_yet() {
    let said = Arc::new(Report { grpc_status: Some(14), error: "no".to_owned(), ..Report::default() });
    let cut = said.at_level(0);
    assert_eq!(completed(cut.as_ref().clone()).need(), Need::NONE);
    assert_eq!(*cut, Report { error: "no".to_owned(), ..Report::default() });
    assert!(Arc::ptr_eq(&said.at_level(1), &said));
}

#[test]
fn a_release_speaks_all_levels_from_its_oldest_to_its_newest() {
    let levels = Levels { oldest: 2, newest: 4 };
    let checked: Vec<bool> = (1..=5).map(|level| levels.check(level).is_ok()).collect();
    assert_eq!(checked, [false, true, true, true, false]);
    assert_eq!(levels.up_to(9), levels);
    assert_eq!(levels.up_to(3), Levels { oldest: 2, newest: 3 });
    assert_eq!(levels.up_to(1), Levels { oldest: 1, newest: 1 });
    assert_eq!((levels.to_string(), levels.up_to(1).to_string()), ("2 to 4".to_owned(), "1".to_owned()));
}
