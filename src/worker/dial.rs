//! How a connection to an address is made: handed in, so that a simulator or a TLS layer can stand in for TCP.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

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

    pub(super) fn dial(&self, address: Arc<str>) -> Dialled {
        (self.0)(address)
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}
