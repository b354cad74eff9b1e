//! Where a node listens for clients.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tonic::transport::Channel;

use super::dial::Dialer;

/// Endpoints of one client at most.
pub const ENDPOINTS_MAX: usize = 64;
/// Sent on a connection that carries nothing, so that a node that vanished is noticed by a watcher.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(3);

/// `HOST:PORT`, as a person types it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    text: String,
    uri: http::Uri,
}

/// Why a text is no endpoint, or a list of them no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not `HOST:PORT`.
    #[error("`{text}` is not HOST:PORT, such as 127.0.0.1:7401")]
    Form {
        /// The text.
        text: String,
    },
    /// None, or more than [`ENDPOINTS_MAX`].
    #[error("{found} endpoints given, expected 1 to {ENDPOINTS_MAX}")]
    Count {
        /// How many.
        found: usize,
    },
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let wrong = || EndpointError::Form { text: text.to_owned() };
        let uri: http::Uri = format!("http://{bare}/").parse().map_err(|_| wrong())?;
        let complete = uri.port_u16().is_some_and(|port| port > 0)
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.path_and_query().is_some_and(|path| path.as_str() == "/")
            && !bare.contains('@');
        if complete { Ok(Self { text: bare.to_owned(), uri }) } else { Err(wrong()) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Endpoint {
    /// A channel that connects when first used, and again after each failure.
    pub(super) fn channel(&self, dialer: &Dialer, connect_max: Duration) -> Channel {
        let limits = Channel::builder(self.uri.clone())
            .connect_timeout(connect_max)
            .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
            .keep_alive_timeout(KEEP_ALIVE_MAX);
        dialer.channel(&limits, &self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_and_port_are_an_endpoint() {
        for text in ["127.0.0.1:7401", "http://node-1:7401/", "[::1]:7401", " a:1 "] {
            assert!(text.parse::<Endpoint>().is_ok(), "{text}");
        }
        for text in ["", "node-1", ":7401", "a:0", "a:99999", "a:1/x", "https://a:1", "u@a:1", "a b:1"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
