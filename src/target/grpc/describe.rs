//! What a method takes and gives: from a descriptor set, or by asking the server.
//!
//! Reflection is asked for the file of the service and then for each file that it imports and did not get, in the
//! first version of the protocol and, where a server does not know that one, in the one before it, whose messages are
//! the same.

use std::collections::{BTreeMap, BTreeSet};

use http::uri::PathAndQuery;
use prost::Message;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use super::codec;

/// Files that describe one service, at most.
const FILES_MAX: usize = 256;
/// Their bytes, at most.
const FILES_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The services by which a server describes itself.
const REFLECTION: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Why a method cannot be called as the job says.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// The name is none.
    #[error("method: {0:?} is not package.Service/Method")]
    Name(String),
    /// The descriptor set is none.
    #[error("descriptor: {0}")]
    Set(String),
    /// There is no such service or method.
    #[error("method: there is no {0}")]
    Unknown(String),
    /// It streams.
    #[error("method: {0} is not unary")]
    Streaming(String),
    /// The request does not fit.
    #[error("request: {0}")]
    Request(String),
    /// The server does not describe itself.
    #[error("the server does not describe itself ({0}); give the job a descriptor")]
    Reflection(String),
}

/// The full name of a method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    service: String,
    method: String,
}

impl Name {
    pub(super) fn read(text: &str) -> Result<Self, DescribeError> {
        let wrong = || DescribeError::Name(text.chars().take(128).collect());
        let (service, method) = text.strip_prefix('/').unwrap_or(text).split_once('/').ok_or_else(wrong)?;
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if !service.split('.').all(is_name) || !is_name(method) {
            return Err(wrong());
        }
        Ok(Self { service: service.to_owned(), method: method.to_owned() })
    }

    pub(super) fn path(&self) -> Result<PathAndQuery, DescribeError> {
        let path = format!("/{}/{}", self.service, self.method);
        PathAndQuery::from_maybe_shared(path.clone()).map_err(|_| DescribeError::Name(path))
    }
}

/// Checks what a job says of its call, as far as that can be known without the server.
///
/// # Errors
/// [`DescribeError`], the first that applies.
pub fn check(method: &str, request: &str, descriptor: &[u8]) -> Result<(), DescribeError> {
    let name = Name::read(method)?;
    if descriptor.is_empty() {
        let is_object = request.trim().is_empty()
            || serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(request)
                .map(|_| true)
                .map_err(|error| DescribeError::Request(error.to_string()))?;
        debug_assert!(is_object, "what is no object is an error");
        return Ok(());
    }
    codec::message(&in_set(descriptor, &name)?, request).map(drop)
}

/// The method in an encoded `FileDescriptorSet`.
pub(super) fn in_set(set: &[u8], name: &Name) -> Result<MethodDescriptor, DescribeError> {
    let pool = DescriptorPool::decode(set).map_err(|error| DescribeError::Set(error.to_string()))?;
    find(&pool, name)
}

fn find(pool: &DescriptorPool, name: &Name) -> Result<MethodDescriptor, DescribeError> {
    let unknown = || DescribeError::Unknown(format!("{}/{}", name.service, name.method));
    let service = pool.get_service_by_name(&name.service).ok_or_else(unknown)?;
    let method = service.methods().find(|method| method.name() == name.method).ok_or_else(unknown)?;
    if method.is_client_streaming() || method.is_server_streaming() {
        return Err(DescribeError::Streaming(format!("{}/{}", name.service, name.method)));
    }
    Ok(method)
}

/// The method as the server describes it.
pub(super) async fn by_reflection(channel: Channel, name: &Name) -> Result<MethodDescriptor, DescribeError> {
    let mut failed = Status::unimplemented("no reflection");
    for path in REFLECTION {
        match files(channel.clone(), path, name).await {
            Ok(set) => {
                let mut pool = DescriptorPool::new();
                pool.add_file_descriptor_set(set)
                    .map_err(|error| DescribeError::Reflection(error.to_string()))?;
                return find(&pool, name);
            }
            Err(status) if status.code() == Code::NotFound => {
                return Err(DescribeError::Unknown(format!("{}/{}", name.service, name.method)));
            }
            Err(status) if status.code() == Code::Unimplemented => failed = status,
            Err(status) => return Err(DescribeError::Reflection(told(&status))),
        }
    }
    Err(DescribeError::Reflection(told(&failed)))
}

fn told(status: &Status) -> String {
    format!("{}: {}", super::code_word(status.code()), status.message())
}

/// The file of the service, and all that it needs.
async fn files(channel: Channel, path: &'static str, name: &Name) -> Result<FileDescriptorSet, Status> {
    let (ask, asked) = mpsc::channel(1);
    let send = async |message: MessageRequest| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(message) };
        ask.send(request).await.map_err(|_| Status::unavailable("the server ended the stream"))
    };
    send(MessageRequest::FileContainingSymbol(name.service.clone())).await?;
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(FILES_BYTES_MAX);
    client.ready().await.map_err(|error| Status::unavailable(super::innermost(&error)))?;
    let codec = tonic_prost::ProstCodec::<ServerReflectionRequest, ServerReflectionResponse>::default();
    let request = Request::new(ReceiverStream::new(asked));
    let answers = client.streaming(request, PathAndQuery::from_static(path), codec).await?;
    let mut answers: Streaming<ServerReflectionResponse> = answers.into_inner();
    let mut files: BTreeMap<String, FileDescriptorProto> = BTreeMap::new();
    let mut bytes = 0;
    // A server that never sends what it is asked for is not asked for ever.
    for _ in 0..FILES_MAX {
        let answer = answers.message().await?.and_then(|answer| answer.message_response);
        let described = match answer {
            Some(MessageResponse::FileDescriptorResponse(described)) => described,
            Some(MessageResponse::ErrorResponse(error)) => {
                return Err(Status::new(Code::from_i32(error.error_code), error.error_message));
            }
            Some(_) | None => return Err(Status::internal("it answers something else")),
        };
        for file in described.file_descriptor_proto {
            bytes += file.len();
            let file = FileDescriptorProto::decode(file.as_slice())
                .map_err(|error| Status::internal(format!("a file is no descriptor: {error}")))?;
            files.insert(file.name().to_owned(), file);
        }
        if files.len() > FILES_MAX || bytes > FILES_BYTES_MAX {
            break;
        }
        let needed: BTreeSet<&String> = files.values().flat_map(|file| &file.dependency).collect();
        let missing = needed.into_iter().find(|name| !files.contains_key(*name)).cloned();
        match missing {
            Some(missing) => send(MessageRequest::FileByFilename(missing)).await?,
            None => return Ok(FileDescriptorSet { file: files.into_values().collect() }),
        }
    }
    Err(Status::resource_exhausted(format!("more than {FILES_MAX} files or {FILES_BYTES_MAX} bytes")))
}
