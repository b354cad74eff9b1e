//! Calendars on real nodes: what they exclude is skipped, under the next leader too, until the calendar changes.

use chronarch::pb::v1;

use crate::harness::{Harness, eventually};

const JOB: &str = "name: a\nschedule: {every: 500ms, exclude: [closed]}\ntarget: {exec: {command: [\"true\"]}}\noverlap: allow\n";

async fn close(harness: &Harness, days: &str) {
    let weekly = vec![v1::WeeklyHours { days: days.to_owned(), ..v1::WeeklyHours::default() }];
    let spec = v1::CalendarSpec { name: "closed".into(), weekly, ..v1::CalendarSpec::default() };
    let request = v1::SetCalendarRequest { spec: Some(spec), ..v1::SetCalendarRequest::default() };
    harness.client.set_calendar(request).await.expect("the calendar is accepted");
}

fn is_excluded(run: &v1::Run) -> bool {
    run.state() == v1::RunState::Skipped && run.reason == "calendar"
}

/// Waits until the newest records are of a kind, from the newest that is there on.
async fn goes_on(harness: &Harness, what: &str, is_it: impl Fn(&v1::Run) -> bool) {
    let last = harness.runs("a").await.first().map(|run| run.run_id.clone());
    eventually(what, || async {
        let runs = harness.runs("a").await;
        let newer: Vec<_> = runs.iter().take_while(|run| Some(&run.run_id) != last.as_ref()).collect();
        (newer.iter().filter(|run| is_it(run)).count() >= 3).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_calendar_excludes_is_skipped_under_each_leader_until_it_allows_it() {
    let mut harness = Harness::start("[worker]\nallow_exec = true\n").await;
    close(&harness, "mon..sun").await;
    harness.apply(JOB).await;
    goes_on(&harness, "occurrences that are skipped", is_excluded).await;
    let leader = harness.leader().await;
    harness.cluster.kill(leader).await.expect("it ran");
    goes_on(&harness, "the next leader to skip them", is_excluded).await;
    assert!(harness.runs("a").await.iter().all(|run| run.state() == v1::RunState::Skipped));
    // A day that is neither today's nor a neighbour's, wherever the test runs: one entry has to be there.
    let spec = v1::CalendarSpec {
        name: "closed".into(),
        dates: vec!["2001-01-01".into()],
        ..v1::CalendarSpec::default()
    };
    let request = v1::SetCalendarRequest { spec: Some(spec), ..v1::SetCalendarRequest::default() };
    harness.client.set_calendar(request).await.expect("the calendar is accepted");
    goes_on(&harness, "runs", |run| run.state() == v1::RunState::Succeeded).await;
}
