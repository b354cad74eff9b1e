use super::v1::*;

/// Every field of a job file set, as `-o json` and `job export` write it.
const SPEC: &str = include_str!("testdata/job_spec.json");
/// A live run with an attempt that has ended.
const RUN: &str = include_str!("testdata/run.json");

fn pinned<T>(text: &str) -> T
where
    T: serde::Serialize
        + serde::de::DeserializeOwned
        + prost::Message
        + Default
        + PartialEq
        + std::fmt::Debug,
{
    let value: T = serde_json::from_str(text).expect("the fixture is read");
    assert_eq!(serde_json::to_string_pretty(&value).expect("it is written"), text.trim_end());
    let wire = T::decode(value.encode_to_vec().as_slice()).expect("the wire form is read");
    assert_eq!(wire, value);
    value
}

#[test]
fn a_full_job_spec_keeps_its_text() {
    let spec: JobSpec = pinned(SPEC);
    let text = serde_json::to_value(&spec).expect("it is written");
    let fields = text.as_object().expect("an object").len();
    assert_eq!(fields, 22, "the fixture sets every field");
}

#[test]
fn a_run_writes_every_field() {
    let run: Run = pinned(RUN);
    assert_eq!(run.finished_at, None);
    let text = serde_json::to_value(Run::default()).expect("it is written");
    for field in [
        "stands_for",
        "state",
        "cause",
        "run_id",
        "scheduled_at",
        "fired_at",
        "finished_at",
        "attempts",
        "reason",
    ] {
        assert!(text.get(field).is_some(), "{field}");
    }
}

#[test]
fn an_empty_job_spec_is_an_empty_mapping() {
    assert_eq!(serde_json::to_string(&JobSpec::default()).expect("it is written"), "{}");
}

#[test]
fn unknown_keys_and_words_are_refused() {
    let error = serde_json::from_str::<JobSpec>(r#"{"nam":"a"}"#).expect_err("no such key");
    assert!(error.to_string().starts_with("unknown field `nam`"), "{error}");
    let error = serde_json::from_str::<ListRunsRequest>(r#"{"states":["done"]}"#).expect_err("no such word");
    assert!(error.to_string().contains("expected one of `pending`, `running`"), "{error}");
}

#[test]
fn a_number_without_a_word_is_written_as_it_is() {
    let run = Run { state: 99, ..Run::default() };
    assert_eq!(serde_json::to_value(run).expect("it is written")["state"], 99);
}

#[test]
fn instants_are_cut_to_milliseconds() {
    let wire = prost_types::Timestamp { seconds: -1, nanos: 999_999_999 };
    assert_eq!(super::instant::read(&wire).to_string(), "1969-12-31T23:59:59.999Z");
    let wire = prost_types::Timestamp { seconds: i64::MAX, nanos: 0 };
    assert_eq!(super::instant::read(&wire), crate::state::time::Timestamp::MAX);
}
