//! The data of the time zones: what moves with other data, who says so, and what is refused.

use super::*;
use crate::scheduler::zone::Zones;

/// The bundled data, with the file of another zone in the place of one; without it where there is none.
fn data(release: &str, zone: &str, other: Option<&str>) -> pb::ZoneData {
    let bundled = Zones::bundled();
    let mut files: Vec<pb::ZoneFile> = Vec::new();
    for file in &bundled.data().files {
        let names: Vec<String> = file.names.iter().filter(|name| *name != zone).cloned().collect();
        if let Some(other) = other.filter(|other| file.names.iter().any(|name| name == other)) {
            assert_ne!(other, zone);
            files.push(pb::ZoneFile { names: vec![zone.to_owned()], tzif: file.tzif.clone() });
        }
        if !names.is_empty() {
            files.push(pb::ZoneFile { names, tzif: file.tzif.clone() });
        }
    }
    pb::ZoneData { release: release.to_owned(), files }
}

fn noon(name: &str, timezone: &str) -> pb::JobSpec {
    let (cron, timezone) = ("0 12 * * *".to_owned(), timezone.to_owned());
    pb::JobSpec { schedule: vec![pb::Schedule { cron, timezone, ..Default::default() }], ..job(name) }
}

impl Node {
    async fn set_tzdata(
        &self,
        data: Option<pb::ZoneData>,
        dry_run: bool,
    ) -> Result<pb::SetTzdataResponse, tonic::Status> {
        let request = pb::SetTzdataRequest { data, dry_run, actor: "ada".to_owned(), ..Default::default() };
        self.api.set_tzdata(Request::new(request)).await.map(tonic::Response::into_inner)
    }

    async fn status(&self) -> pb::ClusterStatus {
        self.api.get_status(Request::new(pb::GetStatusRequest {})).await.unwrap().into_inner()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_data_says_what_moves_and_is_what_schedules_are_read_with_from_then_on() {
    let node = Node::start().await;
    node.apply(vec![noon("tokyo", "Asia/Tokyo"), noon("paris", "Europe/Paris"), noon("utc", "")], false)
        .await;
    let before = node.status().await;
    assert!(!before.tzdata_pinned, "this node has no loop that pins what it ships");
    let new = || Some(data("2099z", "Asia/Tokyo", Some("Etc/GMT-10")));
    for dry_run in [true, false] {
        let answer = node.set_tzdata(new(), dry_run).await.unwrap();
        assert_eq!((answer.release.as_str(), &answer.release_before), ("2099z", &before.tzdata));
        assert_eq!((answer.hash_before.as_str(), answer.unchanged), (before.tzdata_hash.as_str(), false));
        let [zone] = answer.zones.as_slice() else { panic!("{:?}", answer.zones) };
        assert_eq!(
            (zone.name.as_str(), zone.old_offset, zone.new_offset),
            ("Asia/Tokyo", 32_400, Some(36_000))
        );
        let [moved] = answer.jobs.as_slice() else { panic!("{:?}", answer.jobs) };
        assert_eq!((moved.name.as_str(), answer.moved_jobs, answer.unknown_jobs), ("tokyo", 1, 0));
        let of_day = |at: Option<prost_types::Timestamp>| at.map(|at| at.seconds % 86_400 / 3_600);
        assert!(of_day(moved.old_at) == Some(3) || of_day(moved.new_at) == Some(2), "{moved:?}");
        let status = node.status().await;
        assert_eq!(status.tzdata_pinned, !dry_run);
        assert_eq!(status.tzdata == "2099z", !dry_run);
        assert_eq!(status.tzdata_in_binary, before.tzdata);
    }
    let again = node.set_tzdata(new(), false).await.unwrap();
    assert!(again.unchanged && again.jobs.is_empty(), "{again:?}");
    // Whatever node is asked reads schedules with it, of jobs that come as well.
    let applied = node.apply(vec![noon("osaka", "Asia/Tokyo")], false).await;
    let next = applied[0].next_at.unwrap().seconds % 86_400;
    assert_eq!(next, 2 * 3_600, "noon at +10:00");
    let ask = pb::NextOccurrencesRequest { name: "tokyo".to_owned(), count: 1, ..Default::default() };
    let next = node.api.next_occurrences(Request::new(ask)).await.unwrap().into_inner();
    assert!(next.occurrences[0].local.ends_with("T12:00:00.000+10:00"), "{next:?}");
    // Back to what the binary ships.
    let back = node.set_tzdata(None, false).await.unwrap();
    assert_eq!((&back.release, &back.hash), (&before.tzdata, &before.tzdata_hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn data_without_a_zone_that_a_job_names_is_refused_and_names_the_job() {
    let node = Node::start().await;
    node.apply(vec![noon("tokyo", "Asia/Tokyo")], false).await;
    let refused = node.set_tzdata(Some(data("2099z", "Asia/Tokyo", None)), false).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let expected =
        "jobs could not be read with this data: default/tokyo: schedule 1: timezone: unknown time zone";
    assert!(refused.message().starts_with(expected), "{refused:?}");
    assert!(refused.metadata().contains_key(status::HINT));
    let mut broken = data("2099z", "Asia/Tokyo", Some("Etc/GMT-10"));
    broken.files[7].tzif.truncate(20);
    let name = broken.files[7].names.iter().min().unwrap().clone();
    let refused = node.set_tzdata(Some(broken), false).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with(&format!("data: zone {name}: ")), "{refused:?}");
    assert!(!node.status().await.tzdata_pinned);
}
