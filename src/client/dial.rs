//! How a connection to an address is made: handed in, so that a simulator or a TLS layer can stand in for TCP.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// A connection: whatever carries bytes both ways.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Makes connections. Bounds are the caller's: a dial that takes too long is dropped.
#[derive(Clone)]
pub struct Dialer(Arc<dyn Fn(Arc<str>) -> Dialled + Send + Sync>);

/// A connection in the making.
type Dialled = BoxFuture<'static, io::Result<Box<dyn Connection>>>;

impl Dialer {
    /// Plain TCP without delay of small segments; the address is `host:port`.
    #[must_use]
    pub fn tcp() -> Self {
        Self::new(|address| async move {
            let stream = TcpStream::connect(&*address).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }

    /// Whatever `dial` makes of an address `host:port`.
    pub fn new<D, F, C>(dial: D) -> Self
    where
        D: Fn(Arc<str>) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<C>> + Send + 'static,
        C: Connection + 'static,
    {
        Self(Arc::new(move |address| {
            let dialled = dial(address);
            Box::pin(async move { Ok(Box::new(dialled.await?) as Box<dyn Connection>) })
        }))
    }

    /// A channel to the address `host:port` that connects when it is first used, and again after each failure;
    /// `endpoint` has the limits, and its URI is not looked at.
    #[must_use]
    pub fn channel(&self, endpoint: &Endpoint, address: &str) -> Channel {
        endpoint.connect_with_connector_lazy(service_fn(self.connector(address)))
    }

    /// Connects to the address `host:port` now, otherwise as [`Dialer::channel`].
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn connect(
        &self,
        endpoint: &Endpoint,
        address: &str,
    ) -> Result<Channel, tonic::transport::Error> {
        endpoint.connect_with_connector(service_fn(self.connector(address))).await
    }

    fn connector(
        &self,
        address: &str,
    ) -> impl Fn(Uri) -> BoxFuture<'static, io::Result<TokioIo<Box<dyn Connection>>>> + Send + use<> {
        let (dialer, address) = (self.clone(), Arc::<str>::from(address));
        move |_| {
            let dialled = (dialer.0)(address.clone());
            Box::pin(async move { Ok(TokioIo::new(dialled.await?)) })
        }
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}
