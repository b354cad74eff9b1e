//! Makes one unary gRPC call.
//!
//! `describe` finds out what the method takes and gives, from the descriptor set of the job or by the server's
//! reflection; `codec` puts the job's JSON into the message and the answer into JSON. Where a call may go is decided
//! by the rules for http (`http::reach`).
//!
//! Invariants:
//! - One attempt is one call; nothing is repeated here. Each attempt has a connection of its own, so that none is
//!   met by a server's idle limit.
//! - The job's timeout is the call's deadline, which the server is told.
//! - Of an answer no more than [`GRPC_ANSWER_BYTES_MAX`] is read.
//!
//! Deliberately absent: streams of either kind, compression, metadata in binary form, and health checks.

mod codec;
mod describe;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tower::service_fn;
use url::Url;

use self::codec::DynamicCodec;
pub use self::describe::{DescribeError, check};
use super::http::reach::{OutOfBounds, Reach, ResolveError, plain_host};
use super::interrupt::Limit;
use super::tail::Tail;
use super::told::{is_reserved_header, told};
use super::{Grpc, OUTPUT_TAIL_BYTES, Order, Outcome, Report, TargetsConfig, TargetsError, sink};
use crate::spool::{Beginning, Sink, Spool, Stream};

/// The whole attempt, where the job sets no timeout.
pub const GRPC_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10 * 60);
/// Of an answer, at most; a longer one fails the attempt.
pub const GRPC_ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Name resolution, connection and TLS handshake together, at most.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes calls by the rules of this worker's operator.
#[derive(Debug)]
pub(super) struct GrpcCaller {
    reach: Arc<Reach>,
    tls: ClientTlsConfig,
    spool: Option<Spool>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("address: {0}")]
    Address(String),
    #[error("address: {0}")]
    OutOfBounds(#[from] OutOfBounds),
    #[error("metadata: {0}")]
    Metadata(String),
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    ConnectTimeout,
    #[error(transparent)]
    Describe(#[from] DescribeError),
    #[error("grpc {}: {}", code_word(.0.code()), .0.message())]
    Status(Box<Status>),
    #[error("the answer cannot be written as JSON: {0}")]
    Answer(serde_json::Error),
}

/// Whether anything was sent to anyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Before,
    Connecting,
    Describing,
    Calling,
}

/// What is known while a call goes on.
struct Progress {
    stage: Stage,
    tail: Tail,
    sink: Sink,
}

impl GrpcCaller {
    pub(super) fn new(config: &TargetsConfig) -> Result<Self, TargetsError> {
        let reach = Arc::new(Reach::new(config.allowed_hosts.as_deref(), config.address_scope)?);
        let mut tls = ClientTlsConfig::new().with_native_roots();
        if let Some(path) = &config.extra_ca {
            let pem =
                std::fs::read(path).map_err(|source| TargetsError::CaRead { path: path.clone(), source })?;
            tls = tls.ca_certificate(tonic::transport::Certificate::from_pem(pem));
        }
        Ok(Self { reach, tls, spool: config.spool.clone() })
    }

    pub(super) async fn carry_out(&self, order: &Order, grpc: &Grpc, cancel: &CancellationToken) -> Report {
        let timeout = order.timeout.unwrap_or(GRPC_TIMEOUT_DEFAULT);
        let limit = Limit::starting_now(Some(timeout), cancel);
        let sink = sink(self.spool.as_ref(), order, Beginning::Beyond(OUTPUT_TAIL_BYTES));
        let mut progress = Progress { stage: Stage::Before, tail: Tail::default(), sink };
        let ended = tokio::select! {
            biased;
            ended = self.call(order, grpc, &limit, &mut progress) => Ok(ended),
            interrupt = limit.reached() => Err(interrupt),
        };
        let report = match ended {
            Ok(Ok(())) => Report { grpc_status: Some(0), ..Report::of(Outcome::Succeeded) },
            // The deadline goes with the call, so it may be met there first.
            Ok(Err(CallError::Status(_))) if limit.is_over() => {
                limit.reached().await.report(&format!(" while {}", progress.stage.words()))
            }
            Ok(Err(error)) => failed(&error, progress.stage),
            Err(interrupt) => interrupt.report(&format!(" while {}", progress.stage.words())),
        };
        report.with_output(progress.tail)
    }

    async fn call(
        &self,
        order: &Order,
        grpc: &Grpc,
        limit: &Limit<'_>,
        progress: &mut Progress,
    ) -> Result<(), CallError> {
        let metadata = metadata(order, grpc)?;
        let method = describe::Name::read(&grpc.method)?;
        let known = match grpc.descriptor.as_slice() {
            [] => None,
            set => {
                let found = describe::in_set(set, &method)?;
                let message = codec::message(&found, &grpc.request)?;
                Some((found, message))
            }
        };
        let url = self.url(grpc)?;
        progress.stage = Stage::Connecting;
        let channel = self.connect(&url, grpc.tls).await?;
        let (found, message) = match known {
            Some(known) => known,
            None => {
                progress.stage = Stage::Describing;
                let found = describe::by_reflection(channel.clone(), &method).await?;
                let message = codec::message(&found, &grpc.request)?;
                (found, message)
            }
        };
        progress.stage = Stage::Calling;
        let mut request = Request::from_parts(metadata, tonic::Extensions::default(), message);
        if let Some(left) = limit.left() {
            request.set_timeout(left);
        }
        let answer = unary(channel, &method, found, request)
            .await
            .map_err(|status| CallError::Status(Box::new(status)))?;
        let json = serde_json::to_vec(&answer).map_err(CallError::Answer)?;
        progress.sink.ready().await;
        progress.tail.push(&json);
        progress.sink.write(Stream::Body, &json);
        Ok(())
    }

    /// The address as the rules for http know it.
    fn url(&self, grpc: &Grpc) -> Result<Url, CallError> {
        let scheme = if grpc.tls { "https" } else { "http" };
        let url = Url::parse(&format!("{scheme}://{}", grpc.address))
            .map_err(|error| CallError::Address(error.to_string()))?;
        self.reach.check(&url)?;
        Ok(url)
    }

    async fn connect(&self, url: &Url, tls: bool) -> Result<Channel, CallError> {
        let failed = |error: tonic::transport::Error| CallError::Connect(innermost(&error));
        let mut endpoint = Endpoint::from_shared(url.to_string())
            .map_err(failed)?
            .tcp_nodelay(true)
            .http2_keep_alive_interval(CONNECT_TIMEOUT);
        if tls {
            endpoint = endpoint.tls_config(self.tls.clone()).map_err(failed)?;
        }
        let (reach, host, port) =
            (Arc::clone(&self.reach), plain_host(url), url.port_or_known_default().unwrap_or_default());
        let connector = service_fn(move |_: Uri| {
            let (reach, host) = (Arc::clone(&reach), host.clone());
            async move {
                let addresses = reach.resolve(&host).await.map_err(io_error)?;
                let addresses: Vec<SocketAddr> =
                    addresses.into_iter().map(|address| SocketAddr::new(address.ip(), port)).collect();
                let stream = TcpStream::connect(addresses.as_slice()).await?;
                stream.set_nodelay(true)?;
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        let connected =
            tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect_with_connector(connector)).await;
        connected.map_err(|_| CallError::ConnectTimeout)?.map_err(failed)
    }
}

impl Stage {
    fn words(self) -> &'static str {
        match self {
            Self::Before | Self::Connecting => "connecting",
            Self::Describing => "asking for the method's description",
            Self::Calling => "waiting for the answer",
        }
    }
}

fn failed(error: &CallError, stage: Stage) -> Report {
    let outcome = if stage == Stage::Before { Outcome::Refused } else { Outcome::Failed };
    let grpc_status = match error {
        CallError::Status(status) => u8::try_from(status.code() as i32).ok(),
        _ => None,
    };
    Report { grpc_status, ..Report::of(outcome).with_error(error) }
}

fn io_error(error: ResolveError) -> io::Error {
    io::Error::other(error)
}

/// What a connection failed of in the end; above it there are only layers.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// The job's own, and what a target is told.
fn metadata(order: &Order, grpc: &Grpc) -> Result<MetadataMap, CallError> {
    let mut metadata = MetadataMap::new();
    let own = grpc.metadata.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    for (name, value) in own {
        if is_reserved_header(&name) || name.starts_with("grpc-") || name.ends_with("-bin") {
            return Err(CallError::Metadata(format!("{name} cannot be set")));
        }
        insert(&mut metadata, &name, &value)?;
    }
    let key = ("idempotency-key".to_owned(), order.run_id.clone());
    for (name, value) in
        told(order).into_iter().map(|told| (told.header.to_string(), told.value)).chain([key])
    {
        insert(&mut metadata, &name, &value)?;
    }
    Ok(metadata)
}

fn insert(metadata: &mut MetadataMap, name: &str, value: &str) -> Result<(), CallError> {
    let wrong = || CallError::Metadata(format!("{name} is no name, or its value cannot be sent"));
    let key = tonic::metadata::AsciiMetadataKey::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
    let value = MetadataValue::try_from(value).map_err(|_| wrong())?;
    metadata.insert(key, value);
    Ok(())
}

async fn unary(
    channel: Channel,
    method: &describe::Name,
    found: MethodDescriptor,
    request: Request<DynamicMessage>,
) -> Result<DynamicMessage, Status> {
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(GRPC_ANSWER_BYTES_MAX);
    client.ready().await.map_err(|error| Status::unavailable(innermost(&error)))?;
    let path = method.path().map_err(|error| Status::internal(error.to_string()))?;
    let answer = client.unary(request, path, DynamicCodec::new(found.output())).await?;
    Ok(answer.into_inner())
}

fn code_word(code: Code) -> &'static str {
    let number = usize::try_from(code as i32).unwrap_or(usize::MAX);
    crate::state::spec::GRPC_CODES.get(number).copied().unwrap_or("UNKNOWN")
}
