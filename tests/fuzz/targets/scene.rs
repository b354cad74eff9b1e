//! A state in which something of everything lives.

use std::sync::Arc;
use std::time::Duration;

use chronarch::api::spec::from_pb;
use chronarch::client::job_file::{self, Format};
use chronarch::scheduler::occurrences::arm;
use chronarch::scheduler::set::ScheduleSet;
use chronarch::state::run::{AttemptOutcome, Report};
use chronarch::state::{Command, Entry, Request, State};

use super::log::{at, settle};

/// Jobs of each policy.
const JOBS: &str = "
- {name: plain, schedule: {every: 1s}, target: {exec: {command: [a]}}, overlap: {policy: queue, limit: 2}}
- {name: retried, schedule: {every: 2s}, target: {http: {url: 'http://h/'}}, retry: {max_attempts: 3, initial: 10s}}
- {name: shared-1, schedule: {every: 1s}, target: {http: {url: 'http://h/'}}, overlap: replace,
   breaker: {name: feed, consecutive_failures: 1, probes: 2, open_for: 2s, on_open: hold}}
- {name: shared-2, schedule: {cron: '* * * * * *', jitter: 500ms}, target: {exec: {shell: b}}, overlap: allow,
   breaker: {name: feed, consecutive_failures: 1, probes: 2, open_for: 2s, on_open: hold}}
- {name: rated, schedule: {every: 500ms}, target: {http: {url: 'http://h/'}}, start_within: 1s, on_lost: rerun,
   breaker: {failure_rate: 0.5, minimum_attempts: 1, window: 10s, open_for: 1h, consecutive_failures: 0}}
- {name: by-hand, target: {exec: {command: [c, d]}}, requires: {zone: moon}, retention: {runs: 3, age: 1d}}
";

pub(super) fn make() -> State {
    let mut state = State::default();
    let documents = job_file::read("scene", Format::Yaml, JOBS).expect("the jobs of the scene are sound");
    let put = |document: &job_file::Document| {
        let spec = from_pb(&document.spec).expect("the server takes the jobs of the scene");
        let set = ScheduleSet::of(&spec, &chronarch::scheduler::almanac::Almanac::bundled())
            .expect("a sound schedule");
        let next = arm(&spec, &set, at(0));
        Command::PutJob { spec: Arc::new(spec), next, request: Request::default(), reading: 0 }
    };
    let mut index = 1;
    let mut apply = |state: &mut State, millis, commands| {
        index = state.applied_index().max(index) + 1;
        state.apply(index, &Entry { at: at(millis), commands })
    };
    apply(&mut state, 0, documents.iter().map(put).collect());
    let lead = Command::Lead { node: 1, term: 1, silent_for: Some(Duration::from_secs(1)) };
    apply(&mut state, 100, vec![lead]);
    settle(&mut state);
    let fail = end_all(&state, AttemptOutcome::Failed);
    apply(&mut state, 2_000, fail);
    let by_hand = state.job_named("default", "by-hand").expect("it is there").reference();
    let trigger = Command::TriggerJob {
        params: [].into(),
        again: None,
        place: None,
        job: by_hand,
        request: Request { operation_id: "op".to_owned(), actor: "me".to_owned(), reason: "x".to_owned() },
    };
    apply(&mut state, 2_000, vec![trigger]);
    settle(&mut state);
    assert_eq!(state.verify(), Ok(()));
    state
}

fn end_all(state: &State, outcome: AttemptOutcome) -> Vec<Command> {
    let running = state.runs().filter_map(|run| Some((run.id, run.running()?.fence)));
    running
        .map(|(run, fence)| {
            let report = Report { http_status: Some(503), error: "busy".to_owned(), ..Report::default() };
            Command::Complete { run, fence, outcome, report: Arc::new(report), retry_after: Duration::ZERO }
        })
        .collect()
}
