//! The kinds of schedules as a request writes them.

use super::super::{from_pb, pb};
use crate::state::schedule::{Gap, Rule};
use crate::view;

fn job(schedules: Vec<pb::Schedule>) -> pb::JobSpec {
    let target = pb::HttpTarget { url: "https://example.org/".to_owned(), ..Default::default() };
    pb::JobSpec {
        name: "job".to_owned(),
        schedule: schedules,
        target: Some(pb::Target { http: Some(target), ..Default::default() }),
        ..Default::default()
    }
}

fn span(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn rrule(text: &str) -> pb::Schedule {
    pb::Schedule { rrule: text.to_owned(), ..Default::default() }
}

fn calendar(text: &str) -> pb::Schedule {
    pb::Schedule { calendar: text.to_owned(), ..Default::default() }
}

fn solar(event: pb::SolarEvent, latitude: f64) -> pb::Schedule {
    let solar = pb::Solar { event: event.into(), latitude: Some(latitude), longitude: Some(-13.405_001) };
    pb::Schedule { solar: Some(solar), ..Default::default() }
}

fn rest() -> pb::Schedule {
    pb::Schedule { every: span(600), from: pb::EveryFrom::Completion.into(), ..Default::default() }
}

fn wrong(schedules: Vec<pb::Schedule>) -> String {
    from_pb(&job(schedules)).expect_err("a refusal").to_string()
}

#[test]
fn each_kind_is_read_and_shown_as_it_was_written() {
    let start_at = Some(prost_types::Timestamp { seconds: 1_767_225_600, nanos: 0 });
    let counted = pb::Schedule { count: Some(5), start_at, ..calendar("Mon..Fri *-*-* 09:00") };
    let mut kinds = vec![
        rrule("DTSTART:20260105T090000 RRULE:FREQ=WEEKLY;BYDAY=MO"),
        calendar("quarterly Asia/Tokyo"),
        counted,
        pb::Schedule {
            cron: "0 0 6 LW * ?".to_owned(),
            dialect: pb::Dialect::Quartz.into(),
            ..Default::default()
        },
        pb::Schedule {
            cron: "cron(0 6 L * ? *)".to_owned(),
            dialect: pb::Dialect::Aws.into(),
            ..Default::default()
        },
    ];
    kinds.extend(
        (1..=9).filter_map(|event| pb::SolarEvent::try_from(event).ok()).map(|event| solar(event, 52.52)),
    );
    for schedules in [kinds, vec![rest()]] {
        let spec = from_pb(&job(schedules.clone())).expect("sound schedules");
        let shown = view::spec::to_pb(&spec);
        for (asked, shown) in schedules.iter().zip(&shown.schedule) {
            let dst = shown.dst;
            let asked = pb::Schedule { timezone: "UTC".to_owned(), dst, ..asked.clone() };
            assert_eq!(
                &asked,
                &pb::Schedule { dialect: asked.dialect, day_rule: asked.day_rule, ..shown.clone() }
            );
        }
        assert_eq!(from_pb(&shown), Ok(spec), "read again it is the same");
    }
}

#[test]
fn a_gap_is_read_as_the_kind_has_it_unless_the_schedule_says_so() {
    let gap = |schedule: pb::Schedule| from_pb(&job(vec![schedule])).expect("sound").schedules[0].gap;
    assert_eq!(gap(rrule("FREQ=DAILY;BYHOUR=2")), Gap::Shift);
    assert_eq!(gap(calendar("2:30")), Gap::RunAtEnd);
    let dst = Some(pb::Dst { gap: pb::Gap::Skip.into(), fold: 0 });
    assert_eq!(gap(pb::Schedule { dst, ..rrule("FREQ=DAILY;BYHOUR=2") }), Gap::Skip);
}

#[test]
fn from_epoch_is_the_default() {
    let read = |from: pb::EveryFrom| {
        let schedule = pb::Schedule { every: span(60), from: from.into(), ..Default::default() };
        from_pb(&job(vec![schedule])).expect("sound").schedules.remove(0).rule
    };
    assert_eq!(read(pb::EveryFrom::Epoch), read(pb::EveryFrom::Unspecified));
    assert!(matches!(read(pb::EveryFrom::Completion), Rule::AfterCompletion { .. }));
}

#[test]
fn what_does_not_go_together_is_refused_by_name() {
    let two = pb::Schedule { calendar: "daily".to_owned(), ..rrule("FREQ=DAILY") };
    let nowhere = pb::Schedule { solar: Some(pb::Solar::default()), ..Default::default() };
    for (schedules, expected) in [
        (
            vec![two],
            "schedule: exactly one of cron, every, at, rrule, calendar and solar is needed, found rrule and calendar",
        ),
        (
            vec![rest(), calendar("daily")],
            "schedule: `from: completion` must be the only schedule of its job",
        ),
        (vec![pb::Schedule { offset: span(5), ..rest() }], "schedule.offset: belongs to `from: epoch` alone"),
        (vec![pb::Schedule { from: 2, ..calendar("daily") }], "schedule.from: belongs to `every` alone"),
        (
            vec![pb::Schedule { from: 9, every: span(60), ..Default::default() }],
            "schedule.from: unknown value 9; the client is newer than this node",
        ),
        (vec![pb::Schedule { dialect: 2, ..calendar("daily") }], "schedule.dialect: belongs to `cron` alone"),
        (
            vec![pb::Schedule { count: Some(3), ..calendar("daily") }],
            "schedule.count: start_at is missing, from which it counts\nhint: name the first instant: `start_at: 2026-01-01T00:00:00Z`",
        ),
        (
            vec![nowhere],
            "schedule.solar.event: is missing\nschedule.solar.latitude: is missing\nschedule.solar.longitude: is missing",
        ),
        (
            vec![solar(pb::SolarEvent::Sunset, 91.0)],
            "schedule.solar: latitude: 91 is out of range, expected -90 to 90\nhint: the latitude comes first, north of the equator positive",
        ),
        (vec![solar(pb::SolarEvent::Sunset, f64::NAN)], "schedule.solar.latitude: is no number"),
        (
            vec![calendar("Mon 24:00")],
            "schedule.calendar: column 5: hour: 24 is out of range, expected 0 to 23\nhint: midnight is `00:00`",
        ),
        (
            vec![rrule("FREQ=DAYLY")],
            "schedule.rrule: column 6: FREQ: found `DAYLY`, expected SECONDLY, MINUTELY, HOURLY, DAILY, WEEKLY, MONTHLY or YEARLY\nhint: did you mean `DAILY`?",
        ),
        (
            vec![rrule("DTSTART:20260105T090000 RRULE:FREQ=DAILY;UNTIL=20250101")],
            "schedule.rrule: the rule would never fire: nothing matches within 400 years of its start",
        ),
    ] {
        assert_eq!(wrong(schedules), expected);
    }
}
