//! Calendars: defined as a whole, named by jobs, and what is said of jobs behind them.

use super::*;
use crate::pb::v1::calendar_service_server::CalendarService as _;

fn set(name: &str, dates: &[&str], dry_run: bool) -> Request<pb::SetCalendarRequest> {
    let spec = pb::CalendarSpec {
        name: name.to_owned(),
        dates: dates.iter().map(|date| (*date).to_owned()).collect(),
        ..Default::default()
    };
    Request::new(pb::SetCalendarRequest {
        spec: Some(spec),
        dry_run,
        actor: "ada".to_owned(),
        reason: "law".to_owned(),
        ..Default::default()
    })
}

fn delete(name: &str) -> Request<pb::DeleteCalendarRequest> {
    Request::new(pb::DeleteCalendarRequest { name: name.to_owned(), ..Default::default() })
}

fn behind(name: &str, exclude: &[&str], only: &[&str]) -> pb::JobSpec {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let schedule = pb::Schedule {
        cron: "30 9 * * *".to_owned(),
        exclude: names(exclude),
        only: names(only),
        ..Default::default()
    };
    pb::JobSpec { schedule: vec![schedule], ..job(name) }
}

async fn node() -> Node {
    let node = Node::start().await;
    node.propose(vec![Command::RaiseLevel { from: 0, to: 1 }]).await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calendar_has_versions_and_stays_while_a_job_names_it() {
    let node = node().await;
    for (dates, dry_run, version, change) in [
        (&["12-25"][..], true, 0, pb::Change::Created),
        (&["12-25"], false, 1, pb::Change::Created),
        (&["12-25"], false, 1, pb::Change::Unchanged),
        (&["12-25", "12-26"], true, 1, pb::Change::Updated),
        (&["12-25", "12-26"], false, 2, pb::Change::Updated),
    ] {
        let answer = node.api.set_calendar(set("de", dates, dry_run)).await.unwrap().into_inner();
        let calendar = answer.calendar.clone().unwrap();
        assert_eq!((calendar.version, answer.change()), (version, change), "{dates:?} {dry_run}");
    }
    node.apply(vec![behind("a", &["de"], &[])], false).await;
    let get = pb::GetCalendarRequest { name: "de".to_owned(), stale: false };
    let shown = node.api.get_calendar(Request::new(get)).await.unwrap().into_inner();
    assert_eq!((shown.jobs, shown.actor.as_str(), shown.reason.as_str()), (1, "ada", "law"));
    let refused = node.api.delete_calendar(delete("de")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.message(), "calendar \"de\" is named by job default/a");
    let gone = pb::DeleteJobRequest { name: "a".to_owned(), ..Default::default() };
    node.api.delete_job(Request::new(gone)).await.unwrap();
    node.api.delete_calendar(delete("de")).await.unwrap();
    let refused = node.api.delete_calendar(delete("de")).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, "no such calendar"));
    let list = node.api.list_calendars(Request::new(pb::ListCalendarsRequest::default())).await.unwrap();
    assert_eq!(list.into_inner().calendars, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calendar_that_is_not_there_is_named_with_the_nearest_that_is() {
    let node = node().await;
    node.api.set_calendar(set("holidays-de", &["12-25"], false)).await.unwrap();
    let request = pb::ApplyJobsRequest {
        jobs: vec![behind("a", &["holidays-de"], &["holiday-de"])],
        ..Default::default()
    };
    let refused = node.api.apply_jobs(Request::new(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(
        refused.message(),
        "jobs[0].schedule.only[0]: there is no calendar `holiday-de`\nhint: did you mean `holidays-de`?"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn occurrences_and_jobs_that_never_come_tell_of_the_calendar() {
    let node = node().await;
    node.api.set_calendar(set("gone", &["2001-01-01"], false)).await.unwrap();
    node.api.set_calendar(set("de", &["2026-12-25 Christmas", "2026-12-26"], false)).await.unwrap();
    let applied = node.apply(vec![behind("a", &[], &["gone"]), behind("b", &["de"], &[])], false).await;
    let warning = &applied[0].warnings[0];
    assert!(warning.contains("the last one by gone: does not cover it"), "{warning}");
    assert_eq!(applied[1].warnings, Vec::<String>::new());
    let put_off =
        pb::JobSpec { on_excluded: pb::OnExcluded::NextAllowed.into(), ..behind("c", &["de"], &[]) };
    node.apply(vec![put_off], false).await;
    for (name, told) in [
        ("b", "skipped by calendar de: 2026-12-25 Christmas"),
        ("c", "put off to 2026-12-27T09:30:00.000Z by calendar de: 2026-12-25 Christmas"),
    ] {
        let request = pb::NextOccurrencesRequest {
            name: name.to_owned(),
            after: Some(prost_types::Timestamp { seconds: 1_798_070_400, nanos: 0 }),
            count: 3,
            ..Default::default()
        };
        let found = node.api.next_occurrences(Request::new(request)).await.unwrap().into_inner();
        let notes: Vec<&str> = found.occurrences.iter().map(|found| found.note.as_str()).collect();
        assert_eq!(notes[..2], ["", told], "{found:?}");
    }
}
