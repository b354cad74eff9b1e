//! How connections to peers are made, and how many.
//!
//! Three connections a peer: one for the log, one for votes and heartbeats, one for snapshots and the run log. A
//! snapshot of a gigabyte must delay no entry, and a burst of entries no heartbeat. They are made lazily and made
//! again after a failure.
//!
//! The [`Dialer`] is handed in: plain TCP ([`tcp_dialer`]), TLS, or the network of a simulation.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

/// How long making a connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
/// A silent connection is asked for a sign of life after this long, and given up after as long again.
pub const KEEPALIVE: Duration = Duration::from_secs(1);
/// Largest message between peers: a batch of entries is far smaller (`log_store::READ_BYTES_MAX`), but always
/// carries one entry at least.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Bytes in flight on one stream.
pub(super) const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// Bytes in flight on one connection.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Peers to which connections are remembered. A cluster has a handful; more means addresses that keep changing,
/// and then the oldest are forgotten.
const PEERS_MAX: usize = 64;

/// A connection to a peer.
pub trait PeerStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> PeerStream for T {}

/// Connects to the `host:port` of a peer.
pub type Dialer = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Box<dyn PeerStream>>> + Send + Sync>;

/// Connects over TCP, without delaying small writes.
pub fn tcp_dialer() -> Dialer {
    Arc::new(|address| {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn PeerStream>)
        })
    })
}

/// The connections to one peer address.
#[derive(Clone)]
pub(super) struct PeerChannels {
    /// Log entries.
    pub(super) append: Channel,
    /// Votes, heartbeats and what else must never wait.
    pub(super) control: Channel,
    /// Snapshots and the run log.
    pub(super) bulk: Channel,
}

/// The connections to all peers, shared by everything that calls them.
pub(super) struct Connections {
    dialer: Dialer,
    channels: Mutex<BTreeMap<String, PeerChannels>>,
}

impl Connections {
    pub(super) fn new(dialer: Dialer) -> Self {
        Self { dialer, channels: Mutex::default() }
    }

    /// The connections to the peer that listens on `address`. Nothing is dialled before the first call.
    ///
    /// # Errors
    /// When `address` is not `host:port`.
    pub(super) fn to(&self, address: &str) -> Result<PeerChannels, tonic::transport::Error> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = channels.get(address) {
            return Ok(known.clone());
        }
        let made = PeerChannels {
            append: self.channel(address)?,
            control: self.channel(address)?,
            bulk: self.channel(address)?,
        };
        if channels.len() >= PEERS_MAX {
            channels.clear();
        }
        channels.insert(address.to_owned(), made.clone());
        Ok(made)
    }

    fn channel(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let (dialer, address) = (Arc::clone(&self.dialer), address.to_owned());
        // The name to dial is fixed by the channel; what the library passes is the same, as a URI.
        let connector = tower::service_fn(move |_: Uri| {
            let dialled = dialer(address.clone());
            async move { dialled.await.map(TokioIo::new) }
        });
        Ok(endpoint.connect_with_connector_lazy(connector))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_to_one_address_are_made_once_and_addresses_are_bounded() {
        let connections = Connections::new(tcp_dialer());
        for port in 1..=2 * PEERS_MAX {
            connections.to(&format!("127.0.0.1:{port}")).unwrap();
            assert!(connections.channels.lock().unwrap().len() <= PEERS_MAX);
        }
        let before = connections.channels.lock().unwrap().len();
        connections.to(&format!("127.0.0.1:{}", 2 * PEERS_MAX)).unwrap();
        assert_eq!(connections.channels.lock().unwrap().len(), before);
        assert!(connections.to("no address").is_err());
    }
}
