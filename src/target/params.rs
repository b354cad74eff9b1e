//! The params of a run in the texts of its target.

use super::{Http, Order, Target};
use crate::state::template::{self, TemplateError};

/// Why a target cannot be carried out as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {error}")]
pub(super) struct Unfilled {
    field: String,
    #[source]
    error: TemplateError,
}

fn of(field: impl Into<String>) -> impl FnOnce(TemplateError) -> Unfilled {
    let field = field.into();
    |error| Unfilled { field, error }
}

/// The target with the order's params in their places. Processes are told them as variables, and nothing else.
pub(super) fn filled(order: &Order) -> Result<Target, Unfilled> {
    let mut target = order.target.clone();
    match &mut target {
        Target::Exec(_) => {}
        Target::Http(http) => fill_http(http, order)?,
        Target::Grpc(grpc) => {
            for (name, value) in &mut grpc.metadata {
                let filled = template::header(name, value, &order.params);
                *value = filled.map_err(of(format!("metadata: {name}")))?.into_owned();
            }
            grpc.request = template::json(&grpc.request, &order.params).map_err(of("request"))?.into_owned();
        }
        Target::Redis(redis) => {
            for (name, value) in &mut redis.headers {
                let filled = template::header(name, value, &order.params);
                *value = filled.map_err(of(format!("headers: {name}")))?.into_owned();
            }
            redis.payload =
                template::payload(&redis.payload, &order.params).map_err(of("payload"))?.into_owned();
        }
        Target::Amqp(amqp) => {
            for (name, value) in &mut amqp.headers {
                let filled = template::header(name, value, &order.params);
                *value = filled.map_err(of(format!("headers: {name}")))?.into_owned();
            }
            amqp.payload =
                template::payload(&amqp.payload, &order.params).map_err(of("payload"))?.into_owned();
        }
        Target::Nats(nats) => {
            for (name, value) in &mut nats.headers {
                let filled = template::header(name, value, &order.params);
                *value = filled.map_err(of(format!("headers: {name}")))?.into_owned();
            }
            nats.payload =
                template::payload(&nats.payload, &order.params).map_err(of("payload"))?.into_owned();
        }
        Target::Celery(celery) => {
            celery.args = template::json(&celery.args, &order.params).map_err(of("args"))?.into_owned();
            celery.kwargs = template::json(&celery.kwargs, &order.params).map_err(of("kwargs"))?.into_owned();
        }
    }
    Ok(target)
}

fn fill_http(http: &mut Http, order: &Order) -> Result<(), Unfilled> {
    http.url = template::url(&http.url, &order.params).map_err(of("url"))?.into_owned();
    if let Some(body) = http.body.take() {
        // A body comes as text; what is none has no params.
        http.body = Some(match std::str::from_utf8(&body) {
            Err(_) => body,
            Ok(text) => template::body(text, &http.headers, &order.params)
                .map_err(of("body"))?
                .into_owned()
                .into_bytes(),
        });
    }
    for (name, value) in &mut http.headers {
        let filled = template::header(name, value, &order.params);
        *value = filled.map_err(of(format!("headers: {name}")))?.into_owned();
    }
    Ok(())
}
