//! What workers send: to whoever waits for it here, or on to the leader.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{AHEAD, passing};
use crate::api::{Api, forward, limits};
use crate::pb::v1 as pb;
use crate::pb::v1::worker_service_client::WorkerServiceClient;

impl Api {
    /// `WorkerService.SendOutput`.
    ///
    /// # Errors
    /// `NOT_FOUND` when nobody waits for it, as when the reader has gone or the leader has changed.
    pub async fn take_output(
        &self,
        request: Request<Streaming<pb::OutputSent>>,
    ) -> Result<Response<pb::SendOutputResponse>, Status> {
        let may_forward = forward::may_forward(&request);
        let mut sent = request.into_inner();
        let first = tokio::time::timeout(limits::OUTPUT_ANSWER, sent.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no id in time"))??;
        let first = first.ok_or_else(|| Status::invalid_argument("id: is missing"))?;
        if let Some(reader) = self.shared.outputs.claim(&first.id) {
            pass_on(first, sent, &reader).await?;
            return Ok(Response::new(pb::SendOutputResponse {}));
        }
        match self.leader_line().filter(|_| may_forward) {
            Some(line) => {
                let (reader, handed_on) = mpsc::channel(AHEAD);
                let mut leader = WorkerServiceClient::new(line);
                let call = leader.send_output(forward::handed_on_open(ReceiverStream::new(handed_on)));
                tokio::pin!(call);
                tokio::select! {
                    ended = &mut call => return ended.map_err(passing),
                    passed = pass_on(first, sent, &reader) => passed?,
                }
                // The end of the stream, without which the leader would wait.
                drop(reader);
                call.await.map_err(passing)
            }
            None => Err(Status::not_found("nobody reads this any more")),
        }
    }
}

/// Until the worker has sent all, or nobody takes it.
async fn pass_on(
    first: pb::OutputSent,
    mut sent: Streaming<pb::OutputSent>,
    reader: &mpsc::Sender<pb::OutputSent>,
) -> Result<(), Status> {
    let mut next = Some(first);
    while let Some(message) = next {
        if reader.send(message).await.is_err() {
            return Ok(());
        }
        next = tokio::select! {
            () = reader.closed() => return Ok(()),
            message = sent.message() => message?,
        };
    }
    Ok(())
}
