//! Sends one HTTP request and judges the response.
//!
//! `request` checks the order and makes the request, `reach` says where it may go, the client sends it, redirects
//! are followed here and not by the client, and `failure` puts into words what went wrong.
//!
//! Redirects are followed by hand because their rules are stricter than the client's: each new place is checked
//! against the worker's rules, `https` never becomes `http`, and a job's headers stay with the host that it named.
//!
//! Invariants:
//! - One attempt is one request and the redirects that it leads to. The client repeats a request by itself only
//!   where the connection was lost before it was sent, or where the server (HTTP/2) said that it was not processed.
//! - Of a response no more than [`HTTP_BODY_BYTES_MAX`] is read, and no more than the tail is kept.
//! - No proxy of the machine's environment is used: it would resolve names behind the worker's rules.
//!
//! Deliberately absent: cookies, caches, decompression (a body is bounded as it arrives), and any reading of the
//! body's meaning.

mod failure;
pub(super) mod reach;
mod request;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, Response};
use tokio_util::sync::CancellationToken;

use self::failure::{CallFailure, Stage};
use self::reach::{CheckedResolver, Reach};
use self::request::{Request, is_success};
use super::interrupt::Limit;
use super::tail::Tail;
use super::{Http, OUTPUT_TAIL_BYTES, Order, Outcome, Report, TargetsConfig, TargetsError, sink};
use crate::spool::{Beginning, Sink, Spool, Stream};

/// Name resolution, connection and TLS handshake together, at most.
pub const HTTP_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The whole attempt, where the job sets no timeout: a server that hangs must not hold it for ever.
pub const HTTP_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10 * 60);
/// Read of a response body, at most; then the connection is dropped. The status still decides the outcome.
pub const HTTP_BODY_BYTES_MAX: u64 = 10 * 1024 * 1024;
/// Followed one after the other, at most.
pub const HTTP_REDIRECTS_MAX: usize = 5;
/// Below the 5 s after which common servers close an idle connection, so that we do not send into a closing one.
const IDLE_CONNECTION: Duration = Duration::from_secs(4);
/// As many as a busy worker has slots: with fewer, a burst at one host would open a connection for each request, and
/// use up the local ports.
const IDLE_CONNECTIONS_PER_HOST_MAX: usize = 256;
/// The headers of an HTTP/2 response, at most (HTTP/1 responses: the client's 100 headers, 400 KiB).
const RESPONSE_HEADERS_BYTES_MAX: u32 = 64 * 1024;

/// Sends requests by the rules of this worker's operator.
#[derive(Debug)]
pub(super) struct Caller {
    client: Client,
    reach: Arc<Reach>,
    spool: Option<Spool>,
}

/// What is known while a call goes on, kept outside of it so that a call that is stopped still has a report.
#[derive(Debug)]
struct Progress {
    stage: Stage,
    status: Option<u16>,
    tail: Tail,
    sink: Sink,
}

impl Caller {
    pub(super) fn new(config: &TargetsConfig) -> Result<Self, TargetsError> {
        let reach = Arc::new(Reach::new(config.allowed_hosts.as_deref(), config.address_scope)?);
        let extra = config.extra_ca.as_deref().map(certificates).transpose()?.unwrap_or_default();
        // an error means that the process has a provider already, which serves as well
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let client = match settings(&reach).tls_certs_merge(extra.clone()).build() {
            // without any authority in the system the client refuses to be; plain http must work nevertheless
            Err(error) if extra.is_empty() => {
                tracing::warn!(error = %error, "no trusted certificate authorities: https targets will fail");
                settings(&reach).tls_certs_only([]).build()?
            }
            built => built?,
        };
        Ok(Self { client, reach, spool: config.spool.clone() })
    }

    pub(super) async fn carry_out(&self, order: &Order, http: &Http, cancel: &CancellationToken) -> Report {
        let limit = Limit::starting_now(Some(order.timeout.unwrap_or(HTTP_TIMEOUT_DEFAULT)), cancel);
        let request = match Request::new(order, http, &self.reach) {
            Ok(request) => request,
            Err(why) => return Report::of(Outcome::Refused).with_error(why),
        };
        // a body that the report holds need not be kept twice
        let sink = sink(self.spool.as_ref(), order, Beginning::Beyond(OUTPUT_TAIL_BYTES));
        let mut progress = Progress { stage: Stage::First, status: None, tail: Tail::default(), sink };
        let ended = tokio::select! {
            biased;
            ended = self.call(request, &http.success, &mut progress) => Ok(ended),
            interrupt = limit.reached() => Err(interrupt),
        };
        let mut report = match ended {
            Ok(Ok(read)) => judged(&http.success, progress.status, read),
            Ok(Err(failure)) => Report::of(outcome_of(&failure, progress.stage)).with_error(failure),
            Err(interrupt) => interrupt.report(&format!(" while {}", progress.stage.words())),
        };
        report.http_status = progress.status;
        report.with_output(progress.tail)
    }

    async fn call(
        &self,
        mut request: Request,
        success: &[RangeInclusive<u16>],
        progress: &mut Progress,
    ) -> Result<BodyRead, CallFailure> {
        for _ in 0..=HTTP_REDIRECTS_MAX {
            let mut builder = self.client.request(request.verb.clone(), request.url.clone());
            builder = builder.headers(request.headers());
            if let Some(body) = request.body.clone() {
                builder = builder.body(body);
            }
            let response = builder.send().await.map_err(|error| CallFailure::of(&error, progress.stage))?;
            let status = response.status();
            progress.status = Some(status.as_u16());
            let next = if !success.is_empty() && is_success(success, status.as_u16()) {
                None
            } else {
                progress.stage = Stage::Redirect;
                request.redirected(status, response.headers(), &self.reach)?
            };
            match next {
                Some(next) => request = next,
                None => {
                    progress.stage = Stage::Body;
                    return read_body(response, progress).await;
                }
            }
        }
        Err(CallFailure::TooManyRedirects)
    }
}

/// How much of a body was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyRead {
    Whole,
    Cut,
}

async fn read_body(mut response: Response, progress: &mut Progress) -> Result<BodyRead, CallFailure> {
    let mut room_bytes = HTTP_BODY_BYTES_MAX;
    while let Some(chunk) = response.chunk().await.map_err(|error| CallFailure::of(&error, Stage::Body))? {
        let taken = chunk.len().min(usize::try_from(room_bytes).unwrap_or(usize::MAX));
        progress.sink.ready().await;
        progress.tail.push(&chunk[..taken]);
        progress.sink.write(Stream::Body, &chunk[..taken]);
        if taken < chunk.len() {
            return Ok(BodyRead::Cut);
        }
        room_bytes -= taken as u64;
    }
    Ok(BodyRead::Whole)
}

fn judged(success: &[RangeInclusive<u16>], status: Option<u16>, read: BodyRead) -> Report {
    let is_good = status.is_some_and(|status| is_success(success, status));
    let cut = format!("body cut after {HTTP_BODY_BYTES_MAX} bytes");
    match (is_good, status, read) {
        (true, _, BodyRead::Whole) => Report::of(Outcome::Succeeded),
        (true, _, BodyRead::Cut) => Report::of(Outcome::Succeeded).with_error(cut),
        (false, Some(status), BodyRead::Whole) => {
            Report::of(Outcome::Failed).with_error(format_args!("http status {status}"))
        }
        (false, Some(status), BodyRead::Cut) => {
            Report::of(Outcome::Failed).with_error(format_args!("http status {status}; {cut}"))
        }
        (false, None, BodyRead::Whole | BodyRead::Cut) => {
            Report::of(Outcome::Failed).with_error("no response")
        }
    }
}

/// A place that is out of bounds is a refusal only while nothing has been sent to anyone.
fn outcome_of(failure: &CallFailure, stage: Stage) -> Outcome {
    let is_refusal = matches!(failure, CallFailure::OutOfBounds(_)) && stage == Stage::First;
    if is_refusal { Outcome::Refused } else { Outcome::Failed }
}

fn settings(reach: &Arc<Reach>) -> ClientBuilder {
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .dns_resolver(CheckedResolver(Arc::clone(reach)))
        .connect_timeout(HTTP_CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_CONNECTION)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_HOST_MAX)
        .http2_max_header_list_size(RESPONSE_HEADERS_BYTES_MAX)
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, TargetsError> {
    let pem = std::fs::read(path).map_err(|source| TargetsError::CaRead { path: path.to_owned(), source })?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) | Err(_) => Err(TargetsError::CaParse { path: path.to_owned() }),
    }
}
