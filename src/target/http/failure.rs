//! Why a request did not lead to a response that could be read, in words that give nothing away.
//!
//! The client's own texts contain URLs, which may hold secrets; only the innermost causes are told, and those that
//! people meet daily have words of their own.

use std::error::Error;
use std::io;

use super::HTTP_CONNECT_TIMEOUT;
use super::reach::{OutOfBounds, ResolveError};

/// What the client was at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The request of the order.
    First,
    /// A request that a redirect led to.
    Redirect,
    Body,
}

impl Stage {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::First => "connecting or waiting for the response",
            Self::Redirect => "following a redirect",
            Self::Body => "reading the response body",
        }
    }
}

/// Why a call ended without a usable response.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallFailure {
    #[error("{0}")]
    OutOfBounds(#[from] OutOfBounds),
    #[error("dns: {0}")]
    Dns(String),
    #[error("tls: {0}")]
    Tls(String),
    #[error("connect: timed out after {HTTP_CONNECT_TIMEOUT:?}")]
    ConnectTimeout,
    #[error("connect: {0}")]
    Connect(String),
    #[error("request: {0}")]
    Request(String),
    #[error("body: {0}")]
    Body(String),
    #[error("redirect: more than {} in a row", super::HTTP_REDIRECTS_MAX)]
    TooManyRedirects,
    #[error("redirect: from https down to http")]
    Downgrade,
    #[error("redirect: the new place is not a URL")]
    BadRedirect,
    #[error("redirect: {0}")]
    RedirectOutOfBounds(OutOfBounds),
}

impl CallFailure {
    /// Reads the client's error; `stage` is what it was at.
    pub(super) fn of(error: &reqwest::Error, stage: Stage) -> Self {
        let causes = causes(error);
        for cause in &causes {
            if let Some(resolve) = cause.downcast_ref::<ResolveError>() {
                return match resolve {
                    ResolveError::OutOfBounds(why) => Self::OutOfBounds(why.clone()),
                    ResolveError::Lookup { .. } | ResolveError::NoAddress(_) => {
                        Self::Dns(resolve.to_string())
                    }
                };
            }
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return Self::Tls(tls.to_string());
            }
        }
        if error.is_connect() && error.is_timeout() {
            return Self::ConnectTimeout;
        }
        let io_words =
            causes.iter().rev().find_map(|cause| cause.downcast_ref::<io::Error>()).and_then(words);
        let cause = io_words.unwrap_or_else(|| causes.last().map_or_else(String::new, ToString::to_string));
        match stage {
            _ if error.is_connect() => Self::Connect(cause),
            Stage::First | Stage::Redirect => Self::Request(cause),
            Stage::Body => Self::Body(cause),
        }
    }
}

/// The causes of an error, outermost first, without the error itself.
fn causes(error: &reqwest::Error) -> Vec<&(dyn Error + 'static)> {
    let mut all = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        all.push(cause);
        // an I/O error that wraps another names that one's source as its own and would hide it
        next = match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    all
}

fn words(error: &io::Error) -> Option<String> {
    let words = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::ConnectionReset => "connection reset",
        io::ErrorKind::ConnectionAborted => "connection aborted",
        io::ErrorKind::BrokenPipe => "connection closed while writing",
        io::ErrorKind::UnexpectedEof => "connection closed in the middle",
        io::ErrorKind::HostUnreachable => "host unreachable",
        io::ErrorKind::NetworkUnreachable => "network unreachable",
        io::ErrorKind::TimedOut => "timed out",
        _ => return None,
    };
    Some(words.to_owned())
}
