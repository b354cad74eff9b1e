use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::*;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/import/testdata")
}

/// Everything that came of a file, as a text.
fn told(imported: &Imported) -> String {
    let mut text = String::new();
    for finding in &imported.findings {
        let Finding { place, loss, what } = finding;
        writeln!(text, "{}:{}: {}: {what}", place.file, place.line, loss.word()).expect("a text grows");
    }
    for Draft { place, spec, choices } in &imported.drafts {
        writeln!(text, "---\n# {}:{}", place.file, place.line).expect("a text grows");
        choices.iter().for_each(|choice| writeln!(text, "# {choice}").expect("a text grows"));
        text.push_str(&serde_saphyr::to_string(spec).expect("it is written"));
    }
    text
}

fn import_one(format: Format, name: &str, text: &str) -> Imported {
    import(format, &[(name.to_owned(), text.to_owned())], &Options::default())
}

/// Files as people have them, and what becomes of them, in `NAME.imported`. `UPDATE_GOLDENFILES=1` writes that anew.
#[test]
fn files_as_people_have_them_are_carried_over_as_written_down() {
    let sets: [(Format, &str, &[&str]); 12] = [
        (Format::Crontab, "user.crontab", &["user.crontab"]),
        (Format::Crontab, "sysstat", &["cron.d/sysstat"]),
        (Format::Crontab, "certbot-crontab", &["cron.d/certbot"]),
        (
            Format::Systemd,
            "debian-timers",
            &[
                "certbot.timer",
                "certbot.service",
                "podman-auto-update.timer",
                "podman-auto-update.service",
                "prometheus-node-exporter-apt.timer",
                "prometheus-node-exporter-apt.service",
            ],
        ),
        (Format::Kubernetes, "kubernetes", &["shop.kubernetes.yaml"]),
        (Format::Dkron, "dkron", &["jobs.dkron.json"]),
        (Format::WindowsTask, "windows", &["backup.task.xml"]),
        (Format::Quartz, "quartz", &["quartz_data.xml"]),
        (Format::Celery, "celery-beat", &["beat.celery.json"]),
        (Format::Celery, "celery-django", &["django.celery.json"]),
        (Format::Celery, "celery-redbeat", &["redbeat.celery.json"]),
        (
            Format::Systemd,
            "systemd",
            &[
                "backup.timer",
                "backup.service",
                "clean.timer",
                "tidy.service",
                "odd.timer",
                "odd.service",
                "lone.service",
            ],
        ),
    ];
    for (format, set, names) in sets {
        let read = |name: &&str| {
            let text = fs::read_to_string(folder().join(name)).unwrap_or_default();
            ((*name).to_owned(), text)
        };
        let files: Vec<(String, String)> = names.iter().map(read).collect();
        let made = import(format, &files, &Options::default());
        let found = told(&made);
        let golden = folder().join(format!("{set}.imported"));
        if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
            fs::write(&golden, &found).expect("it is written");
        }
        assert_eq!(found, fs::read_to_string(&golden).unwrap_or_default(), "{set}");
        let jobs = found.split_once("---\n").map_or("", |(_, jobs)| jobs);
        let read = job_file::read(set, job_file::Format::Yaml, jobs).expect("job files");
        let read: Vec<JobSpec> = read.into_iter().map(|document| document.spec).collect();
        let made: Vec<JobSpec> = made.drafts.into_iter().map(|draft| draft.spec).collect();
        assert_eq!(read, made, "{set}: the job files say the same");
    }
}

#[test]
fn names_are_told_apart_and_fit() {
    let lines =
        "0 0 * * * /usr/bin/a\n1 0 * * * /bin/A.sh\n2 0 * * * /opt/a-2\n3 0 * * * /usr/bin/a\n4 0 * * * ''\n";
    let made = import_one(Format::Crontab, "t", lines);
    let names: Vec<&str> = made.drafts.iter().map(|draft| draft.spec.name.as_str()).collect();
    assert_eq!(names, ["a", "a-2", "a-2-2", "a-3", "job"]);
    // Each takes the next number: nothing is counted from the beginning again.
    let many = import_one(Format::Crontab, "t", &"0 0 * * * /usr/bin/a\n".repeat(JOBS_MAX + 2));
    assert_eq!(many.drafts.last().map(|draft| draft.spec.name.as_str()), Some("a-10000"));
    let beyond: Vec<&Finding> = many.findings.iter().filter(|finding| finding.loss == Loss::Unread).collect();
    assert_eq!((many.drafts.len(), beyond.len(), beyond[0].place.line), (JOBS_MAX, 1, JOBS_MAX + 1));
    let long = "x".repeat(300);
    let line = format!("0 0 * * * {long}\n");
    let made = import_one(Format::Crontab, "t", &line.repeat(12));
    assert_eq!((made.drafts.len(), made.drafts[11].spec.name.len()), (12, 128));
}

#[test]
fn a_percent_sign_ends_the_command_unless_it_is_escaped() {
    let exec = |line: &str| {
        let made = import_one(Format::Crontab, "t", &format!("0 0 * * * {line}\n"));
        let exec = made.drafts[0].spec.target.clone().expect("a target").exec.expect("exec");
        (exec.shell, exec.stdin)
    };
    let is = |shell: &str, stdin: &str| (shell.to_owned(), stdin.to_owned());
    assert_eq!(exec("date +\\%F"), is("date +%F", ""));
    assert_eq!(exec("cat %a%b"), is("cat", "a\nb\n"));
    assert_eq!(exec("cat%a%"), is("cat", "a\n"));
    assert_eq!(exec("cat%"), is("cat", ""));
    assert_eq!(exec("cat \\\\ %\\%"), is("cat \\\\", "%\n"));
}

#[test]
fn variables_hold_for_the_lines_below_them() {
    let text = "0 0 * * * a\nX = '1 2'\n\"Y\"=b c \n0 0 * * * b\nX=\n0 0 * * * c\n";
    let made = import_one(Format::Crontab, "t", text);
    let env = |place: usize| {
        let exec = made.drafts[place].spec.target.clone().expect("a target").exec.expect("exec");
        exec.env
            .into_iter()
            .filter(|(name, _)| name != "PATH")
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(env(0), [""; 0]);
    assert_eq!(env(1), ["X=1 2", "Y=b c"]);
    assert_eq!(env(2), ["X=", "Y=b c"]);
    let many: String = (0..100).map(|number| format!("V{number}=x\n")).collect();
    let made = import_one(Format::Crontab, "t", &(many + "V0=y\n0 0 * * * a\n"));
    let beyond = made.findings.iter().filter(|finding| finding.what.contains("at most 64 variables")).count();
    let exec = made.drafts.first().and_then(|draft| draft.spec.target.clone()?.exec);
    assert_eq!((beyond, exec.and_then(|exec| exec.env.get("V0").cloned())), (36, Some("y".to_owned())));
}

#[test]
fn what_cannot_be_read_is_told_with_its_line_and_the_rest_is_carried_over() {
    let text = "kind: CronJob\napiVersion: batch/v1\nmetadata: {name: a}\nspec: [1]\n---\n? [\n";
    let made = import_one(Format::Kubernetes, "t", text);
    let found: Vec<(usize, Loss)> =
        made.findings.iter().map(|finding| (finding.place.line, finding.loss)).collect();
    assert_eq!(found[0], (1, Loss::Unread), "{:?}", made.findings);
    assert!(found.contains(&(4, Loss::Unread)), "{:?}", made.findings);
    assert!(found.iter().any(|(line, loss)| *line > 5 && *loss == Loss::Unread), "{:?}", made.findings);
    let made = import_one(Format::Crontab, "t", "hello\n0 0 * * * a\n");
    assert_eq!(made.drafts.len(), 1);
    assert!(made.findings.iter().any(|finding| finding.loss == Loss::Unread), "{:?}", made.findings);
}

#[test]
fn a_zone_of_the_machine_is_taken_where_the_file_has_none() {
    let files = [("t".to_owned(), "0 0 * * * a\nCRON_TZ=Asia/Tokyo\n0 0 * * * b\n".to_owned())];
    let options = Options { timezone: Some("Europe/Berlin".to_owned()), ..Options::default() };
    let made = import(Format::Crontab, &files, &options);
    let zones: Vec<&str> = made.drafts.iter().map(|draft| draft.spec.schedule[0].timezone.as_str()).collect();
    assert_eq!(zones, ["Europe/Berlin", "Asia/Tokyo"]);
    assert!(!made.findings.iter().any(|finding| finding.what.contains("UTC")), "{:?}", made.findings);
    let options = Options { timezone: Some("Europe/Berlim".to_owned()), ..Options::default() };
    let made = import(Format::Crontab, &files, &options);
    let refusal =
        &made.findings.iter().find(|finding| finding.loss == Loss::Unread).expect("it is refused").what;
    assert!(refusal.contains("Europe/Berlin"), "the nearest zone is named: {refusal}");
}

proptest::proptest! {
    /// Whatever is read, nothing panics, and each job that comes of it would be taken.
    #[test]
    fn no_text_is_too_odd(
        pieces in proptest::collection::vec("[ -~äé\t]{0,12}|\n|=|%|\\\\|\\$\\{|\\[Timer\\]\n|OnCalendar=|ExecStart=|\\* |@daily |kind: CronJob\n|<Task>|<Triggers>|<CalendarTrigger>|</CalendarTrigger>|<StartBoundary>2026-01-05T08:05:00</StartBoundary>|spec:\n  schedule: |\"model\": \"django_celery_beat|\\{\"beat_schedule\": \\{\"a\": \\{\"task\": \"b\", \"schedule\": |\\{\"__type__\": \"crontab\"", 0..40),
    ) {
        let text = pieces.concat();
        for format in [Format::Crontab, Format::Kubernetes, Format::Systemd, Format::Dkron, Format::WindowsTask, Format::Quartz, Format::Celery] {
            let files = [("a.timer".to_owned(), text.clone()), ("a.service".to_owned(), text.clone())];
            let made = import(format, &files, &Options::default());
            for draft in made.drafts {
                proptest::prop_assert!(spec::from_pb(&draft.spec).is_ok());
            }
        }
    }
}
