//! `ExportLog`: this node's log as text, with what became of each entry.
//!
//! It is read from disk and applied to a second state, piece by piece and only as fast as the client takes it. One
//! export at a time; a client that takes nothing for a while is given up, so that it keeps no other from its turn.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use futures::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Api, limits, status};
use crate::pb::v1 as pb;
use crate::raft::{ExportError, PlannedExport};
use crate::view::log;

/// Pieces that wait for a slow client.
const PIECES_AHEAD: usize = 2;

/// What a client receives.
pub(super) type Pieces = Pin<Box<dyn Stream<Item = Result<pb::ExportLogResponse, Status>> + Send>>;

type Client = mpsc::Sender<pb::ExportLogResponse>;

impl Api {
    pub(super) async fn export_here(
        &self,
        request: Request<pb::ExportLogRequest>,
    ) -> Result<Response<Pieces>, Status> {
        let pb::ExportLogRequest { from, to } = request.into_inner();
        let turn = Arc::clone(&self.shared.exports).try_acquire_owned();
        let turn = turn.map_err(|_| Status::resource_exhausted("this node is exporting its log already"))?;
        let planned = self.shared.raft.plan_export(from, to).await;
        let planned = planned.map_err(|error| status::export(&error))?;
        let (client, pieces) = mpsc::channel(PIECES_AHEAD);
        let failure = Arc::new(OnceLock::new());
        let told = Arc::clone(&failure);
        tokio::spawn(async move {
            if let Err(status) = send(planned, &client).await {
                let _ = told.set(status);
            }
            drop(turn);
        });
        // Behind the last piece: an export that is not whole must not end as if it were.
        let end = stream::once(async move { failure.get().cloned() }).filter_map(async |end| end.map(Err));
        Ok(Response::new(Box::pin(ReceiverStream::new(pieces).map(Ok).chain(end))))
    }
}

/// Exports until all is sent or the client has gone.
async fn send(planned: PlannedExport, client: &Client) -> Result<(), Status> {
    let told = |error: ExportError| status::export(&error);
    let mut export = planned.load().await.map_err(told)?;
    while let Some(text) = export.step(log::write_entry).await.map_err(told)? {
        if client.is_closed() {
            return Ok(());
        }
        hand_over(text, client).await?;
    }
    let mut text = Vec::new();
    log::write_end(export.through(), export.hash().await.map_err(told)?, &mut text);
    hand_over(text, client).await
}

/// Hands a client the text, piece by piece as it takes them.
async fn hand_over(text: Vec<u8>, client: &Client) -> Result<(), Status> {
    for piece in text.chunks(limits::EXPORT_PIECE_BYTES) {
        let piece = pb::ExportLogResponse { text: piece.to_vec() };
        match client.send_timeout(piece, limits::EXPORT_SILENCE).await {
            Ok(()) => {}
            Err(SendTimeoutError::Closed(_)) => return Err(Status::cancelled("the client has gone")),
            Err(SendTimeoutError::Timeout(_)) => {
                let seconds = limits::EXPORT_SILENCE.as_secs();
                return Err(Status::aborted(format!("nothing was taken of the export for {seconds} s")));
            }
        }
    }
    Ok(())
}
