//! Params in the texts of a target, as far as they can be checked without the values of a run.

use super::super::problem::{Problem, Problems};
use crate::pb::path::keyed;
use crate::state::spec::Target;
use crate::state::template::{self, Params, TemplateError};

/// Notes what cannot be filled in with the params of the job.
pub(super) fn check(target: &Target, params: &Params, problems: &mut Problems) {
    let values = template::stand_ins(params);
    let mut note = |path: String, filled: Result<_, TemplateError>| {
        let Err(error) = filled else { return };
        let hint = matches!(error, TemplateError::Unknown(_)).then(|| known(params));
        problems.push(Problem { path, reason: error.to_string(), hint });
    };
    match target {
        Target::Exec { .. } => {}
        Target::Http { url, headers, body, .. } => {
            note("target.http.url".to_owned(), template::url(url, &values));
            for (name, value) in headers {
                note(keyed("target.http.headers", name), template::header(name, value, &values));
            }
            note("target.http.body".to_owned(), template::body(body, headers, &values));
        }
        Target::Grpc { metadata, request, .. } => {
            for (name, value) in metadata {
                note(keyed("target.grpc.metadata", name), template::header(name, value, &values));
            }
            note("target.grpc.request".to_owned(), template::json(request, &values));
        }
        Target::Redis(redis) => {
            for (name, value) in &redis.headers {
                note(keyed("target.redis.headers", name), template::header(name, value, &values));
            }
            note("target.redis.payload".to_owned(), template::payload(&redis.payload, &values));
        }
        Target::Amqp(amqp) => {
            for (name, value) in &amqp.headers {
                note(keyed("target.amqp.headers", name), template::header(name, value, &values));
            }
            note("target.amqp.payload".to_owned(), template::payload(&amqp.payload, &values));
        }
        Target::Nats(nats) => {
            for (name, value) in &nats.headers {
                note(keyed("target.nats.headers", name), template::header(name, value, &values));
            }
            note("target.nats.payload".to_owned(), template::payload(&nats.payload, &values));
        }
        Target::Celery(celery) => {
            note("target.celery.args".to_owned(), template::json(&celery.args, &values));
            note("target.celery.kwargs".to_owned(), template::json(&celery.kwargs, &values));
        }
        Target::Queue { payload } => {
            note("target.queue.payload".to_owned(), template::payload(payload, &values));
        }
    }
}

fn known(params: &Params) -> String {
    if params.is_empty() {
        return "the job has no params; they are declared with their defaults in `params`".to_owned();
    }
    let names: Vec<&str> = params.keys().map(String::as_str).collect();
    format!("the job has {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::from_pb;
    use crate::pb::v1 as pb;

    fn found(target: pb::Target) -> Vec<String> {
        let params = [("day".to_owned(), String::new()), ("n".to_owned(), "7".to_owned())].into();
        let spec =
            pb::JobSpec { name: "a".to_owned(), target: Some(target), params, ..pb::JobSpec::default() };
        from_pb(&spec).err().map_or_else(Vec::new, |problems| {
            problems.list().iter().map(|problem| format!("{}: {}", problem.path, problem.reason)).collect()
        })
    }

    fn http(url: &str, header: (&str, &str), body: &str) -> pb::Target {
        let http = pb::HttpTarget {
            url: url.to_owned(),
            headers: [(header.0.to_owned(), header.1.to_owned())].into(),
            body: body.to_owned(),
            ..pb::HttpTarget::default()
        };
        pb::Target { http: Some(http), ..pb::Target::default() }
    }

    #[test]
    fn each_field_says_which_of_its_params_the_job_does_not_have() {
        let texts = http("https://h/{{ params.a }}", ("X-B", "{{ params.b }}"), "{{ params.c }}");
        assert_eq!(
            found(texts),
            [
                "target.http.url: there is no param a",
                "target.http.headers.X-B: there is no param b",
                "target.http.body: there is no param c",
            ]
        );
        let payload = "{\"x\": \"{{ params.x }}\"}".to_owned();
        let queue = pb::Target { queue: Some(pb::QueueTarget { payload }), ..pb::Target::default() };
        assert_eq!(found(queue), ["target.queue.payload: there is no param x"]);
        let grpc = pb::GrpcTarget {
            address: "h:1".to_owned(),
            method: "a.B/C".to_owned(),
            request: "{\"x\": \"{{ params.x }}\"}".to_owned(),
            metadata: [("y".to_owned(), "{{ params.y }}".to_owned())].into(),
            ..pb::GrpcTarget::default()
        };
        let grpc = pb::Target { grpc: Some(grpc), ..pb::Target::default() };
        assert_eq!(
            found(grpc),
            ["target.grpc.metadata.y: there is no param y", "target.grpc.request: there is no param x"]
        );
    }

    #[test]
    fn texts_with_params_of_the_job_are_taken_and_those_in_the_wrong_place_are_not() {
        let kind = ("content-type", "application/json");
        let day = "https://h/{{ params.day }}?n={{ params.n }}";
        assert_eq!(found(http(day, kind, "{\"n\": \"{{ params.n }}\"}")), [""; 0]);
        for (target, problem) in [
            (http("https://{{ params.day }}/", kind, ""), "target.http.url: "),
            (http("{{ params.day }}", kind, ""), "target.http.url: "),
            (http(day, ("content-type", "{{ params.day }}"), ""), "target.http.headers.content-type: "),
            (http(day, ("{{ params.day }}", "x"), ""), "target.http.headers"),
            (http(day, kind, "{\"n\": {{ params.n }}}"), "target.http.body: "),
            (http(day, ("content-type", "text/xml"), "{{ params.n }}"), "target.http.body: "),
        ] {
            let found = found(target);
            assert!(found.iter().any(|found| found.starts_with(problem)), "{problem}: {found:?}");
        }
    }

    #[test]
    fn a_call_is_checked_as_it_is_with_the_defaults() {
        let set = tonic_health::pb::FILE_DESCRIPTOR_SET;
        let descriptor = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, set);
        let call = |address: &str, request: &str| {
            let grpc = pb::GrpcTarget {
                address: address.to_owned(),
                method: "grpc.health.v1.Health/Check".to_owned(),
                request: request.to_owned(),
                descriptor: descriptor.clone(),
                ..pb::GrpcTarget::default()
            };
            found(pb::Target { grpc: Some(grpc), ..pb::Target::default() })
        };
        assert_eq!(call("h:1", "{\"service\": \"{{ params.n }}\"}"), [""; 0]);
        assert!(call("h:1", "{\"servant\": \"{{ params.n }}\"}")[0].starts_with("target.grpc.request: "));
        assert_eq!(call("{{ params.n }}:1", ""), ["target.grpc.address: expected host:port"]);
    }
}
