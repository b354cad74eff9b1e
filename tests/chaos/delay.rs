//! Delay between nodes: proxies in the hub through which peers talk while such a fault is on.
//!
//! A proxy hands on what it reads after a span drawn for each piece, in order, and holds a bounded number of pieces.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::chance::Chance;
use super::net::{HUB, PEER_PORT, address};

/// Bytes of a piece, and pieces under way in one direction of a connection.
const PIECE: usize = 16 << 10;
const PIECES: usize = 256;

/// The proxies of one fault; dropping them ends their connections.
pub(crate) struct Delay {
    /// By node and peer.
    pub(crate) ports: BTreeMap<u64, BTreeMap<u64, u16>>,
    /// Bytes handed on.
    pub(crate) carried: Arc<AtomicU64>,
    _proxies: JoinSet<()>,
}

impl Delay {
    /// Opens a proxy for every ordered pair of nodes.
    pub(crate) async fn open(nodes: u64, span_ms: (u64, u64), seed: u64) -> io::Result<Self> {
        let (mut ports, mut proxies) = (BTreeMap::<u64, BTreeMap<u64, u16>>::new(), JoinSet::new());
        let carried = Arc::<AtomicU64>::default();
        for node in 1..=nodes {
            for peer in (1..=nodes).filter(|peer| *peer != node) {
                let listener = TcpListener::bind((HUB, 0)).await?;
                ports.entry(node).or_default().insert(peer, listener.local_addr()?.port());
                proxies.spawn(serve(
                    listener,
                    peer,
                    Drawn { span_ms, seed: seed ^ (node << 8) ^ peer },
                    carried.clone(),
                ));
            }
        }
        Ok(Self { ports, carried, _proxies: proxies })
    }
}

/// From what the spans of one direction are drawn.
#[derive(Clone, Copy)]
struct Drawn {
    span_ms: (u64, u64),
    seed: u64,
}

impl Drawn {
    fn at(self, number: u64) -> Self {
        Self { seed: self.seed ^ (number << 16), ..self }
    }
}

async fn serve(listener: TcpListener, peer: u64, drawn: Drawn, carried: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    let mut number = 0;
    // A connection that fails is one that a fault has ended.
    while let Ok((near, _)) = listener.accept().await {
        number += 2;
        let carried = carried.clone();
        connections.spawn(async move {
            let Ok(far) = TcpStream::connect((address(peer), PEER_PORT)).await else { return };
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            tokio::select! {
                () = carry(near_read, far_write, drawn.at(number), &carried) => {}
                () = carry(far_read, near_write, drawn.at(number + 1), &carried) => {}
            }
        });
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    Drawn { span_ms: (least, most), seed }: Drawn,
    carried: &AtomicU64,
) {
    let (pieces, mut later) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let mut chance = Chance::new(seed);
    let read = async move {
        let mut buffer = vec![0; PIECE];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let at = Instant::now() + Duration::from_millis(chance.between(least, most));
            if pieces.send((at, buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((at, piece)) = later.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
            carried.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    };
    tokio::join!(read, write);
}
