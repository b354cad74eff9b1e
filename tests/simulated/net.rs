//! The simulated network, as the shipped program is handed it: listeners and dialers over turmoil's TCP.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use chronarch::client::Dialer;
use chronarch::raft;
use futures::Stream;
use futures::stream::{BoxStream, unfold};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::{Connected, TcpConnectInfo};
use turmoil::net::{TcpListener, TcpStream};

pub(crate) const CLIENT_PORT: u16 = 7401;
pub(crate) const PEER_PORT: u16 = 7501;

/// A connection that a listener has accepted.
pub(crate) struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: self.0.local_addr().ok(), remote_addr: self.0.peer_addr().ok() }
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Connections that arrive at a port of this host.
pub(crate) type Incoming = BoxStream<'static, io::Result<Accepted>>;

pub(crate) async fn listen(port: u16) -> io::Result<Incoming> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    Ok(Box::pin(accepted(listener)))
}

fn accepted(listener: TcpListener) -> impl Stream<Item = io::Result<Accepted>> {
    unfold(listener, |listener| async move {
        let stream = listener.accept().await.map(|(stream, _)| Accepted(stream));
        Some((stream, listener))
    })
}

/// Dials of one machine to one address within a second of the world. Somebody who is not there is not called without
/// a pause in between.
#[derive(Default)]
struct Dials(Mutex<BTreeMap<String, (u64, u32)>>);

/// Three connections to each peer, and each is tried again after 20 ms at the soonest.
const DIALS_PER_SECOND: u32 = 150;

impl Dials {
    fn count(&self, address: &str) {
        let second = turmoil::sim_elapsed().unwrap_or_default().as_secs();
        let mut dials = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, count) = dials.entry(address.to_owned()).or_insert((second, 0));
        if *of != second {
            (*of, *count) = (second, 0);
        }
        *count += 1;
        assert!(*count <= DIALS_PER_SECOND, "{address} is dialled without a pause in second {second}");
    }
}

pub(crate) fn dialer() -> Dialer {
    let dials = Arc::<Dials>::default();
    Dialer::new(move |address: Arc<str>| {
        dials.count(&address);
        async move { TcpStream::connect(address.to_string()).await }
    })
}

pub(crate) fn peer_dialer() -> raft::Dialer {
    let dials = Arc::<Dials>::default();
    Arc::new(move |address: String| {
        dials.count(&address);
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            Ok(Box::new(stream) as Box<dyn raft::PeerStream>)
        })
    })
}
