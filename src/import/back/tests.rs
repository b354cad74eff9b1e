use super::super::{Format as From, Options as Reading, import};
use super::*;
use crate::client::job_file;

fn job(text: &str) -> v1::JobSpec {
    let text = format!("name: a\nnamespace: n\n{text}");
    job_file::read("t", job_file::Format::Yaml, &text).expect("a job file").remove(0).spec
}

fn options() -> Options {
    Options { image: "debian".to_owned(), ..Options::default() }
}

/// The text, and the findings without the job.
fn written(format: Format, text: &str) -> (String, Vec<String>) {
    let Exported { text, findings, .. } = export(format, &[job(text)], &options());
    (text, findings.iter().map(|finding| format!("{}: {}", finding.loss.word(), finding.what)).collect())
}

/// Of cron nothing is asked that it does not do.
const PLAIN: &str = "timeout: 30d\ncatch_up: none\noverlap: allow\n";

#[test]
fn a_line_has_the_command_with_all_that_it_needs() {
    let of = |target: &str| {
        let (text, findings) = written(
            Format::Crontab,
            &format!(
                "{PLAIN}description: about it\nschedule: {{cron: 1 2 * * *}}\ntarget: {{exec: {target}}}"
            ),
        );
        assert_eq!(findings, [""; 0], "{target}");
        text.strip_prefix("# n/a: about it\n1 2 * * * ").expect("a line").trim_end().to_owned()
    };
    assert_eq!(of("{shell: 'a | b'}"), "a | b");
    assert_eq!(of("{command: [a, 'b c', \"d'e\", '']}"), r"a 'b c' 'd'\''e' ''");
    assert_eq!(of("{shell: date +%F, stdin: \"1%\\n2\\n\"}"), r"date +\%F%1\%%2");
    assert_eq!(
        of("{shell: a, cwd: /s r, env: {A: x y, PATH: '/usr/bin:/bin'}}"),
        "export A='x y'; cd '/s r' || exit; a"
    );
}

#[test]
fn schedules_become_lines_where_there_are_any() {
    let of = |schedule: &str| {
        let (text, findings) =
            written(Format::Crontab, &format!("{PLAIN}schedule: {schedule}\ntarget: {{exec: {{shell: a}}}}"));
        text.lines()
            .skip(1)
            .map(|line| line.trim_end_matches(" a").to_owned())
            .chain(findings)
            .collect::<Vec<_>>()
            .join(" | ")
    };
    assert_eq!(of("{cron: '0 22-2 5/7 * fri'}"), "0 22-23,0-2 5-31/7 * fri");
    assert_eq!(of("{cron: '0 30 2 * * *'}"), "30 2 * * *");
    assert_eq!(of("{cron: '@daily'}"), "@daily");
    assert_eq!(
        of("[{every: 20m, offset: 5m}, {every: 1h, offset: 7m}, {every: 1m}, {every: 15m}]"),
        "5-59/20 * * * * | 7 * * * * | * * * * * | */15 * * * *"
    );
    for (schedule, field) in [
        ("{cron: '5 30 2 * * *'}", "schedule.cron"),
        ("{cron: '0 0 0 1 1 * 2040'}", "schedule.cron"),
        ("{cron: 'H 2 * * *'}", "schedule.cron"),
        ("{cron: '0 2 * * fri-mon'}", "schedule.cron"),
        ("{cron: '0 2 1 * 1', day_rule: and}", "schedule.day_rule"),
        ("{cron: '0 0 0 ? * 1', dialect: quartz}", "schedule.dialect"),
        ("{every: 90s}", "schedule.every"),
        ("{every: 7m}", "schedule.every"),
        ("{rrule: FREQ=DAILY}", "schedule.rrule"),
        ("{calendar: daily}", "schedule.calendar"),
    ] {
        assert!(of(schedule).starts_with(&format!("lost: {field}: ")), "{schedule}: {}", of(schedule));
    }
    let zoned = "[{cron: 0 2 * * *, timezone: Europe/Berlin, dst: {gap: skip}}, {cron: 0 3 * * *}]";
    assert_eq!(
        of(zoned),
        "CRON_TZ=Europe/Berlin | 0 2 * * * | CRON_TZ=UTC | 0 3 * * * | \
         approximated: schedule.timezone: CRON_TZ is cronie's; Debian's cron goes by the zone of its machine | \
         approximated: schedule.dst: a missing wall time runs at the end of the gap there, a double one once | \
         approximated: schedule.timezone: CRON_TZ is cronie's; Debian's cron goes by the zone of its machine"
    );
}

#[test]
fn what_cron_does_not_do_is_told() {
    let (_, findings) =
        written(Format::Crontab, "schedule: {cron: 1 2 * * *}\ntarget: {exec: {shell: a}}\npriority: 3");
    assert_eq!(findings.len(), 4, "{findings:?}");
    let (text, findings) =
        written(Format::Crontab, "schedule: {cron: 1 2 * * *}\ntarget: {http: {url: 'http://h'}}");
    assert_eq!(
        (text.as_str(), findings.as_slice()),
        ("", &["lost: target.http: cron runs commands alone".to_owned()][..])
    );
}

/// What goes out and comes in again is the same job in all that the format has words for.
#[test]
fn what_is_written_reads_back() {
    let jobs = [
        "schedule: {cron: '*/5 2 * * 1-5', timezone: Europe/Berlin}\ntarget: {exec: {command: [a, 'b c'], env: {A: '$(B)'}, cwd: /srv}}",
        "schedule: {cron: 30 2 1 * *}\ntarget: {exec: {command: [/bin/sh, -c, 'x > $(y)']}}\nlabels: {team: x}",
    ];
    for text in jobs {
        let job = job(&format!(
            "{text}\ncatch_up: latest\noverlap: allow\nretry: {{max_attempts: 1}}\ntimeout: 5m"
        ));
        let exported = export(Format::Kubernetes, std::slice::from_ref(&job), &options());
        let found = import(From::Kubernetes, &[("t".to_owned(), exported.text.clone())], &Reading::default());
        let [draft] = found.drafts.as_slice() else { panic!("{}: {:?}", exported.text, found.findings) };
        let back = spec::from_pb(&draft.spec).expect("it is sound");
        let job = spec::from_pb(&job).expect("it is sound");
        assert_eq!(
            (&back.target, &back.name, &back.namespace, &back.labels),
            (&job.target, &job.name, &job.namespace, &job.labels)
        );
        assert_eq!(
            (back.timeout, back.retry.max_attempts, back.overlap.policy),
            (job.timeout, 1, job.overlap.policy)
        );
        let rule = |spec: &JobSpec| match &spec.schedules[0].rule {
            crate::state::schedule::Rule::Cron { line, .. } => line.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(rule(&back), rule(&job));
        assert_eq!(back.schedules[0].timezone.trim_start_matches("Etc/"), job.schedules[0].timezone);
    }
    let text =
        "schedule: {cron: '30 2 1,15 * mon'}\ntarget: {exec: {shell: 'a \"%\" | b', stdin: \"1\\n%2\\n\"}}";
    let job = job(&format!("{PLAIN}{text}"));
    let exported = export(Format::Crontab, std::slice::from_ref(&job), &options());
    let found = import(From::Crontab, &[("t".to_owned(), exported.text.clone())], &Reading::default());
    let exec = |job: &v1::JobSpec| {
        let exec = job.target.clone().and_then(|target| target.exec).expect("exec");
        (exec.shell, exec.stdin)
    };
    assert_eq!(exec(&found.drafts[0].spec), exec(&job));
    assert_eq!(found.drafts[0].spec.schedule[0].cron, job.schedule[0].cron);
}
