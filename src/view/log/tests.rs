//! Lines as they are sent, of entries that were really applied.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::raft::LogPosition;
use crate::state::run::{AttemptOutcome, Cause, JobId, Report};
use crate::state::spec::{JobSpec, OverlapPolicy};
use crate::state::{BreakerKey, Command, Due, Request, Verdict};
use crate::view::fixture::{at, minutely, request};

/// A state that tells each entry as the line that it is exported as.
#[derive(Default)]
struct Told {
    state: State,
    index: u64,
}

impl Told {
    fn apply(&mut self, now: &str, commands: Vec<Command>) -> Value {
        self.index += 1;
        let before = self.state.clone();
        let entry = Entry { at: at(now), commands };
        let applied = self.state.apply(self.index, &entry);
        let replayed = Replayed {
            position: LogPosition { term: 3, index: self.index },
            content: Content::Commands { entry: &entry, applied: &applied },
            before: &before,
            after: &self.state,
        };
        let mut text = Vec::new();
        write_entry(&replayed, &mut text);
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
        let line: Value = serde_json::from_slice(&text).expect("JSON");
        assert!(nulls(&without_records(&line)).is_empty(), "{line}");
        line
    }

    /// Applies one command; the command as it is told.
    fn one(&mut self, now: &str, command: Command) -> Value {
        let mut line = self.apply(now, vec![command]);
        line["commands"][0].take()
    }

    fn put(&mut self, spec: JobSpec) -> JobId {
        self.put_armed(spec, Some(due("10:00:00.000")))
    }

    fn put_armed(&mut self, spec: JobSpec, next: Option<Due>) -> JobId {
        let put = Command::PutJob { spec: Arc::new(spec), next, request: Request::default(), reading: 0 };
        let told = self.one("09:59:30.000", put);
        JobId(told["decision"]["incarnation"].as_u64().expect("a number"))
    }

    fn fire(&self, job: JobId, verdicts: Vec<Verdict>, next: &str) -> Command {
        let current = self.state.job(job).expect("a job");
        let expect = current.next.expect("armed").scheduled_at;
        Command::Fire { job, version: current.version, expect, verdicts, next: Some(due(next)) }
    }

    fn start(&self, run: RunId) -> Command {
        let lease_until = self.state.now().plus(Duration::from_secs(10));
        let attempt = self.state.run(run).map_or(1, |run| run.attempts.len() as u32 + 1);
        Command::Start { run, attempt, worker: "w1".into(), lease_until }
    }

    fn complete(&self, run: RunId, outcome: AttemptOutcome) -> Command {
        let fence = self.state.run(run).and_then(|run| run.running()).map_or(0, |attempt| attempt.fence);
        let report = Report { exit_code: Some(1), error: "no such host".into(), ..Report::default() };
        let retry_after = Duration::from_secs(5);
        Command::Complete { run, fence, outcome, report: Arc::new(report), retry_after }
    }
}

fn due(time: &str) -> Due {
    Due { due_at: at(time), scheduled_at: at(time) }
}

fn run_at(time: &str) -> Verdict {
    let instant = at(time);
    let cause = Cause::Schedule;
    Verdict::Run { from: instant, scheduled_at: instant, due_at: instant, cause, stands_for: 1 }
}

fn without_records(line: &Value) -> Value {
    let mut line = line.clone();
    line.as_object_mut().expect("an object").remove("finished");
    line
}

/// Paths of nulls: what does not apply is left out.
fn nulls(value: &Value) -> Vec<String> {
    match value {
        Value::Null => vec![String::new()],
        Value::Array(items) => items.iter().flat_map(nulls).collect(),
        Value::Object(fields) => {
            let below = |(key, value): (&String, &Value)| {
                nulls(value).into_iter().map(|path| format!("{key}.{path}")).collect::<Vec<_>>()
            };
            fields.iter().flat_map(below).collect()
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

fn id(told: &Value) -> RunId {
    told["run_id"].as_str().expect("an id").parse().expect("an id")
}

#[test]
fn a_fired_run_is_told_from_its_instant_to_its_record() {
    let mut told = Told::default();
    let job = told.put(minutely("a"));
    let fire = told.fire(job, vec![run_at("10:00:00.000")], "10:01:00.000");
    let fired = told.one("10:00:00.003", fire);
    let run_id = format!("{}-{}", job.0, at("10:00:00.000").millis());
    let seen = json!({
        "run_id": run_id, "namespace": "default", "job": "a", "incarnation": job.0,
        "scheduled_at": "2026-03-02T10:00:00.000Z", "due_at": "2026-03-02T10:00:00.000Z",
        "cause": "schedule", "stands_for": 1, "state": "pending", "reason": "worker",
    });
    let instant = |time: &str| json!({"scheduled_at": time, "due_at": time});
    assert_eq!(
        fired,
        json!({
            "kind": "fire", "namespace": "default", "job": "a", "incarnation": job.0, "version": 1,
            "scheduled_at": "2026-03-02T10:00:00.000Z",
            "verdicts": [{
                "verdict": "run", "scheduled_at": "2026-03-02T10:00:00.000Z",
                "due_at": "2026-03-02T10:00:00.000Z", "cause": "schedule", "stands_for": 1,
            }],
            "next": instant("2026-03-02T10:01:00.000Z"),
            "decision": {
                "outcome": "fired", "runs": [seen], "started": 1, "version": 1,
                "armed": instant("2026-03-02T10:01:00.000Z"),
            },
        })
    );
    let run = id(&fired["decision"]["runs"][0]);
    let started = told.one("10:00:00.010", told.start(run));
    assert_eq!(
        (&started["decision"]["outcome"], &started["decision"]["fence"]),
        (&json!("started"), &json!(1))
    );
    assert_eq!(started["decision"]["run"]["state"], "running");
    assert!(started["decision"].get("probe").is_none());

    let line = told.apply("10:00:01.000", vec![told.complete(run, AttemptOutcome::Failed)]);
    let ended = &line["commands"][0];
    for (key, value) in [
        ("outcome", json!("failed")),
        ("fence", json!(1)),
        ("attempt", json!(1)),
        ("worker", json!("w1")),
        ("exit_code", json!(1)),
        ("error", json!("no such host")),
        ("retry_after", json!("5s")),
    ] {
        assert_eq!(ended[key], value, "{key}");
    }
    assert_eq!(ended["decision"]["ended"], true);
    let record = &line["finished"][0];
    assert_eq!((&record["run_id"], &record["state"]), (&json!(run_id), &json!("failed")));
    assert_eq!(record["attempts"][0]["exit_code"], 1);
    assert_eq!((&line["index"], &line["term"]), (&json!(4), &json!(3)));
    assert_eq!(
        (&line["at"], &line["now"]),
        (&json!("2026-03-02T10:00:01.000Z"), &json!("2026-03-02T10:00:01.000Z"))
    );
}

#[test]
fn what_is_missed_or_skipped_is_told_with_its_reason() {
    let mut told = Told::default();
    let mut spec = minutely("a");
    spec.overlap.policy = OverlapPolicy::Skip;
    let job = told.put(spec);
    let missed = Verdict::Missed { from: at("10:00:00.000"), until: at("10:04:00.000"), count: 5 };
    let catch_up = Verdict::Run {
        from: at("10:05:00.000"),
        scheduled_at: at("10:06:00.000"),
        due_at: at("10:06:00.000"),
        cause: Cause::CatchUp,
        stands_for: 2,
    };
    let fire = told.fire(job, vec![missed, catch_up, run_at("10:07:00.000")], "10:09:00.000");
    let line = told.apply("10:08:00.000", vec![fire]);
    let fired = &line["commands"][0];
    assert_eq!(
        fired["verdicts"][0],
        json!({"verdict": "missed", "scheduled_at": "2026-03-02T10:00:00.000Z",
               "scheduled_until": "2026-03-02T10:04:00.000Z", "stands_for": 5})
    );
    assert_eq!(fired["verdicts"][1]["scheduled_from"], "2026-03-02T10:05:00.000Z");
    let runs = fired["decision"]["runs"].as_array().expect("runs");
    let ends: Vec<_> = runs.iter().map(|run| (run["state"].clone(), run["reason"].clone())).collect();
    assert_eq!(
        ends,
        [
            (json!("skipped"), json!("catch_up")),
            (json!("pending"), json!("worker")),
            (json!("skipped"), json!("overlap")),
        ]
    );
    assert_eq!(fired["decision"]["started"], 1);
    assert_eq!(line["finished"].as_array().map(Vec::len), Some(2));
}

#[test]
fn refusals_name_their_rule_and_repeats_say_that_they_are_ones() {
    let mut told = Told::default();
    let job = told.put(minutely("a"));
    let unknown = told.one("09:59:31.000", Command::Retry { run: "99-5".parse().expect("an id") });
    assert_eq!(
        unknown,
        json!({
            "kind": "retry", "run_id": "99-5", "incarnation": 99, "scheduled_at": "1970-01-01T00:00:00.005Z",
            "decision": {"outcome": "rejected", "rejection": "no_run", "detail": "no such live run"},
        })
    );
    let early = told.fire(job, vec![run_at("10:00:00.000")], "10:01:00.000");
    assert_eq!(told.one("09:59:32.000", early)["decision"]["rejection"], "early");

    let job = told.state.job(job).expect("a job").reference();
    let asked = Request { operation_id: "op-1".into(), ..request("ada", "now") };
    let trigger = Command::TriggerJob { job, request: asked, params: [].into(), again: None, place: None };
    let first = told.one("09:59:33.000", trigger.clone());
    assert_eq!(
        (&first["operation_id"], &first["actor"], &first["reason"]),
        (&json!("op-1"), &json!("ada"), &json!("now"))
    );
    assert!(first["decision"].get("repeat").is_none());
    let run = id(&first["decision"]["run"]);
    let cancel = Command::CancelRun { run, request: Request::default() };
    let cancelled = told.one("09:59:34.000", cancel);
    assert_eq!(cancelled["decision"]["run"]["state"], "cancelled");
    let again = told.one("09:59:35.000", trigger);
    assert_eq!(again["decision"]["repeat"], true);
    // Its record is older than this entry, so only its name is told.
    assert_eq!(again["decision"]["run"]["run_id"], first["decision"]["run"]["run_id"]);
    assert!(again["decision"]["run"].get("state").is_none());
}

#[test]
fn jobs_are_told_with_their_definition_and_what_is_armed() {
    let mut told = Told::default();
    let spec = Arc::new(minutely("a"));
    let request = request("ada", "");
    let put = Command::PutJob { spec, next: Some(due("10:00:00.000")), request: request.clone(), reading: 0 };
    let line = told.apply("09:59:30.000", vec![put.clone(), put]);
    let (created, unchanged) = (&line["commands"][0], &line["commands"][1]);
    assert_eq!(created["spec"]["schedule"][0]["cron"], "* * * * *");
    assert_eq!((&created["namespace"], &created["job"]), (&json!("default"), &json!("a")));
    let armed = json!({"scheduled_at": "2026-03-02T10:00:00.000Z", "due_at": "2026-03-02T10:00:00.000Z"});
    assert_eq!((&created["next"], &created["decision"]["armed"]), (&armed, &armed));
    assert_eq!(
        (&created["decision"]["change"], &created["decision"]["version"]),
        (&json!("created"), &json!(1))
    );
    assert_eq!(unchanged["decision"]["change"], "unchanged");

    let reference = told.state.job_named("default", "a").expect("a job").reference();
    let pause = Command::PauseJob { job: reference.clone(), request: request.clone(), until: None };
    let paused = told.one("09:59:40.000", pause);
    assert_eq!((&paused["decision"]["outcome"], &paused["decision"]["version"]), (&json!("done"), &json!(2)));
    assert!(paused["decision"].get("armed").is_none());
    let next = Some(due("10:02:00.000"));
    let resume =
        Command::ResumeJob { job: reference.clone(), version: 2, next, request: request.clone(), reading: 0 };
    let resumed = told.one("09:59:50.000", resume);
    assert_eq!(resumed["decision"]["armed"]["scheduled_at"], "2026-03-02T10:02:00.000Z");
    let delete = Command::DeleteJob { job: reference, cancel_runs: true, request };
    let deleted = told.one("09:59:55.000", delete);
    assert_eq!(
        (&deleted["kind"], &deleted["job"], &deleted["cancel_runs"]),
        (&json!("delete_job"), &json!("a"), &json!(true))
    );
    assert!(deleted["decision"].get("version").is_none(), "the job is gone");
}

#[test]
fn each_transition_of_a_breaker_is_told_with_what_it_was_before() {
    let mut told = Told::default();
    let mut spec = minutely("a");
    spec.breaker.consecutive_failures = 1;
    spec.overlap.policy = OverlapPolicy::Allow;
    let job = told.put_armed(spec, None);
    let reference = told.state.job(job).expect("a job").reference();
    let trigger = Command::TriggerJob {
        job: reference.clone(),
        request: Request::default(),
        params: [].into(),
        again: None,
        place: None,
    };
    let run = id(&told.one("10:00:00.000", trigger.clone())["decision"]["run"]);
    told.one("10:00:01.000", told.start(run));
    let line = told.apply("10:00:02.000", vec![told.complete(run, AttemptOutcome::Failed)]);
    let named = json!({"namespace": "default", "breaker": "job:a", "incarnation": job.0});
    let with = |more: Value| {
        let mut all = named.clone();
        all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        all
    };
    assert_eq!(
        line["breakers"],
        json!([with(json!({
            "from": "closed", "to": "open", "reason": "consecutive_failures", "at": "2026-03-02T10:00:02.000Z",
            "open_until": "2026-03-02T10:01:02.000Z",
        }))])
    );
    let opened = told.index;
    let half_open = Command::HalfOpen { breaker: BreakerKey::Job(job), opened };
    let line = told.apply("10:01:02.000", vec![half_open]);
    assert_eq!(line["commands"][0]["opened_index"], opened);
    assert_eq!(
        (&line["breakers"][0]["from"], &line["breakers"][0]["to"]),
        (&json!("open"), &json!("half_open"))
    );

    // A probe starts and fails, and someone resets and trips the breaker, all in one entry.
    let run = id(&told.one("10:01:03.000", trigger)["decision"]["run"]);
    let started = told.one("10:01:04.000", told.start(run));
    assert_eq!(started["decision"]["probe"], true);
    let breaker = BreakerKey::Job(job);
    let by = |reason: &str| request("ada", reason);
    let reset = Command::ResetBreaker { breaker: breaker.clone(), request: by("mended") };
    let trip =
        Command::TripBreaker { breaker, open_for: Some(Duration::from_secs(90)), request: by("again") };
    let line = told.apply("10:01:05.000", vec![told.complete(run, AttemptOutcome::TimedOut), reset, trip]);
    assert_eq!(line["commands"][2]["open_for"], "1m30s");
    let steps: Vec<_> = line["breakers"]
        .as_array()
        .expect("transitions")
        .iter()
        .map(|it| [&it["from"], &it["to"], &it["reason"], &it["detail"], &it["actor"]].map(Value::clone))
        .collect();
    let step = |from, to, reason, detail: Option<&str>| {
        let actor = detail.map(|_| "ada");
        [json!(from), json!(to), json!(reason), json!(detail), json!(actor)]
    };
    assert_eq!(
        steps,
        [
            step("half_open", "open", "probe_failed", None),
            step("open", "closed", "reset", Some("mended")),
            step("closed", "open", "tripped", Some("again")),
        ]
    );
    let delete = Command::DeleteJob { job: reference, cancel_runs: true, request: Request::default() };
    let line = told.apply("10:01:06.000", vec![delete]);
    assert_eq!(
        line["breakers"],
        json!([with(json!({"from": "open", "to": "removed", "at": "2026-03-02T10:01:06.000Z"}))])
    );
}

#[test]
fn attempts_that_are_lost_with_their_worker_are_named() {
    let mut told = Told::default();
    let mut spec = minutely("a");
    spec.overlap.policy = OverlapPolicy::Allow;
    let job = told.put(spec);
    let reference = told.state.job(job).expect("a job").reference();
    let trigger = Command::TriggerJob {
        job: reference,
        request: Request::default(),
        params: [].into(),
        again: None,
        place: None,
    };
    let run = id(&told.one("10:00:00.000", trigger)["decision"]["run"]);
    told.one("10:00:01.000", told.start(run));
    let expect = told.state.lease(&"w1".into()).expect("a lease");
    let retry_after = Duration::from_secs(1);
    let lose = Command::Lose { worker: "w1".into(), expect, retry_after };
    let line = told.apply("10:00:20.000", vec![lose]);
    let lost = &line["commands"][0];
    assert_eq!(lost["lease_until"], expect.to_string());
    assert_eq!(
        lost["decision"],
        json!({"outcome": "done", "lost": [{"run_id": run.to_string(), "attempt": 1, "fence": 1}]})
    );
    assert_eq!(
        (&line["finished"][0]["state"], &line["finished"][0]["reason"]),
        (&json!("failed"), &json!("lost"))
    );
}

#[test]
fn entries_of_the_protocol_and_the_end_have_their_own_form() {
    let line = |content: Content<'_>| {
        let state = State::default();
        let position = LogPosition { term: 1, index: 0 };
        let mut text = Vec::new();
        write_entry(&Replayed { position, content, before: &state, after: &state }, &mut text);
        String::from_utf8(text).expect("text")
    };
    assert_eq!(line(Content::Blank), "{\"index\":0,\"term\":1,\"kind\":\"blank\"}\n");
    let node = NodeAddress { peer_address: "p:1".to_owned(), address: "c:1".to_owned() };
    let membership = Content::Membership {
        voters: &[BTreeSet::from([1]), BTreeSet::from([1, 2])],
        learners: BTreeSet::from([3]),
        nodes: BTreeMap::from([(1, node)]),
    };
    assert_eq!(
        line(membership),
        "{\"index\":0,\"term\":1,\"kind\":\"membership\",\"voters\":[1,2],\"voters_before\":[1],\"learners\":[3],\
         \"nodes\":[{\"node_id\":1,\"peer_address\":\"p:1\",\"address\":\"c:1\"}]}\n"
    );
    let mut text = Vec::new();
    write_end(7, StateHash([0xab; 32]), &mut text);
    assert_eq!(text, format!("{{\"through\":7,\"state_hash\":\"{}\"}}\n", "ab".repeat(32)).as_bytes());
}
