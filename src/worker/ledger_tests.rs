use std::time::Duration;

use super::*;
use crate::target::{Exec, Outcome, Program, Report, Target};

fn key(run_id: &str, fence: u64) -> Key {
    Key { run_id: run_id.into(), fence }
}

fn order(key: &Key) -> Result<target::Order, OrderError> {
    let exec = Exec {
        program: Program::Command(vec!["true".to_owned()]),
        env: BTreeMap::new(),
        cwd: None,
        stdin: None,
    };
    Ok(target::Order {
        job: "job".to_owned(),
        namespace: "default".to_owned(),
        run_id: key.run_id.to_string(),
        scheduled_at: "2026-03-29T01:00:00.000Z".to_owned(),
        attempt: 1,
        fence: key.fence,
        timeout: None,
        traceparent: None,
        params: BTreeMap::new(),
        chain_id: None,
        inputs: BTreeMap::new(),
        cluster_id: String::new(),
        next_at: None,
        delivery: 0,
        target: Target::Exec(exec),
    })
}

fn accept(ledger: &mut Ledger, key: &Key) {
    ledger.accept(key, order(key)).expect("there is room");
}

fn started(ledger: &mut Ledger) -> Vec<Key> {
    std::iter::from_fn(|| ledger.start_next()).map(|start| start.key).collect()
}

fn reports(ledger: &mut Ledger, now: Instant) -> Vec<(Key, pb::Outcome)> {
    let reports = std::iter::from_fn(|| ledger.next_report(now));
    reports.map(|report| (key(&report.run_id, report.fence), report.outcome())).collect()
}

#[tokio::test]
async fn an_order_is_started_once_however_often_and_late_it_is_repeated() {
    let (mut ledger, one) = (Ledger::new(4), key("r", 1));
    accept(&mut ledger, &one);
    accept(&mut ledger, &one);
    assert_eq!(started(&mut ledger), [key("r", 1)]);
    accept(&mut ledger, &one);
    assert!(started(&mut ledger).is_empty(), "it runs");
    ledger.ended(&one, Report::of(Outcome::Succeeded));
    accept(&mut ledger, &one);
    assert!(started(&mut ledger).is_empty(), "it has ended");
    ledger.acknowledge(&one);
    accept(&mut ledger, &one);
    assert!(started(&mut ledger).is_empty(), "it was acknowledged");
    assert!(ledger.held().is_empty());
}

#[tokio::test]
async fn runs_that_one_entry_started_share_a_fence_and_are_told_apart() {
    let mut ledger = Ledger::new(4);
    accept(&mut ledger, &key("r", 1));
    accept(&mut ledger, &key("s", 1));
    assert_eq!(started(&mut ledger).len(), 2);
}

#[tokio::test]
async fn a_report_is_owed_until_it_is_acknowledged() {
    let (mut ledger, one, now) = (Ledger::new(1), key("r", 1), Instant::now());
    accept(&mut ledger, &one);
    started(&mut ledger);
    ledger.ended(&one, Report::of(Outcome::Succeeded));
    let expected = [(one.clone(), pb::Outcome::Succeeded)];
    assert_eq!(reports(&mut ledger, now), expected);
    assert!(!ledger.owes_report(), "sent once");
    ledger.repeat_reports(now + REPORT_REPEAT - Duration::from_millis(1));
    assert!(!ledger.owes_report(), "its time has not come");
    ledger.repeat_reports(now + REPORT_REPEAT);
    assert_eq!(reports(&mut ledger, now + REPORT_REPEAT), expected);
    ledger.stream_opened();
    assert_eq!(reports(&mut ledger, now + REPORT_REPEAT), expected, "a new leader may not have it");
    ledger.acknowledge(&one);
    ledger.stream_opened();
    assert!(!ledger.owes_report());
    assert_eq!(ledger.unacknowledged(), 0);
}

#[tokio::test]
async fn a_larger_fence_stops_the_older_attempt_and_begins_after_it() {
    let (mut ledger, old, new) = (Ledger::new(4), key("r", 1), key("r", 2));
    accept(&mut ledger, &old);
    let start = ledger.start_next().expect("a free slot");
    accept(&mut ledger, &new);
    assert!(start.cancel.is_cancelled());
    assert!(started(&mut ledger).is_empty(), "the older attempt still runs");
    accept(&mut ledger, &key("s", 2));
    assert_eq!(started(&mut ledger), [key("s", 2)], "who waits for its predecessor holds nobody up");
    ledger.ended(&old, Report::of(Outcome::Cancelled));
    assert_eq!(started(&mut ledger), [new]);
    assert_eq!(reports(&mut ledger, Instant::now()), [(old, pb::Outcome::Cancelled)]);
}

#[tokio::test]
async fn a_smaller_fence_of_the_same_run_is_never_started() {
    let (mut ledger, old, new) = (Ledger::new(4), key("r", 1), key("r", 2));
    accept(&mut ledger, &new);
    assert_eq!(started(&mut ledger), [key("r", 2)]);
    accept(&mut ledger, &old);
    assert!(started(&mut ledger).is_empty());
    assert_eq!(reports(&mut ledger, Instant::now()), [(old.clone(), pb::Outcome::Cancelled)]);
    ledger.acknowledge(&old);
    ledger.ended(&new, Report::of(Outcome::Succeeded));
    ledger.acknowledge(&new);
    accept(&mut ledger, &key("r", 0));
    assert!(started(&mut ledger).is_empty(), "also when the newer one is only remembered");
}

#[tokio::test]
async fn orders_beyond_slots_wait_and_beyond_that_are_refused_and_then_the_leader_is_left() {
    let mut ledger = Ledger::new(1);
    let nth = |n: usize| key(&format!("r{n:05}"), 1);
    for n in 0..=WAITING_MAX {
        accept(&mut ledger, &nth(n));
    }
    assert_eq!(started(&mut ledger), [nth(0)]);
    assert_eq!(ledger.waiting(), WAITING_MAX);
    assert!(!ledger.owes_report());
    accept(&mut ledger, &nth(WAITING_MAX + 1));
    assert_eq!(reports(&mut ledger, Instant::now()), [(nth(WAITING_MAX + 1), pb::Outcome::Failed)]);
    for n in WAITING_MAX + 2..1 + 2 * WAITING_MAX {
        accept(&mut ledger, &nth(n));
    }
    let last = nth(1 + 2 * WAITING_MAX);
    assert_eq!(ledger.accept(&last, order(&last)), Err(Overflow));
    assert_eq!(ledger.cancel(&last), Err(Overflow));
    ledger.ended(&nth(0), Report::of(Outcome::Succeeded));
    assert_eq!(started(&mut ledger), [nth(1)], "in the order of arrival");
}

#[tokio::test]
async fn a_cancel_is_always_answered() {
    let (mut ledger, now) = (Ledger::new(1), Instant::now());
    let (runs, waits, unknown) = (key("a", 1), key("b", 1), key("c", 1));
    accept(&mut ledger, &runs);
    accept(&mut ledger, &waits);
    let start = ledger.start_next().expect("a free slot");
    for attempt in [&runs, &waits, &unknown] {
        ledger.cancel(attempt).expect("there is room");
    }
    assert!(start.cancel.is_cancelled());
    let cancelled = pb::Outcome::Cancelled;
    assert_eq!(reports(&mut ledger, now), [(waits, cancelled), (unknown.clone(), cancelled)]);
    ledger.ended(&runs, Report::of(Outcome::Cancelled));
    assert_eq!(reports(&mut ledger, now), [(runs.clone(), cancelled)]);
    accept(&mut ledger, &unknown);
    assert!(started(&mut ledger).is_empty(), "the order that the cancel overtook");
    ledger.acknowledge(&runs);
    ledger.cancel(&runs).expect("there is room");
    assert!(reports(&mut ledger, now).is_empty(), "what was acknowledged is over");
}

#[tokio::test]
async fn what_succeeded_before_the_cancel_reached_it_is_reported_so() {
    let (mut ledger, one) = (Ledger::new(1), key("r", 1));
    accept(&mut ledger, &one);
    started(&mut ledger);
    ledger.cancel(&one).expect("held");
    ledger.ended(&one, Report::of(Outcome::Succeeded));
    assert_eq!(reports(&mut ledger, Instant::now()), [(one, pb::Outcome::Succeeded)]);
}

#[tokio::test]
async fn leaving_reports_what_it_stops_as_lost_but_not_what_the_leader_cancelled() {
    let (mut ledger, now) = (Ledger::new(3), Instant::now());
    let [stops, cancelled, hangs, waits] = ["a", "b", "c", "d"].map(|run| key(run, 1));
    for attempt in [&stops, &cancelled, &hangs, &waits] {
        accept(&mut ledger, attempt);
    }
    assert_eq!(started(&mut ledger).len(), 3);
    ledger.cancel(&cancelled).expect("held");
    assert_eq!(ledger.leave(), 4);
    ledger.ended(&stops, Report::of(Outcome::Cancelled));
    ledger.ended(&cancelled, Report::of(Outcome::Cancelled));
    ledger.abandon_running();
    let lost = pb::Outcome::Lost;
    let expected = [(stops, lost), (cancelled, pb::Outcome::Cancelled), (hangs.clone(), lost), (waits, lost)];
    assert_eq!(reports(&mut ledger, now), expected);
    ledger.ended(&hangs, Report::of(Outcome::Cancelled));
    assert_eq!(
        (ledger.running(), ledger.unacknowledged()),
        (0, 4),
        "the end of a dropped attempt changes nothing"
    );
}

#[test]
fn the_memory_of_acknowledged_attempts_is_bounded() {
    let mut remembered = Remembered::default();
    for fence in 0..ACKNOWLEDGED_MAX as u64 + 10 {
        remembered.insert(key("r", fence));
    }
    assert_eq!((remembered.set.len(), remembered.oldest_first.len()), (ACKNOWLEDGED_MAX, ACKNOWLEDGED_MAX));
    assert!(!remembered.contains(&key("r", 9)));
    assert!(remembered.contains(&key("r", 10)));
}
