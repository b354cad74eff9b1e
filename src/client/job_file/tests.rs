use super::*;

fn problems(name: &str, text: &str) -> Vec<String> {
    let problems = read(name, Format::of_name(name), text).expect_err("the file is bad");
    problems.iter().map(ToString::to_string).collect()
}

fn specs(name: &str, text: &str) -> Vec<JobSpec> {
    let read = read(name, Format::of_name(name), text);
    let documents = read.unwrap_or_else(|problems| panic!("{problems:?}"));
    documents.into_iter().map(|document| document.spec).collect()
}

const YAML: &str = r#"
name: isin-download
labels: {team: data, code: 007, critical: true}
schedule:
  cron: "30 2 * * *"
  timezone: Europe/Berlin
  dst: {gap: run_at_end, fold: first}
target:
  http: {url: "https://example.com/a", headers: {accept: text/csv}, success: 204}
timeout: 30m
retry: {max_attempts: 5, initial: 1s, multiplier: 1.5, on: [timeout, "http:5xx"]}
catch_up: latest
overlap: {policy: queue, limit: 3}
"#;

const JSON: &str = r#"{"name": "isin-download",
 "labels": {"team": "data", "code": "007", "critical": "true"},
 "schedule": [{"cron": "30 2 * * *", "timezone": "Europe\/Berlin", "dst": {"gap": "run_at_end", "fold": "first"}}],
 "target": {"http": {"url": "https://example.com/a", "headers": {"accept": "text/csv"}, "success": "204"}},
 "timeout": "1800s",
 "retry": {"max_attempts": 5, "initial": "1s", "multiplier": 1.5, "on": ["timeout", "http:5xx"]},
 "catch_up": {"runs": "latest"},
 "overlap": {"policy": "queue", "limit": 3}}"#;

const TOML: &str = r#"
name = "isin-download"
labels = { team = "data", code = "007", critical = "true" }
timeout = "0.5h"
catch_up = "latest"

[[schedule]]
cron = "30 2 * * *"
timezone = "Europe/Berlin"
dst = { gap = "run_at_end", fold = "first" }

[target.http]
url = "https://example.com/a"
headers = { accept = "text/csv" }
success = "204"

[retry]
max_attempts = 5
initial = "1s"
multiplier = 1.5
on = ["timeout", "http:5xx"]

[overlap]
policy = "queue"
limit = 3
"#;

#[test]
fn the_three_formats_say_the_same() {
    let [yaml, json, toml] =
        [("a.yaml", YAML), ("a.json", JSON), ("a.toml", TOML)].map(|(name, text)| specs(name, text));
    assert_eq!(yaml, json);
    assert_eq!(yaml, toml);
    let spec = &yaml[0];
    assert_eq!(spec.labels["code"], "007");
    assert_eq!(spec.timeout, Some(prost_types::Duration { seconds: 1_800, nanos: 0 }));
    assert_eq!(spec.catch_up.map(|catch_up| catch_up.runs), Some(2));
    assert_eq!(spec.retry.as_ref().and_then(|retry| retry.multiplier), Some(1.5));
}

#[test]
fn a_zero_that_is_written_is_not_a_key_that_is_left_out() {
    let text = "name: a\noverlap: {limit: 0}\nretention: {age: 1d}\nbreaker: {probes: 0}\n";
    let spec = &specs("a.yaml", text)[0];
    assert_eq!(spec.overlap.map(|overlap| (overlap.limit, overlap.max_parallel)), Some((Some(0), None)));
    assert_eq!(spec.retention.map(|retention| retention.runs), Some(None));
    assert_eq!(spec.breaker.as_ref().map(|breaker| breaker.probes), Some(Some(0)));
}

#[test]
fn several_documents_know_their_line_and_number() {
    let text =
        "# jobs\nname: a\n---\n---\nname: b\n...\n---\n{name: c, schedule: {at: 2026-12-01T09:00:00Z}}\n";
    let documents = read("jobs.yml", Format::Yaml, text).expect("three jobs");
    let places: Vec<_> =
        documents.iter().map(|d| (d.spec.name.as_str(), d.source.document, d.source.line)).collect();
    assert_eq!(places, [("a", 1, 2), ("b", 3, 5), ("c", 4, 8)]);
    assert_eq!(documents[2].spec.schedule[0].at.len(), 1);

    assert_eq!(specs("jobs.json", "[{\"name\":\"a\"}, {\"name\":\"b\"}]").len(), 2);
    let documents = read("jobs.jsonl", Format::Json, "{\"name\":\"a\"}\n{\"name\":\"b\"}").expect("two jobs");
    assert_eq!(documents[1].source, Source { file: "jobs.jsonl".into(), document: 2, line: 2 });
}

#[test]
fn anchors_work_inside_a_document() {
    let text = "name: a\nlabels: &same {x: \"1\"}\nrequires: *same\n";
    let spec = &specs("a.yaml", text)[0];
    assert_eq!(spec.labels, spec.requires);
}

#[test]
fn each_kind_of_bad_input_is_named_with_its_place() {
    let known_schedule = "known here: cron, dialect, day_rule, every, offset, at, timezone, dst, start_at, end_at, jitter, from, count, rrule, calendar, solar, exclude, only";
    for (text, expected) in [
        ("name: a\nnotify: {on: []}\n", "a.yaml:2:1: notify: this version does not support `notify`".to_owned()),
        (
            "name: a\nafter: 5s\nlimits: {rates: 5/s}\n",
            "a.yaml:3:10: limits.rates: unknown key; did you mean `rate`?; known here: group, concurrency, rate".to_owned(),
        ),
        (
            "name: a\ntarget:\n  kafka: {}\n",
            "a.yaml:3:3: target.kafka: this version does not support `kafka`".to_owned(),
        ),
        (
            "name: a\nschedule:\n- cron: x\n- exclude: holidays\n",
            "a.yaml:4:12: schedule[1].exclude: expected a list, found `holidays`".to_owned(),
        ),
        (
            "name: a\nschedule:\n  cron: x\n  timezon: UTC\n",
            format!("a.yaml:4:3: schedule.timezon: unknown key; did you mean `timezone`?; {known_schedule}"),
        ),
        (
            "name: a\ntarget:\n  http: {url: [x]}\n",
            "a.yaml:3:15: target.http.url: expected a string, found a list".to_owned(),
        ),
        ("name: a\ntimeout: 30\n", "a.yaml:2:10: timeout: a duration needs a unit, such as 30s or 30m".to_owned()),
        (
            "name: a\ntimeout: soon\n",
            "a.yaml:2:10: timeout: expected a duration such as 90s or 1h30m, found `soon`".to_owned(),
        ),
        (
            "name: a\nschedule: {at: [2026-12-01]}\n",
            "a.yaml:2:17: schedule.at[0]: expected an RFC 3339 instant such as 2026-03-29T01:00:00.000Z, found `2026-12-01`".to_owned(),
        ),
        (
            "name: a\non_lost: maybe\n",
            "a.yaml:2:10: on_lost: expected one of `rerun`, `fail`, found `maybe`".to_owned(),
        ),
        (
            "name: a\ncatch_up: some\n",
            "a.yaml:2:11: catch_up: expected one of `none`, `latest`, `all`, or a mapping, found `some`".to_owned(),
        ),
        (
            "name: a\ncatch_up: {runs: some}\n",
            "a.yaml:2:18: catch_up.runs: expected one of `none`, `latest`, `all`, found `some`".to_owned(),
        ),
        (
            "name: a\nschedule: {cron: x, dialect: spring}\n",
            "a.yaml:2:30: schedule.dialect: expected one of `unix`, `quartz`, `aws`, found `spring`".to_owned(),
        ),
        ("name: a\nname: b\n", "a.yaml:2:1: name: the key is given twice, first on line 1".to_owned()),
        ("name: a\nlabels:\n", "a.yaml:2:7: labels: expected a mapping, found nothing".to_owned()),
        ("name: a\nschedule: every day\n", "a.yaml:2:11: schedule: expected a mapping or a list of mappings, found `every day`".to_owned()),
        ("name: a\nretry: {max_attempts: -1}\n", "a.yaml:2:23: retry.max_attempts: expected a whole number that is not negative, found -1".to_owned()),
        ("name: a\nretry: {on: failed}\n", "a.yaml:2:13: retry.on: expected a list, found `failed`".to_owned()),
        ("description: x\n", "a.yaml:1:1: the key `name` is missing".to_owned()),
        ("- name: a\n- [b]\n", "a.yaml:2:3: expected a mapping, found a list".to_owned()),
        ("name: !secret a\n", "a.yaml:1:15: tags are not supported".to_owned()),
        ("<<: {name: a}\n", "a.yaml:1:1: merge keys are not supported".to_owned()),
        ("name: a\n? [b]\n: c\n", "a.yaml:2:3: a key must be a text".to_owned()),
        ("", "a.yaml: the file holds no job".to_owned()),
    ] {
        assert_eq!(problems("a.yaml", text), [expected], "{text}");
    }
}

#[test]
fn other_formats_name_the_same_places() {
    let text = "{\"name\": \"a\",\n  \"target\": {\"http\": {\"url\": 5, \"verb\": 1}}}";
    assert_eq!(
        problems("a.json", text),
        [
            "a.json:2:30: target.http.url: expected a string, found 5",
            "a.json:2:33: target.http.verb: unknown key; known here: method, url, headers, body, success",
        ]
    );
    assert_eq!(problems("a.json", "{\"name\":\n}"), ["a.json:2:1: expected value"]);
    assert_eq!(
        problems("a.json", "{\"name\": \"a\", \"name\": \"b\"}"),
        ["a.json:1:15: name: the key is given twice, first on line 1"]
    );
    let text = "name = \"a\"\n[schedule]\nevery = 60\ncalender = \"x\"\n";
    let found = problems("a.toml", text);
    assert_eq!(found[0], "a.toml:3:9: schedule.every: a duration needs a unit, such as 60s or 60m");
    assert!(found[1].starts_with("a.toml:4:1: schedule.calender: unknown key; "), "{found:?}");
    assert!(problems("a.toml", "name = \n")[0].starts_with("a.toml:1:"));
}

#[test]
fn all_problems_of_all_documents_are_told_at_once() {
    let text = "name: a\nqueu: x\ntimeout: 5\nlabels: {a: [1], b: [2]}\n---\nname: b\n---\nname: [\n";
    let found = problems("a.yaml", text);
    assert_eq!(found.len(), 5, "{found:?}");
    assert!(found[0].starts_with("a.yaml:2:1: queu: unknown key; did you mean `queue`?"), "{found:?}");
    assert_eq!(found[1], "a.yaml:3:10: timeout: a duration needs a unit, such as 5s or 5m");
    assert_eq!(found[2], "a.yaml:4:13: labels.a: expected a string, found a list");
    assert_eq!(found[3], "a.yaml:4:21: labels.b: expected a string, found a list");
    assert!(found[4].starts_with("a.yaml:9:1: ") || found[4].starts_with("a.yaml:8:"), "{found:?}");
}

#[test]
fn a_missing_name_is_told_with_the_other_problems_in_the_order_of_the_file() {
    let found = problems("a.yaml", "timeout: 5\nqueue: a\nqueu: x\nqueue: b\n");
    let places: Vec<&str> = found.iter().filter_map(|problem| problem.split(": ").next()).collect();
    assert_eq!(places, ["a.yaml:1:1", "a.yaml:1:10", "a.yaml:3:1", "a.yaml:4:1"], "{found:?}");
    assert_eq!(found[0], "a.yaml:1:1: the key `name` is missing");
    assert_eq!(problems("a.yaml", "name: [x]\n").len(), 1);
}

#[test]
fn the_place_of_a_field_is_found_from_its_path() {
    let text = "name: a\n---\nname: b\nlabels: {x: y, \"a b\": c}\nschedule:\n- cron: x\n  dst:\n    gap: skip\n  at: 2026-12-01T09:00:00Z\n";
    let documents = read("a.yaml", Format::Yaml, text).expect("two jobs");
    for (path, line, column) in [
        ("name", 3, 7),
        ("labels.x", 4, 13),
        ("labels[\"a b\"]", 4, 23),
        // one schedule has a path without a number, however it is written
        ("schedule.cron", 6, 9),
        ("schedule[0].cron", 6, 9),
        ("schedule.dst", 7, 3),
        ("schedule.dst.fold", 7, 3),
        ("schedule.at[0]", 9, 7),
        ("schedule[3].cron", 5, 1),
        ("target", 3, 1),
        ("retry.max", 3, 1),
    ] {
        let whole = format!("{path}: x");
        let place = documents[1].place(&path::read(&whole).0);
        assert_eq!(place.position, Some(tree::Position { line, column }), "{path}");
        assert_eq!(place.to_string(), format!("a.yaml:{line}:{column}: {path}"));
    }
    let text = "name = \"a\"\n[target.exec]\ncommand = [\n  \"x\",\n  \"\"]\n[[schedule]]\ncron = \"x\"\n[[schedule]]\ncron = 'y'\n";
    let document = &read("a.toml", Format::Toml, text).expect("a job")[0];
    for (path, place) in [
        ("target.exec.command[1]", "a.toml:5:3"),
        ("schedule[1].cron", "a.toml:9:8"),
        ("schedule[1]", "a.toml:8:1"),
    ] {
        let found = document.place(&path::read(&format!("{path}: x")).0).to_string();
        assert_eq!(found, format!("{place}: {path}"));
    }
}

#[test]
fn a_name_used_twice_names_both_places() {
    let documents =
        read("a.yaml", Format::Yaml, "name: a\n---\nname: b\n---\nname: a\n").expect("three jobs");
    let found: Vec<String> = doubled(&documents).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["a.yaml:5:7: name: the job `a` is defined twice, first in a.yaml:1"]);
}

#[test]
fn limits_refuse_the_file() {
    let deep = format!("name: {}x{}\n", "[".repeat(DEPTH_MAX + 2), "]".repeat(DEPTH_MAX + 2));
    assert!(problems("a.yaml", &deep)[0].ends_with("more than 64 mappings and lists inside each other"));
    let deep = format!("{{\"name\": {}1{}}}", "[".repeat(DEPTH_MAX + 2), "]".repeat(DEPTH_MAX + 2));
    assert!(problems("a.json", &deep)[0].ends_with("more than 64 mappings and lists inside each other"));

    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let below = format!("*a{}, ", level - 1).repeat(9);
        laughs.push_str(&format!("a{level}: &a{level} [{below}*a{}]\n", level - 1));
    }
    assert!(problems("a.yaml", &laughs)[0].contains("more than 500000 keys and values"));

    let long = format!("name: a # {}\n", "x".repeat(BYTES_MAX));
    assert_eq!(problems("a.yaml", &long), ["a.yaml: the file is longer than 4194304 bytes"]);
    let wrong = "name: a\nlabels: {".to_owned()
        + &(0..500).map(|n| format!("k{n}: [], ")).collect::<String>()
        + "}\n";
    assert_eq!(problems("a.yaml", &wrong).len(), REFUSALS_MAX);
}

#[test]
fn the_example_in_the_repository_is_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/jobs/isin-download.yaml");
    let text = std::fs::read_to_string(path).expect("it is there");
    let spec = &specs(path, &text)[0];
    assert_eq!((spec.name.as_str(), spec.schedule.len()), ("isin-download", 1));
}

#[test]
fn a_job_with_every_field_survives_export() {
    let spec: JobSpec =
        serde_json::from_str(include_str!("../../pb/testdata/job_spec.json")).expect("the fixture is read");
    assert_eq!(specs("a.yaml", &serde_saphyr::to_string(&spec).expect("it is written")), [spec]);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_a_reader_panic(text in "([ -~\n]|[\\[\\]{}:,&*!|>'\"#%@\t-]|name|é|\\\\u00e9){0,60}") {
        for format in [Format::Yaml, Format::Json, Format::Toml] {
            if let Err(problems) = read("a", format, &text) {
                proptest::prop_assert!(!problems.is_empty());
            }
        }
    }

    #[test]
    fn what_is_exported_is_read_back(
        description in "\\PC{0,20}|[ -~\n\t]{0,30}|null|~|true|0x1f|1e3|- a|a: b|#",
        key in "[ -~]{1,8}|<<|null|on",
    ) {
        let spec = JobSpec {
            name: "a".into(),
            labels: [(key, description.clone())].into(),
            description,
            ..JobSpec::default()
        };
        let yaml = serde_saphyr::to_string(&spec).expect("it is written");
        let read_back = read("a.yaml", Format::Yaml, &yaml);
        let read_back = read_back.map(|documents| documents[0].spec.clone());
        proptest::prop_assert_eq!(&read_back, &Ok(spec.clone()), "{}", yaml);
        let json = serde_json::to_string(&spec).expect("it is written");
        let read_back = read("a.json", Format::Json, &json);
        proptest::prop_assert_eq!(read_back.map(|documents| documents[0].spec.clone()), Ok(spec));
    }
}
