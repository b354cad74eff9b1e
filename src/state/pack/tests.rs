use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::*;

/// As an older release has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Old {
    name: String,
    inner: OldInner,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct OldInner {
    count: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum OldChange {
    Pause { job: u64 },
}

/// As the next release has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct New {
    name: String,
    inner: NewInner,
    #[serde(default, serialize_with = "later")]
    params: BTreeMap<String, String>,
    #[serde(default, serialize_with = "later")]
    group: Option<NewInner>,
    #[serde(default, serialize_with = "later")]
    priority: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct NewInner {
    count: u8,
    #[serde(default, serialize_with = "later")]
    note: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum NewChange {
    Pause {
        job: u64,
        #[serde(default, serialize_with = "later")]
        until: Option<u64>,
    },
}

fn packed<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, value).expect("it is written");
    out
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, rmp_serde::decode::Error> {
    rmp_serde::from_slice(bytes)
}

fn new() -> New {
    New {
        name: "a".to_owned(),
        inner: NewInner { count: 1, note: String::new() },
        params: BTreeMap::new(),
        group: None,
        priority: 0,
    }
}

#[test]
fn what_says_nothing_new_is_read_by_the_older_release() {
    let old = Old { name: "a".to_owned(), inner: OldInner { count: 1 } };
    assert_eq!(packed(&new()), packed(&old));
    assert_eq!(read::<Old>(&packed(&new())).expect("it is read"), old);
    assert_eq!(read::<New>(&packed(&old)).expect("it is read"), new());
    let paused = packed(&NewChange::Pause { job: 7, until: None });
    assert_eq!(read::<OldChange>(&paused).expect("it is read"), OldChange::Pause { job: 7 });
}

#[test]
fn what_says_something_new_is_refused_by_the_older_release_and_never_cut() {
    let said = New { priority: 1, ..new() };
    assert!(read::<Old>(&packed(&said)).is_err());
    let inside = New { inner: NewInner { count: 1, note: "n".to_owned() }, ..new() };
    assert!(read::<Old>(&packed(&inside)).is_err());
    assert!(read::<OldChange>(&packed(&NewChange::Pause { job: 7, until: Some(0) })).is_err());
}

#[test]
fn a_default_before_something_that_is_said_keeps_its_place() {
    for said in [
        New { priority: -1, ..new() },
        New { params: [("k".to_owned(), String::new())].into(), ..new() },
        New { group: Some(NewInner::default()), ..new() },
        New { group: Some(NewInner { count: 0, note: "n".to_owned() }), ..new() },
        New { inner: NewInner { count: 9, note: "n".to_owned() }, ..new() },
    ] {
        assert_eq!(read::<New>(&packed(&said)).expect("it is read"), said);
    }
    // Name, inner, an empty map, nothing, a number.
    let bytes = packed(&New { priority: 5, ..new() });
    assert_eq!(bytes, [0x95, 0xa1, b'a', 0x91, 1, 0x80, 0xc0, 5]);
}

/// More fields than the shortest head of an array can count.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Wide {
    fields: (u8, u8, u8, u8, u8, u8, u8, u8),
    a: u8,
    b: u8,
    c: u8,
    d: u8,
    e: u8,
    f: u8,
    g: u8,
    h: u8,
    i: u8,
    j: u8,
    k: u8,
    l: u8,
    m: u8,
    n: u8,
    #[serde(default, serialize_with = "later")]
    o: u8,
    #[serde(default, serialize_with = "later")]
    p: u8,
}

#[test]
fn the_head_shrinks_with_the_array() {
    let mut wide = Wide { n: 3, ..Wide::default() };
    let bytes = packed(&(&wide, "behind"));
    assert_eq!(bytes[1], 0x9f);
    let (back, behind): (Wide, String) = read(&bytes).expect("it is read");
    assert_eq!((&back, behind.as_str()), (&wide, "behind"));
    wide.p = 9;
    let bytes = packed(&wide);
    assert_eq!(bytes[..3], [0xdc, 0, 17]);
    assert_eq!(read::<Wide>(&bytes).expect("it is read"), wide);
}

#[test]
fn what_has_no_later_fields_has_the_bytes_of_rmp_serde() {
    #[derive(Serialize)]
    enum Kind {
        Unit,
        Newtype(u64),
        Tuple(i8, i64),
        Struct { a: f64, b: Option<bool> },
    }
    #[derive(Serialize)]
    struct Unit;
    #[derive(Serialize)]
    struct Newtype(u32);
    #[derive(Serialize)]
    struct Pair(u16, i16);
    let kinds = vec![
        Kind::Unit,
        Kind::Newtype(u64::MAX),
        Kind::Tuple(-128, i64::MIN),
        Kind::Struct { a: 1.5, b: None },
        Kind::Struct { a: -0.25, b: Some(true) },
    ];
    let long = "x".repeat(70_000);
    let value = (
        kinds,
        (Unit, Newtype(70_000), Pair(300, -300), 'ß', 1.25_f32, ()),
        BTreeMap::from([(1_u8, long.as_str()), (200, "")]),
        vec![0_i32; 20],
        std::time::Duration::from_millis(1_500),
    );
    assert_eq!(packed(&value), rmp_serde::to_vec(&value).expect("it is written"));
}
