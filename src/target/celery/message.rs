//! The message of a task, in the forms of kombu's transports for Redis and for AMQP.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lapin::BasicProperties;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::super::broker::{Failure, Mark};
use super::super::told::{IDEMPOTENCY_KEY, told};
use super::super::{Order, amqp};
use super::{completion, python, table, template};
use crate::state::broker::{CeleryExpiry, CeleryPlace, CeleryTarget};
use crate::state::time::Timestamp;

/// The longest expiration that RabbitMQ takes, ten years; it refuses a message with a longer one.
const EXPIRATION_MAX: Duration = Duration::from_millis(315_360_000_000);

/// A task that is to be sent.
pub(super) struct Message {
    pub(super) id: String,
    pub(super) content_type: String,
    pub(super) content_encoding: String,
    pub(super) body: Vec<u8>,
    pub(super) headers: Map<String, Value>,
    /// Headers that the job sets.
    pub(super) own: Map<String, Value>,
    /// Tells this message from all others, of the same run too.
    pub(super) tag: String,
    /// How long it is worth running.
    pub(super) lifetime: Option<Duration>,
    pub(super) priority: Option<u8>,
    /// 2 where the broker writes it to disk, else 1.
    pub(super) delivery_mode: u8,
    pub(super) reply_to: String,
    /// Further properties.
    pub(super) more: Map<String, Value>,
}

impl Message {
    /// The message of an order; an error says what of it cannot be read.
    pub(super) fn new(
        order: &Order,
        target: &CeleryTarget,
        now: Timestamp,
        origin: &str,
    ) -> Result<Self, String> {
        match &target.template {
            Some(template) => template::message(order, target, template, now, origin),
            None => Self::native(order, target, now, origin),
        }
    }

    /// One that is not built by anybody else.
    fn native(order: &Order, target: &CeleryTarget, now: Timestamp, origin: &str) -> Result<Self, String> {
        let read = |field: &str, text: &str| {
            serde_json::from_str::<Value>(text).map_err(|error| format!("{field}: {error}"))
        };
        let (args, kwargs) = (read("args", &target.args)?, read("kwargs", &target.kwargs)?);
        let Value::Object(own) = read("headers", &target.headers)? else {
            return Err("headers: expected a mapping".to_owned());
        };
        let id = task_id(order);
        let expires = expires(order, target, now)?;
        let mut headers = Map::new();
        let mut set = |name: &str, value: Value| headers.insert(name.to_owned(), value);
        set("lang", json!("py"));
        set("task", json!(target.task));
        set("id", json!(id));
        set("shadow", json!(target.shadow));
        set("eta", Value::Null);
        set("expires", json!(expires.map(iso)));
        set("group", Value::Null);
        set("group_index", Value::Null);
        set("retries", json!(0));
        set("timelimit", json!([seconds(target.time_limit), seconds(target.soft_time_limit)]));
        set("root_id", json!(id));
        set("parent_id", Value::Null);
        set("argsrepr", json!(python::repr(&args)));
        set("kwargsrepr", json!(python::repr(&kwargs)));
        set("origin", json!(origin));
        // `false` would override a task that is declared with ignore_result.
        set("ignore_result", json!(target.ignore_result));
        set("replaced_task_nesting", json!(0));
        set("stamped_headers", Value::Null);
        set("stamps", json!({}));
        set("periodic_task_name", json!(order.job));
        set("celery_beat_task", json!(true));
        for told in told(order) {
            set(&told.header, json!(told.value));
        }
        set(IDEMPOTENCY_KEY, json!(order.run_id));
        for (name, value) in &own {
            set(name, value.clone());
        }
        let told = |how, immutable| match waits(order, target) {
            true => json!([completion::signature(order, &id, how, immutable)]),
            false => Value::Null,
        };
        let embed = json!({
            "callbacks": told(completion::SUCCESS, !target.capture_result),
            "errbacks": told(completion::FAILURE, true),
            "chain": null,
            "chord": null,
        });
        Ok(Self {
            tag: tag(order),
            content_type: "application/json".to_owned(),
            content_encoding: "utf-8".to_owned(),
            body: json!([args, kwargs, embed]).to_string().into_bytes(),
            priority: target.priority,
            delivery_mode: if target.persistent { 2 } else { 1 },
            reply_to: target.reply_to.clone().unwrap_or_default(),
            more: Map::new(),
            lifetime: expires.map(|expires| expires.since(now)),
            id,
            headers,
            own,
        })
    }

    /// Names of the headers that the job sets.
    pub(super) fn own_headers(&self) -> impl Iterator<Item = &str> {
        self.own.keys().map(String::as_str)
    }

    /// What is given to a RabbitMQ server. Its default exchange takes the name of a queue for a routing key, and kombu
    /// publishes there wherever only a queue is named.
    pub(super) fn for_amqp(&self, target: &CeleryTarget) -> Result<amqp::Message, Failure> {
        let (exchange, routing_key) = match &target.to {
            CeleryPlace::Queue(queue) => ("", queue.as_str()),
            CeleryPlace::Exchange { name, routing_key } => (name.as_str(), routing_key.as_str()),
        };
        let headers =
            table::table(&self.headers).map_err(|why| Failure::Invalid(format!("headers: {why}")))?;
        let mut properties = BasicProperties::default()
            .with_content_type(amqp::short("content_type", &self.content_type)?)
            .with_content_encoding(amqp::short("content_encoding", &self.content_encoding)?)
            .with_headers(headers)
            .with_delivery_mode(self.delivery_mode)
            .with_correlation_id(amqp::short("id", &self.id)?)
            .with_reply_to(amqp::short("reply_to", &self.reply_to)?);
        for (name, with) in [
            ("message_id", BasicProperties::with_message_id as fn(_, _) -> _),
            ("app_id", BasicProperties::with_app_id),
            ("user_id", BasicProperties::with_user_id),
            ("type", BasicProperties::with_type),
        ] {
            if let Some(text) = self.more.get(name).and_then(Value::as_str) {
                properties = with(properties, amqp::short(name, text)?);
            }
        }
        if let Some(at) = self.more.get("timestamp").and_then(Value::as_u64) {
            properties = properties.with_timestamp(at);
        }
        if let Some(priority) = self.priority {
            properties = properties.with_priority(priority);
        }
        // A task that lives longer is dropped by its worker, which reads the header.
        if let Some(lifetime) = self.lifetime.filter(|lifetime| *lifetime <= EXPIRATION_MAX) {
            let millis = lifetime.as_millis().to_string();
            properties = properties.with_expiration(amqp::short("expiration", &millis)?);
        }
        Ok(amqp::Message {
            exchange: amqp::short("exchange", exchange)?,
            routing_key: amqp::short("routing_key", routing_key)?,
            properties,
            payload: self.body.clone(),
        })
    }

    /// What is pushed to a list.
    pub(super) fn for_redis(&self, target: &CeleryTarget) -> Value {
        let (exchange, routing_key) = match &target.to {
            CeleryPlace::Queue(queue) => ("", queue),
            CeleryPlace::Exchange { name, routing_key } => (name.as_str(), routing_key),
        };
        let mut properties = self.more.clone();
        let mut set = |name: &str, value: Value| properties.insert(name.to_owned(), value);
        set("correlation_id", json!(self.id));
        set("reply_to", json!(self.reply_to));
        set("delivery_mode", json!(self.delivery_mode));
        set("delivery_info", json!({ "exchange": exchange, "routing_key": routing_key }));
        set("priority", json!(self.priority.unwrap_or(0)));
        set("body_encoding", json!("base64"));
        set("delivery_tag", json!(self.tag));
        if let Some(lifetime) = self.lifetime {
            set("expiration", json!(lifetime.as_millis().to_string()));
        }
        json!({
            "body": STANDARD.encode(&self.body),
            "content-encoding": self.content_encoding,
            "content-type": self.content_type,
            "headers": self.headers,
            "properties": properties,
        })
    }
}

/// Whether the run goes on until the task has ended. A leader that does not say what cluster it is of cannot be told.
pub(super) fn waits(order: &Order, target: &CeleryTarget) -> bool {
    target.wait_for_completion && !order.cluster_id.is_empty()
}

/// The id of the task. Attempts of a run send the same one, until it has ended: what a broker has of an attempt of which
/// nobody heard is then the same task, and not another one.
pub(super) fn task_id(order: &Order) -> String {
    space(order).to_string()
}

/// What all ids of the run are made in.
pub(super) fn space(order: &Order) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("chronarch:run:{}", Mark(order)).as_bytes())
}

/// What tells the messages of all attempts apart.
pub(super) fn tag(order: &Order) -> String {
    tag_of(space(order), order.fence)
}

/// The same by the id of the task, and the fence of the attempt that has left it.
pub(super) fn tag_of(task: Uuid, fence: u64) -> String {
    Uuid::new_v5(&task, format!("delivery of {fence}").as_bytes()).to_string()
}

/// Until when it is worth running; an error where that is over.
pub(super) fn expires(
    order: &Order,
    target: &CeleryTarget,
    now: Timestamp,
) -> Result<Option<Timestamp>, String> {
    let expires = expiry(order, target, now);
    if expires.is_some_and(|expires| expires <= now) {
        return Err("expires_at: is over; a worker would drop the task".to_owned());
    }
    Ok(expires)
}

/// The next occurrence says so only if it lies ahead: a task that is late already is
/// better run late than not at all.
pub(super) fn expiry(order: &Order, target: &CeleryTarget, now: Timestamp) -> Option<Timestamp> {
    match target.expires {
        CeleryExpiry::Never => None,
        CeleryExpiry::After(span) => Some(now.plus(span)),
        CeleryExpiry::At(at) => Some(at),
        // What the next occurrence is for, that tasks do not pile up, `overlap` sees to where the run is open for as long as
        // its task; and of one that expires it is known only a while later, when the next occurrence was skipped for it.
        CeleryExpiry::Next if waits(order, target) => None,
        CeleryExpiry::Next => order.next_at.filter(|next| *next > now),
    }
}

/// As Python's `isoformat` writes it: the seconds have six digits, which all releases of it read.
pub(super) fn iso(at: Timestamp) -> String {
    let text = at.to_string();
    let text = text.trim_end_matches('Z');
    match text.split_once('.') {
        Some((whole, part)) => format!("{whole}.{part:0<6}+00:00"),
        None => format!("{text}.000000+00:00"),
    }
}

/// A number without a fraction where it has none, as people write it in Python.
fn seconds(span: Option<Duration>) -> Value {
    match span {
        None => Value::Null,
        Some(span) if span.subsec_nanos() == 0 => json!(span.as_secs()),
        Some(span) => json!(span.as_secs_f64()),
    }
}
