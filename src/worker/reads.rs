//! Answers those who want to read output: each on a connection of its own, so that neither a slow reader nor much
//! output stands in the way of heartbeats, reports or another reader.
//!
//! A reading goes on until its end, until whoever reads has gone, or until the worker ends. Beyond [`READS_MAX`] at a
//! time nothing is answered: the leader, through whom they all come, allows fewer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::KEEP_ALIVE;
use crate::client::Dialer;
use crate::pb::instant::write;
use crate::pb::v1 as pb;
use crate::pb::v1::worker_service_client::WorkerServiceClient;
use crate::spool::{Ending, Key, Loss, Part, Piece, Reading, Spool, Stream, Taken, Wanted};
use crate::state::time::Timestamp;

/// Readings at the same time.
pub(super) const READS_MAX: usize = 32;
/// Making a connection; not as urgent as the one for the Serve stream.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Messages on their way into a stream, each of them about the length of a piece.
const SENT_AHEAD: usize = 2;
/// From the end of what is sent to the answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(super) struct Reads {
    spool: Option<Spool>,
    dialer: Dialer,
    tasks: JoinSet<()>,
}

impl Reads {
    pub(super) fn new(spool: Option<Spool>, dialer: Dialer) -> Self {
        Self { spool, dialer, tasks: JoinSet::new() }
    }

    /// Sends what is wanted to the node at `address`.
    pub(super) fn answer(&mut self, address: Arc<str>, wanted: pb::ReadOutput) {
        while self.tasks.try_join_next().is_some() {}
        if self.tasks.len() >= READS_MAX {
            tracing::warn!(run_id = wanted.run_id, "too many read output already");
            return;
        }
        let key = Key { run_id: wanted.run_id.as_str().into(), fence: wanted.fence };
        let reading = self.spool.as_ref().and_then(|spool| spool.read(&key, wanted_of(&wanted)));
        self.tasks.spawn(send(address, self.dialer.clone(), wanted, reading));
    }
}

fn wanted_of(wanted: &pb::ReadOutput) -> Wanted {
    let stream = match wanted.stream() {
        pb::OutputStream::Stdout => Some(Stream::Stdout),
        pb::OutputStream::Stderr => Some(Stream::Stderr),
        pb::OutputStream::Unspecified | pb::OutputStream::Both | pb::OutputStream::Body => None,
    };
    Wanted {
        offset: wanted.offset,
        tail_lines: usize::try_from(wanted.tail_lines).unwrap_or(usize::MAX),
        stream,
        follow: wanted.follow,
    }
}

/// Whoever reads asks again when this fails; here nobody can do anything about it.
async fn send(address: Arc<str>, dialer: Dialer, wanted: pb::ReadOutput, reading: Option<Reading>) {
    let Ok(endpoint) = Endpoint::from_shared(format!("http://{address}")) else { return };
    let endpoint = endpoint
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(CONNECT_MAX)
        .keep_alive_while_idle(true);
    let channel = match timeout(CONNECT_MAX, dialer.connect(&endpoint, &address)).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "output is not sent: no connection"),
        Err(_) => return tracing::debug!(%address, "output is not sent: no connection in time"),
    };
    let (sender, queue) = mpsc::channel(SENT_AHEAD);
    let mut client = WorkerServiceClient::new(channel);
    let call = client.send_output(ReceiverStream::new(queue));
    tokio::pin!(call);
    let ended = tokio::select! {
        ended = &mut call => Some(ended),
        () = feed(wanted, reading, sender) => None,
    };
    let ended = match ended {
        Some(ended) => Ok(ended),
        None => timeout(ANSWER_MAX, call).await,
    };
    if let Ok(Err(status)) = ended {
        tracing::debug!(%address, reason = status.message(), "output was not taken to its end");
    }
}

/// Ends when all is handed over, or when nobody takes it any more.
async fn feed(wanted: pb::ReadOutput, reading: Option<Reading>, sender: mpsc::Sender<pb::OutputSent>) {
    let mut offset = wanted.offset;
    // At once, also where no output is yet to be seen: whoever waits learns that there is an answer.
    let first = pb::OutputSent { id: wanted.id, ..pb::OutputSent::default() };
    if sender.send(first).await.is_err() {
        return;
    }
    let last = |state: pb::OutputState| pb::OutputSent { state: state.into(), ..pb::OutputSent::default() };
    let Some(mut reading) = reading else {
        let _ = sender.send(last(pb::OutputState::Forgotten)).await;
        return;
    };
    loop {
        let sent = match reading.next().await {
            Ok(Taken::Pieces(pieces)) => {
                offset = pieces.last().map_or(offset, Piece::end);
                let pieces = pieces.into_iter().map(piece).collect();
                pb::OutputSent { pieces, ..pb::OutputSent::default() }
            }
            Ok(Taken::Over(Ending::Running)) => last(pb::OutputState::Running),
            Ok(Taken::Over(Ending::Ended)) => last(pb::OutputState::Ended),
            Ok(Taken::Over(Ending::NotApart)) => last(pb::OutputState::NotApart),
            Err(error) => {
                tracing::warn!(%error, "output cannot be read");
                let loss = pb::OutputLoss::Torn.into();
                let lost = pb::OutputPiece { offset, loss, ..pb::OutputPiece::default() };
                pb::OutputSent { pieces: vec![lost], ..last(pb::OutputState::Ended) }
            }
        };
        let is_last = sent.state() != pb::OutputState::Unspecified;
        if sender.send(sent).await.is_err() || is_last {
            return;
        }
    }
}

fn piece(piece: Piece) -> pb::OutputPiece {
    // What was found to be missing has no time of its own.
    let at = Some(piece.at).filter(|at| *at != Timestamp::EPOCH).map(write);
    let mut sent = pb::OutputPiece { offset: piece.offset, at, ..pb::OutputPiece::default() };
    match piece.part {
        Part::Data(stream, bytes) => {
            let stream = match stream {
                Stream::Both => pb::OutputStream::Both,
                Stream::Stdout => pb::OutputStream::Stdout,
                Stream::Stderr => pb::OutputStream::Stderr,
                Stream::Body => pb::OutputStream::Body,
            };
            sent.stream = stream.into();
            sent.data = bytes;
        }
        Part::Gap(bytes, loss) => {
            let loss = match loss {
                Loss::Limit => pb::OutputLoss::Limit,
                Loss::Disk => pb::OutputLoss::Disk,
                Loss::Torn => pb::OutputLoss::Torn,
            };
            sent.dropped_bytes = bytes;
            sent.loss = loss.into();
        }
    }
    sent
}
