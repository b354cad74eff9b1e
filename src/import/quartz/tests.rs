use super::super::{Format, Loss, Options, import};
use crate::pb::v1::Schedule;

/// The schedules of a job with these triggers, and the findings.
fn made(triggers: &str) -> (Vec<Schedule>, Vec<(Loss, String)>) {
    let text = format!(
        "<job-scheduling-data><schedule><job><name>j</name><job-class>C</job-class></job>{triggers}</schedule></job-scheduling-data>"
    );
    let options = Options { timezone: Some("Europe/Berlin".to_owned()), ..Options::default() };
    let made = import(Format::Quartz, &[("t.xml".to_owned(), text)], &options);
    let schedules = made.drafts.iter().flat_map(|draft| draft.spec.schedule.clone()).collect();
    let of_triggers = made.findings.into_iter().filter(|finding| !finding.what.starts_with("job-class"));
    (schedules, of_triggers.map(|finding| (finding.loss, finding.what)).collect())
}

fn rule(kind: &str, inner: &str) -> (Vec<String>, Vec<(Loss, String)>) {
    let (schedules, findings) =
        made(&format!("<trigger><{kind}><job-name>j</job-name>{inner}</{kind}></trigger>"));
    (schedules.into_iter().map(|schedule| schedule.rrule).collect(), findings)
}

const START: &str = "<start-time>2026-01-31T09:00:00</start-time>";

#[test]
fn triggers_by_intervals_are_rules_from_their_start() {
    let simple = |inner: &str| rule("simple", &format!("{START}{inner}")).0;
    assert_eq!(simple(""), ["DTSTART:20260131T090000 RRULE:FREQ=SECONDLY;INTERVAL=1;COUNT=1"]);
    assert_eq!(
        simple("<repeat-count>2</repeat-count><repeat-interval>90000</repeat-interval>"),
        ["DTSTART:20260131T090000 RRULE:FREQ=SECONDLY;INTERVAL=90;COUNT=3"]
    );
    assert_eq!(
        simple(
            "<end-time>2026-03-01T00:00:00Z</end-time><repeat-count>-1</repeat-count><repeat-interval>90000</repeat-interval>"
        ),
        ["DTSTART:20260131T090000 RRULE:FREQ=SECONDLY;INTERVAL=90;UNTIL=20260301T000000Z"]
    );
    let (rules, findings) = rule(
        "calendar-interval",
        &format!(
            "{START}<repeat-interval>2</repeat-interval><repeat-interval-unit>MONTH</repeat-interval-unit>"
        ),
    );
    assert_eq!(rules, ["DTSTART:20260131T090000 RRULE:FREQ=MONTHLY;INTERVAL=2"]);
    assert_eq!((findings.len(), findings[0].0), (1, Loss::Approximated), "{findings:?}");
}

#[test]
fn what_counts_from_a_start_that_is_not_told_is_lost_or_counts_from_the_epoch() {
    let endless = "<repeat-count>REPEAT_INDEFINITELY</repeat-count><repeat-interval>1500</repeat-interval>";
    let (schedules, findings) =
        made(&format!("<trigger><simple><job-name>j</job-name>{endless}</simple></trigger>"));
    assert_eq!(schedules[0].every.map(|every| (every.seconds, every.nanos)), Some((1, 500_000_000)));
    assert_eq!(findings[0].0, Loss::Approximated, "{findings:?}");
    for (kind, inner) in [
        ("simple", "<repeat-count>1</repeat-count><repeat-interval>1000</repeat-interval>"),
        ("simple", ""),
        (
            "calendar-interval",
            "<repeat-interval>2</repeat-interval><repeat-interval-unit>DAY</repeat-interval-unit>",
        ),
    ] {
        let (rules, findings) = rule(kind, inner);
        let is_lost = findings.iter().any(|(loss, _)| *loss == Loss::Lost);
        assert!(rules.is_empty() && is_lost, "{kind} {inner}: {findings:?}");
    }
    let (rules, findings) = rule("simple", "<start-time>soon</start-time>");
    assert_eq!((rules.len(), findings[0].0), (0, Loss::Unread), "{findings:?}");
}

#[test]
fn a_cron_line_is_taken_as_it_is() {
    let (schedules, findings) = made(
        "<trigger><cron><job-name>j</job-name><cron-expression> 0 15 10  L * ?</cron-expression></cron></trigger>",
    );
    assert_eq!(
        (schedules[0].cron.as_str(), schedules[0].timezone.as_str()),
        ("0 15 10 L * ?", "Europe/Berlin")
    );
    assert_eq!(findings, []);
    let lone = "<trigger><cron><job-name>other</job-name><cron-expression>0 0 0 ? * 1</cron-expression></cron></trigger>";
    assert_eq!(made(lone).1, [(Loss::Lost, "trigger: its job other is not in the file".to_owned())]);
}

#[test]
fn quartz_net_is_read_with_its_own_names() {
    let text = "<job-scheduling-data><schedule><job><name>j</name><job-type>Quartz.Jobs.NativeJob, Quartz</job-type>\
                <durable>true</durable><job-data-map><entry><key>command</key><value>/bin/true</value></entry>\
                </job-data-map></job><trigger><cron><job-name>j</job-name><misfire-instruction>DoNothing\
                </misfire-instruction><cron-expression>0 0/30 0-6,12,19-21,22 * * ?</cron-expression></cron></trigger>\
                </schedule></job-scheduling-data>";
    let options = Options { timezone: Some("Europe/Berlin".to_owned()), ..Options::default() };
    let made = import(Format::Quartz, &[("t.xml".to_owned(), text.to_owned())], &options);
    assert_eq!(
        made.findings.iter().filter(|finding| finding.loss > Loss::Noted).count(),
        0,
        "{:?}",
        made.findings
    );
    let job = &made.drafts[0].spec;
    assert!(job.target.as_ref().is_some_and(|target| target.exec.is_some()), "{job:?}");
    let catch_up = job.catch_up.expect("it is said");
    assert_eq!(catch_up.runs(), crate::pb::v1::CatchUpRuns::None);
}
