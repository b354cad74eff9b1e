//! Following one run over node failures.

use std::time::Duration;

use tonic::Streaming;

use super::{ANSWER_BYTES_MAX, Client, Error, RunServiceClient};
use crate::pb::v1::{Run, RunState, WatchRunRequest};

/// The pause before a stream that ended too early is opened again, lest a node that ends each at once
/// is asked without end.
const REOPEN_AFTER: Duration = Duration::from_millis(100);

/// The run as it is, then each change of it, until it has ended.
///
/// A broken stream is opened again at the next endpoint; what is seen a second time is left out.
#[derive(Debug)]
pub struct Watch<'a> {
    client: &'a Client,
    run_id: String,
    stream: Option<Streaming<Run>>,
    last: Option<Run>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(client: &'a Client, run_id: String) -> Self {
        Self { client, run_id, stream: None, last: None }
    }

    /// The next change; `None` after the run has ended.
    ///
    /// # Errors
    /// As any read, when the stream cannot be opened, or not again, within the client's timeout.
    pub async fn next(&mut self) -> Result<Option<Run>, Error> {
        loop {
            if self.last.as_ref().is_some_and(is_ended) {
                return Ok(None);
            }
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => self.stream.insert(self.client.open(&self.run_id).await?),
            };
            match stream.message().await {
                Ok(Some(run)) if self.last.as_ref() == Some(&run) => {}
                Ok(Some(run)) => {
                    self.last = Some(run.clone());
                    return Ok(Some(run));
                }
                Err(status) if !super::error::passes(&status) => return Err(Error::of(&status)),
                Ok(None) | Err(_) => {
                    self.stream = None;
                    tokio::time::sleep(REOPEN_AFTER).await;
                }
            }
        }
    }
}

/// Whether a run's record is final.
#[must_use]
pub fn is_ended(run: &Run) -> bool {
    !matches!(run.state(), RunState::Unspecified | RunState::Pending | RunState::Running)
}

impl Client {
    async fn open(&self, run_id: &str) -> Result<Streaming<Run>, Error> {
        self.call(None, |channel| {
            let request = WatchRunRequest { run_id: run_id.to_owned() };
            async move {
                RunServiceClient::new(channel)
                    .max_decoding_message_size(ANSWER_BYTES_MAX)
                    .watch_run(request)
                    .await
            }
        })
        .await
    }
}
