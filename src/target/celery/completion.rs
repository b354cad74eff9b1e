//! The queue in which Celery's workers tell how tasks have ended.
//!
//! A task that a run waits for has a signature among its callbacks, and one among its errbacks, of a task that nobody
//! registers. Celery's worker sends it when the task has ended: with the result backend of its app or without one,
//! whatever the task says of its result, also for a child that was killed. It goes to an exchange of ours, by which it
//! lies in a list of the cluster, until it is in the log.
//!
//! The signature names exchange and routing key, not a queue: with `task_create_missing_queues = False` an unknown queue
//! is an error inside the worker, at the cost of the user's own task. It is immutable, so what the task returned is not
//! copied, unless the job wants it (`capture_result`).

use std::io::Read as _;

use ::redis::Pipeline;
use flate2::read::ZlibDecoder;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::Order;
use crate::config::connections::CeleryOptions;
use crate::state::celery::FILL;
use crate::state::limits::TASK_ID_BYTES;
use crate::state::run::RunId;

pub(super) const SUCCESS: &str = "success";
pub(super) const FAILURE: &str = "failure";
/// How many arguments the signature has.
const ARGUMENTS: usize = 4;
/// What is unpacked of one end, at most: with what the task has returned, of which less is kept.
const BODY_BYTES_MAX: u64 = 16 << 20;
/// The exchange, and the name of the task.
pub(in crate::target) const NAME: &str = "chronarch.done";

/// What a worker is to send when the task has ended in that way.
pub(super) fn signature(order: &Order, task_id: &str, how: &str, immutable: bool) -> Value {
    let id = Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("chronarch:done:{task_id}:{how}").as_bytes());
    json!({
        "task": NAME,
        "args": [order.run_id, order.delivery, task_id, how],
        "kwargs": {},
        "options": {
            "task_id": id.to_string(),
            "ignore_result": true,
            "serializer": "json",
            // Else it is that of the app (`task_compression`), which may be one that cannot be read here.
            "compression": "zlib",
            "exchange": NAME,
            "routing_key": order.cluster_id,
        },
        "subtask_type": null,
        // Else Celery puts what the task has returned before the arguments.
        "immutable": immutable,
    })
}

/// The list in which a cluster finds what was sent.
pub(super) fn list(cluster: &str, options: &CeleryOptions) -> String {
    format!("{}{}", options.global_keyprefix, queue(cluster))
}

/// Binds the list to the exchange, as kombu keeps bindings; in its second set too, or a sweep of kombu 5.7 may drop it.
pub(super) fn bindings(cluster: &str, options: &CeleryOptions) -> Pipeline {
    let (prefix, sep) = (&options.global_keyprefix, &options.sep);
    let binding = format!("{cluster}{sep}{sep}{}", queue(cluster));
    let mut commands = ::redis::pipe();
    for set in ["binding", "binding_permanent"] {
        commands.cmd("SADD").arg(format!("{prefix}_kombu.{set}.{NAME}")).arg(&binding).ignore();
    }
    commands
}

/// What lies in the list, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) run_id: String,
    pub(super) delivery: u32,
    pub(super) task_id: String,
    pub(super) succeeded: bool,
    /// What it returned, as JSON text; None: that was not asked for.
    pub(super) result: Option<String>,
}

/// The queue in which a cluster finds what was sent.
pub(in crate::target) fn queue(cluster: &str) -> String {
    format!("{NAME}.{cluster}")
}

/// What a body says that Celery's worker has written by our signature, or by one of an earlier release, which was not
/// packed.
pub(super) fn unpacked(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body).ok().or_else(|| {
        let mut text = Vec::new();
        ZlibDecoder::new(body).take(BODY_BYTES_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    })
}

/// Reads the body of a message of ours; None: it is not one.
pub(super) fn read(body: &Value) -> Option<Done> {
    let args = body[0].as_array()?;
    let (result, args) = match args.as_slice() {
        [result, args @ ..] if args.len() == ARGUMENTS => {
            (Some(result).filter(|result| !result.is_null()).map(Value::to_string), args)
        }
        args => (None, args),
    };
    let [run_id, delivery, task_id, how] = args else { return None };
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let succeeded = match how.as_str()? {
        SUCCESS => true,
        FAILURE => false,
        _ => return None,
    };
    let (mut run_id, task_id) = (text(run_id)?, text(task_id)?);
    let delivery = match delivery {
        // Of a message that the app has built, where both are one text with a fixed length.
        Value::Null => {
            let (run, delivery) = run_id.trim_end_matches(FILL).split_once('/')?;
            let delivery = delivery.parse().ok()?;
            run_id = run.to_owned();
            delivery
        }
        number => u32::try_from(number.as_u64()?).ok()?,
    };
    // Whoever reaches the broker can write here, and the leader refuses all that is told with one end that makes no sense.
    run_id.parse::<RunId>().ok()?;
    (task_id.len() <= TASK_ID_BYTES).then_some(Done { run_id, delivery, task_id, succeeded, result })
}
