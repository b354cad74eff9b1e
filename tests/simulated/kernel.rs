//! What of a machine goes on while its process is stopped: it accepts connections, acknowledges, and keeps what arrives
//! until the process reads it, as far as there is room.
//!
//! A process runs in a runtime of its own ([`crate::machine`]), the kernel in turmoil's. They share nothing but
//! [`Sockets`]: calls one way, bytes both ways. What a process has written leaves the machine when the kernel runs the
//! next time, not before; so a machine that crashes right after its process has done something has told nobody.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use chronarch::client::Dialer;
use chronarch::raft;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, copy_bidirectional, duplex};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};
use turmoil::net::{TcpListener, TcpStream};

use crate::net::Dials;

/// What waits in a socket, each way.
const BUFFER_BYTES: usize = 1 << 16;
/// Connections that wait for a process to accept them; more wait on their way here.
const BACKLOG: usize = 128;
/// Calls of a process that wait for the kernel; more wait where they come from.
const CALLS: usize = 256;

/// What a process asks its kernel for.
enum Call {
    Listen { port: u16, accepted: mpsc::Sender<Socket> },
    Connect { address: String, answer: oneshot::Sender<io::Result<Socket>> },
}

/// A process's side of a connection.
pub(crate) struct Socket {
    bytes: DuplexStream,
    /// How the connection has broken, if it has.
    broken: Arc<OnceLock<io::ErrorKind>>,
    info: TcpConnectInfo,
}

impl Connected for Socket {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.bytes).poll_read(cx, buf))?;
        match self.broken.get() {
            Some(kind) if buf.filled().len() == before => Poll::Ready(Err((*kind).into())),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(cx)
    }
}

/// Connections that arrive at a port of this machine.
pub(crate) type Incoming = BoxStream<'static, io::Result<Socket>>;

/// How a process reaches its kernel.
#[derive(Clone)]
pub(crate) struct Sockets(mpsc::Sender<Call>);

/// The process cannot outlive its kernel but by the moment in which both are dropped.
fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl Sockets {
    pub(crate) async fn listen(&self, port: u16) -> io::Result<Incoming> {
        let (accepted, connections) = mpsc::channel(BACKLOG);
        self.0.send(Call::Listen { port, accepted }).await.map_err(|_| gone())?;
        Ok(ReceiverStream::new(connections).map(Ok).boxed())
    }

    async fn connect(self, address: String) -> io::Result<Socket> {
        let (answer, connected) = oneshot::channel();
        self.0.send(Call::Connect { address, answer }).await.map_err(|_| gone())?;
        connected.await.map_err(|_| gone())?
    }

    /// To be called in the process's runtime, as [`Sockets::peer_dialer`].
    pub(crate) fn dialer(&self) -> Dialer {
        let (sockets, dials) = (self.clone(), Arc::new(Dials::new()));
        Dialer::new(move |address: Arc<str>| {
            dials.count(&address);
            sockets.clone().connect(address.to_string())
        })
    }

    pub(crate) fn peer_dialer(&self) -> raft::Dialer {
        let (sockets, dials) = (self.clone(), Arc::new(Dials::new()));
        Arc::new(move |address: String| {
            dials.count(&address);
            let connected = sockets.clone().connect(address);
            Box::pin(async move { Ok(Box::new(connected.await?) as Box<dyn raft::PeerStream>) })
        })
    }
}

/// The kernel of a machine that has just been switched on, and how its process reaches it.
pub(crate) fn boot() -> (Sockets, impl Future<Output = turmoil::Result>) {
    let (calls, called) = mpsc::channel(CALLS);
    (Sockets(calls), serve(called))
}

async fn serve(mut called: mpsc::Receiver<Call>) -> turmoil::Result {
    while let Some(call) = called.recv().await {
        match call {
            Call::Listen { port, accepted } => {
                let listener = TcpListener::bind(("0.0.0.0", port)).await?;
                tokio::spawn(accept(listener, accepted));
            }
            Call::Connect { address, answer } => {
                tokio::spawn(connect(address, answer));
            }
        }
    }
    std::future::pending().await
}

async fn accept(listener: TcpListener, accepted: mpsc::Sender<Socket>) {
    while let Ok(place) = accepted.reserve().await {
        let Ok((stream, _)) = listener.accept().await else { return };
        place.send(plug(stream));
    }
}

async fn connect(address: String, mut answer: oneshot::Sender<io::Result<Socket>>) {
    let connected = tokio::select! {
        biased;
        () = answer.closed() => return,
        connected = TcpStream::connect(address) => connected,
    };
    // A process that has given up in the meantime drops its side, which closes the connection.
    let _ = answer.send(connected.map(plug));
}

/// Gives a process a connection.
fn plug(mut stream: TcpStream) -> Socket {
    let (mut inner, bytes) = duplex(BUFFER_BYTES);
    let broken = Arc::<OnceLock<io::ErrorKind>>::default();
    let info = TcpConnectInfo { local_addr: stream.local_addr().ok(), remote_addr: stream.peer_addr().ok() };
    let tell = Arc::clone(&broken);
    tokio::spawn(async move {
        if let Err(error) = copy_bidirectional(&mut stream, &mut inner).await {
            let _ = tell.set(error.kind());
        }
    });
    Socket { bytes, broken, info }
}
