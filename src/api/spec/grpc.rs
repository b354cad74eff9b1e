//! The grpc target of a request.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderName, HeaderValue};

use super::super::limits;
use super::super::problem::{Problem, Problems};
use super::target::{OUR_HEADERS, OURS};
use super::value;
use crate::pb::path::keyed;
use crate::pb::v1 as pb;
use crate::state::spec::Target;
use crate::state::template::{self, Params};
use crate::target::{DescribeError, check_grpc};

/// The call; paths begin at `target.grpc`.
pub(super) fn target(target: &pb::GrpcTarget, params: &Params, problems: &mut Problems) -> Target {
    address(&target.address, problems);
    metadata(target, problems);
    value::length("target.grpc.request", &target.request, limits::BODY_BYTES, problems);
    let descriptor = descriptor(&target.descriptor, problems);
    if let Some(descriptor) = &descriptor
        && target.request.len() <= limits::BODY_BYTES
        // The message of a run that has the defaults; that a text cannot be filled in is noted with all others.
        && let Ok(request) = template::json(&target.request, params)
        && let Err(error) = check_grpc(&target.method, &request, descriptor)
    {
        // It names its field itself.
        let text = error.to_string();
        let (field, reason) = text.split_once(": ").unwrap_or(("method", &text));
        let hint = matches!(error, DescribeError::Set(_))
            .then(|| "protoc --include_imports --descriptor_set_out=FILE, and base64 -w0 FILE".to_owned());
        problems.push(Problem { path: format!("target.grpc.{field}"), reason: reason.to_owned(), hint });
    }
    Target::Grpc {
        address: target.address.clone(),
        method: target.method.trim_start_matches('/').to_owned(),
        request: target.request.clone(),
        metadata: target.metadata.clone(),
        descriptor: descriptor.unwrap_or_default(),
        tls: target.tls,
    }
}

fn address(text: &str, problems: &mut Problems) {
    let path = "target.grpc.address";
    if text.is_empty() {
        return problems.add(path, "is missing");
    }
    value::length(path, text, limits::PEER_ADDRESS_BYTES, problems);
    let is_address = text.parse::<http::uri::Authority>().is_ok_and(|authority| {
        authority.port_u16().is_some() && !authority.host().is_empty() && !text.contains('@')
    });
    if !is_address {
        problems.add(path, "expected host:port");
    }
}

fn metadata(target: &pb::GrpcTarget, problems: &mut Problems) {
    let path = "target.grpc.metadata";
    value::most(path, "entries", target.metadata.len(), limits::PAIRS, problems);
    for (name, text) in target.metadata.iter().take(limits::PAIRS) {
        let at = keyed(path, name);
        let lower = name.to_ascii_lowercase();
        if name.len() + text.len() > limits::PAIR_BYTES {
            let most = limits::PAIR_BYTES;
            problems.add(at, format!("name and value are too long, at most {most} bytes are allowed"));
        } else if HeaderName::from_bytes(name.as_bytes()).is_err() {
            problems.add(at, "is no name of metadata");
        } else if lower.starts_with(OURS.0) || OUR_HEADERS.contains(&lower.as_str()) {
            problems.add(at, "is set by the scheduler");
        } else if lower.starts_with("grpc-") || lower.ends_with("-bin") {
            problems.add(at, "belongs to the protocol and cannot be set");
        } else if HeaderValue::from_str(text).is_err() {
            problems.add(at, "its value has characters that metadata cannot hold");
        }
    }
}

/// None when it is none.
fn descriptor(text: &str, problems: &mut Problems) -> Option<Vec<u8>> {
    let path = "target.grpc.descriptor";
    match STANDARD.decode(text) {
        Ok(bytes) if bytes.len() <= limits::BODY_BYTES => Some(bytes),
        Ok(bytes) => {
            let most = limits::BODY_BYTES;
            problems.add(path, format!("is {} bytes long, at most {most} are allowed", bytes.len()));
            None
        }
        Err(_) => {
            problems.add(path, "is no base64");
            None
        }
    }
}
