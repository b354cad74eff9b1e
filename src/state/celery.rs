//! A message that a Celery app has built once, to be sent anew for each run: what it has to be, and what stands in it for
//! what a run fills in.
//!
//! It is the envelope of kombu's transport for Redis. What is another one in each run has a stand-in of the same length,
//! so that it can be replaced in a body of any serializer without reading it: MessagePack and pickles count bytes.
//! Stand-ins are the ids that Celery made while the message was built, which the job lists, and two texts of ours, in the
//! signatures that tell the end of the task: [`RUN`] and [`CLUSTER`].
//!
//! A worker that is given a message which it cannot take apart may end, and so may the next one that is given it. What is
//! looked at here is what a worker looks at before any code of a task runs; of a serializer that is unknown here it is
//! only that there is a body.

use std::collections::HashSet;
use std::fmt;

use aho_corasick::AhoCorasick;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::limits::TEMPLATE_IDS;

/// Stands for the run and the number of its task: `RUN_ID/NUMBER`, filled up with dots. YAML puts what begins like this
/// between quotes, and so do not read as a number what is put in its place.
pub const RUN: &str = "@chronarch.run..................................................................";
/// Stands for the id of the cluster.
pub const CLUSTER: &str = "@chronarch.cluster..............";
/// What fills up what is shorter than its stand-in.
pub const FILL: char = '.';
/// How `compression` is written where it is that of zlib, the only one that is written here.
pub const ZLIB: &str = "application/x-gzip";
/// Names of headers and texts of properties, as long as AMQP can write them.
const SHORT_BYTES: usize = 255;
/// The serializers that are read here.
const JSON: &str = "application/json";
const MSGPACK: &str = "application/x-msgpack";
const YAML: &str = "application/x-yaml";
/// What kombu calls text and bytes.
const ENCODINGS: [&str; 2] = ["utf-8", "binary"];

/// The message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CeleryTemplate {
    /// The envelope, as JSON.
    pub message: String,
    /// The ids in it that are others in each run; the first is that of the task whose end is that of the run: of a chain
    /// the last one.
    pub ids: Vec<String>,
}

/// What is wrong with one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Where, in the message; empty: it is the message.
    pub path: String,
    /// What.
    pub reason: String,
    /// What would be right.
    pub hint: Option<&'static str>,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.reason),
            path => write!(f, "{path}: {}", self.reason),
        }
    }
}

/// What a template says, once it was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// As a task sees them.
    pub headers: Map<String, Value>,
    /// Of the message.
    pub properties: Map<String, Value>,
    /// The serializer.
    pub content_type: String,
    /// `utf-8` or `binary`.
    pub content_encoding: String,
    /// What the serializer has written.
    pub body: Vec<u8>,
}

impl Read {
    /// A header that is a text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// The exchange, which is empty for the default one, and the routing key.
    #[must_use]
    pub fn place(&self) -> (&str, &str) {
        let info = self.properties.get("delivery_info");
        let of = |name: &str| info.and_then(|info| info[name].as_str()).unwrap_or_default();
        (of("exchange"), of("routing_key"))
    }

    /// Whether it asks a worker to tell a cluster of the end of its task.
    #[must_use]
    pub fn tells(&self) -> bool {
        let found = |text: &str| self.body.windows(text.len()).any(|part| part == text.as_bytes());
        found(RUN) && found(CLUSTER)
    }
}

fn flaw<T>(path: &str, reason: impl Into<String>) -> Result<T, Flaw> {
    Err(Flaw { path: path.to_owned(), reason: reason.into(), hint: None })
}

fn hinted<T>(path: &str, reason: &str, hint: &'static str) -> Result<T, Flaw> {
    Err(Flaw { path: path.to_owned(), reason: reason.to_owned(), hint: Some(hint) })
}

/// Reads a template whose ids those are.
///
/// # Errors
/// The first [`Flaw`]; one whose path begins with `ids` is in the ids.
pub fn read(message: &str, ids: &[String]) -> Result<Read, Flaw> {
    let value: Value = match serde_json::from_str(message) {
        Ok(value) => value,
        Err(error) => return flaw("", format!("is no JSON: {error}")),
    };
    let Value::Object(mut envelope) = value else {
        return flaw("", "expected a mapping, the message as kombu writes it for Redis");
    };
    const KEYS: [&str; 5] = ["body", "content-encoding", "content-type", "headers", "properties"];
    if let Some(unknown) = envelope.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return flaw(unknown, format!("is none of {}", KEYS.join(", ")));
    }
    let mut take = |key: &str| envelope.remove(key).unwrap_or_default();
    let (headers, properties) = match (take("headers"), take("properties")) {
        (Value::Object(headers), Value::Object(properties)) => (headers, properties),
        (Value::Object(_), _) => return flaw("properties", "expected a mapping"),
        (_, _) => return flaw("headers", "expected a mapping"),
    };
    check_headers(&headers)?;
    check_properties(&properties)?;
    let content_type = match take("content-type") {
        Value::String(text) if is_short(&text) => text,
        _ => return flaw("content-type", "expected the name of a serializer; a worker without it ends"),
    };
    let content_encoding = match take("content-encoding") {
        Value::String(text) if ENCODINGS.contains(&text.as_str()) => text,
        _ => return flaw("content-encoding", format!("expected {}", ENCODINGS.join(" or "))),
    };
    let body = take("body").as_str().and_then(|text| STANDARD.decode(text).ok());
    let Some(body) = body else { return flaw("body", "expected base64") };
    check_body(&content_type, &body).or_else(|why| flaw("body", why))?;
    let read = Read { headers, properties, content_type, content_encoding, body };
    check_ids(&read, ids)?;
    Ok(read)
}

/// Whether a worker can take apart what is called, by the name of its serializer.
///
/// # Errors
/// What is wrong with it.
pub fn check_body(content_type: &str, body: &[u8]) -> Result<(), String> {
    if body.is_empty() {
        return Err("is empty; a worker without it ends".to_owned());
    }
    let text = || std::str::from_utf8(body).map_err(|error| error.to_string());
    let called: Called = match content_type {
        JSON => serde_json::from_slice(body).map_err(|error| error.to_string()),
        MSGPACK => rmp_serde::from_slice(body).map_err(|error| error.to_string()),
        YAML => text().and_then(|text| serde_saphyr::from_str(text).map_err(|error| error.to_string())),
        _ => return Ok(()),
    }
    .map_err(|error| {
        let line = error.lines().next().unwrap_or_default();
        format!("is not args, kwargs and what is embedded: {line}")
    })?;
    match called.2 {
        Some(Embedded { is_of_chord: true }) => {
            Err("is part of a chord, of which a job sends one message and not the others".to_owned())
        }
        Some(Embedded { is_of_chord: false }) | None => Ok(()),
    }
}

/// What is in a body: args, kwargs, and what is embedded.
#[derive(Deserialize)]
struct Called(
    #[expect(dead_code, reason = "that it is a list is all there is to know")] Vec<IgnoredAny>,
    #[expect(dead_code, reason = "that it is a mapping is all there is to know")] Embedded,
    Option<Embedded>,
);

/// A mapping, whatever is in it.
struct Embedded {
    is_of_chord: bool,
}

impl<'de> Deserialize<'de> for Embedded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Mapping;
        impl<'de> Visitor<'de> for Mapping {
            type Value = Embedded;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Embedded, A::Error> {
                let mut is_of_chord = false;
                while let Some(Name(name)) = map.next_key()? {
                    if name == "chord" {
                        is_of_chord |= map.next_value::<Option<IgnoredAny>>()?.is_some();
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Embedded { is_of_chord })
            }
        }
        deserializer.deserialize_map(Mapping)
    }
}

/// The name of something in a mapping; MessagePack may have any value there, which names nothing.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Name)
    }
}

fn check_headers(headers: &Map<String, Value>) -> Result<(), Flaw> {
    let text = |name: &str| headers.get(name).and_then(Value::as_str).unwrap_or_default();
    if !headers.contains_key("id") && !headers.contains_key("task") {
        return hinted(
            "headers",
            "is no message of protocol 2",
            "set task_protocol = 2, which is the default",
        );
    }
    if !is_short(text("task")) {
        return flaw("headers.task", "is no name of 1 to 255 bytes");
    }
    if !is_id(text("id")) {
        return flaw("headers.id", "is no id of 36 characters, as Celery makes them");
    }
    let is_null = |name: &str| headers.get(name).is_none_or(Value::is_null);
    for name in ["eta", "expires"] {
        if !is_null(name) {
            let hint =
                "a job says by its schedule when it is sent, and by `expires` how long it is worth running";
            return hinted(&format!("headers.{name}"), "is the same instant in all runs", hint);
        }
    }
    for name in ["group", "group_index"] {
        if !is_null(name) {
            let hint = "let the message be that of `celery.accumulate`, with the canvas in its chain";
            let reason = "is part of a group, of which a job sends one message and not the others";
            return hinted(&format!("headers.{name}"), reason, hint);
        }
    }
    let is_limit = |limit: &Value| limit.is_null() || limit.as_f64().is_some_and(|seconds| seconds > 0.0);
    let fits = |name: &str, is: &dyn Fn(&Value) -> bool| is_null(name) || headers.get(name).is_some_and(is);
    let is_pair =
        |value: &Value| value.as_array().is_some_and(|pair| pair.len() == 2 && pair.iter().all(is_limit));
    let is_texts = |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    for (name, expected, is) in [
        ("timelimit", "a pair of seconds or null", &is_pair as &dyn Fn(&Value) -> bool),
        ("retries", "a number", &Value::is_u64),
        ("replaced_task_nesting", "a number", &Value::is_u64),
        ("ignore_result", "true or false", &Value::is_boolean),
        ("shadow", "a text", &Value::is_string),
        ("argsrepr", "a text", &Value::is_string),
        ("kwargsrepr", "a text", &Value::is_string),
        ("lang", "a text", &Value::is_string),
        ("stamps", "a mapping", &Value::is_object),
        ("stamped_headers", "a list of texts", &is_texts),
    ] {
        if !fits(name, is) {
            return flaw(&format!("headers.{name}"), format!("expected {expected}"));
        }
    }
    if !fits("compression", &|value| value == ZLIB) {
        let hint = "leave the header out, and the body as the serializer wrote it";
        return hinted("headers.compression", &format!("expected {ZLIB}, that of zlib"), hint);
    }
    for (name, value) in headers {
        let path = format!("headers.{name}");
        if !is_short(name) {
            return flaw(&path, "is no name of 1 to 255 bytes without control characters");
        }
        if name.to_ascii_lowercase().starts_with("chronarch-") || name.eq_ignore_ascii_case("idempotency-key")
        {
            return flaw(&path, "is set by the scheduler");
        }
        if has_vast_numbers(value) {
            return flaw(&path, "has a whole number beyond 64 bits; write it as a text");
        }
    }
    Ok(())
}

fn check_properties(properties: &Map<String, Value>) -> Result<(), Flaw> {
    let of = |name: &str| properties.get(name).unwrap_or(&Value::Null);
    if of("body_encoding") != "base64" {
        return flaw("properties.body_encoding", "expected base64");
    }
    let Some(info) = of("delivery_info").as_object() else {
        return flaw("properties.delivery_info", "expected a mapping");
    };
    let part = |name: &str| info.get(name).and_then(Value::as_str);
    let Some(exchange) = part("exchange").filter(|text| text.is_empty() || is_short(text)) else {
        return flaw("properties.delivery_info.exchange", "is no text of at most 255 bytes");
    };
    if !part("routing_key").is_some_and(is_short) {
        let what = if exchange.is_empty() { "the name of a queue" } else { "a routing key" };
        return flaw("properties.delivery_info.routing_key", format!("expected {what}"));
    }
    match of("priority") {
        Value::Null => {}
        number if number.as_u64().is_some_and(|number| number <= 255) => {}
        _ => return flaw("properties.priority", "expected 0 to 255"),
    }
    match of("delivery_mode") {
        Value::Null => {}
        mode if mode == 1 || mode == 2 => {}
        _ => return flaw("properties.delivery_mode", "expected 1 or 2"),
    }
    for name in ["reply_to", "message_id", "app_id", "user_id", "type"] {
        match of(name) {
            Value::Null => {}
            Value::String(text) if text.is_empty() || is_short(text) => {}
            _ => return flaw(&format!("properties.{name}"), "is no text of at most 255 bytes"),
        }
    }
    Ok(())
}

fn check_ids(read: &Read, ids: &[String]) -> Result<(), Flaw> {
    if !ids.iter().any(|id| id == read.header("id")) {
        return flaw("ids", "lack headers.id, which is another one in each run");
    }
    if ids.len() > TEMPLATE_IDS {
        return flaw("ids", format!("{} ids are too many, at most {TEMPLATE_IDS} are allowed", ids.len()));
    }
    let mut found = vec![false; ids.len()];
    let searcher = searcher(ids.iter());
    let around = Value::from(vec![Value::from(read.headers.clone()), Value::from(read.properties.clone())]);
    for text in [around.to_string().as_bytes(), &read.body] {
        for part in searcher.iter().flat_map(|searcher| searcher.find_iter(text)) {
            found[part.pattern().as_usize()] = true;
        }
    }
    let mut before = HashSet::new();
    for (place, id) in ids.iter().enumerate() {
        let path = format!("ids[{place}]");
        if !is_id(id) {
            return flaw(&path, "is no id of 36 characters, as Celery makes them");
        }
        if !before.insert(id) {
            return flaw(&path, "is there twice");
        }
        if !found[place] {
            return flaw(&path, "does not stand in the message");
        }
    }
    Ok(())
}

/// The text with `to` where `from` stands; each is as long as what it replaces, or the text is no more what it was.
#[must_use]
pub fn replaced(text: &[u8], from: &[String], to: &[String]) -> Vec<u8> {
    match searcher(from.iter()) {
        Some(searcher) => searcher.replace_all_bytes(text, to),
        None => text.to_vec(),
    }
}

fn searcher<'a>(texts: impl Iterator<Item = &'a String>) -> Option<AhoCorasick> {
    // It refuses only more than 2^31 of them.
    AhoCorasick::new(texts).ok()
}

/// `9e124feb-4d96-4f40-b238-bdb3ad416a48`.
fn is_id(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn is_short(text: &str) -> bool {
    (1..=SHORT_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Numbers that are kept as ones with a fraction, of which digits are lost.
#[must_use]
pub fn has_vast_numbers(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            number.is_f64() && number.as_f64().is_some_and(|number| number.abs() >= 9.2e18)
        }
        Value::Array(values) => values.iter().any(has_vast_numbers),
        Value::Object(values) => values.values().any(has_vast_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}
