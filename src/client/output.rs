//! Reading output over node failures.

use std::time::Duration;

use tonic::Streaming;

use super::{ANSWER_BYTES_MAX, Client, Error, RunServiceClient};
use crate::pb::v1::{OutputState, ReadOutputRequest, ReadOutputResponse};

/// The pause before a stream that broke is opened again.
const REOPEN_AFTER: Duration = Duration::from_millis(100);

/// The output of a run's attempts, message by message.
///
/// A broken stream is taken up again at the next endpoint, behind the last byte that was seen.
#[derive(Debug)]
pub struct Output<'a> {
    client: &'a Client,
    /// What is still wanted.
    request: ReadOutputRequest,
    stream: Option<Streaming<ReadOutputResponse>>,
}

impl Client {
    /// Reads the output of a run's attempts.
    #[must_use]
    pub fn read_output(&self, request: ReadOutputRequest) -> Output<'_> {
        Output { client: self, request, stream: None }
    }
}

impl Output<'_> {
    /// The next message; `None` when all that was asked for is read.
    ///
    /// # Errors
    /// As any read, when the stream cannot be opened, or not again, within the client's timeout.
    pub async fn next(&mut self) -> Result<Option<ReadOutputResponse>, Error> {
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => {
                    let stream = self.open().await?;
                    self.stream.insert(stream)
                }
            };
            match stream.message().await {
                Ok(Some(message)) => {
                    self.note(&message);
                    return Ok(Some(message));
                }
                Ok(None) => return Ok(None),
                Err(status) if !super::error::passes(&status) => return Err(Error::of(&status)),
                Err(_) => {
                    self.stream = None;
                    tokio::time::sleep(REOPEN_AFTER).await;
                }
            }
        }
    }

    async fn open(&self) -> Result<Streaming<ReadOutputResponse>, Error> {
        let open = |channel| {
            let request = self.request.clone();
            async move {
                RunServiceClient::new(channel)
                    .max_decoding_message_size(ANSWER_BYTES_MAX)
                    .read_output(request)
                    .await
            }
        };
        self.client.call(None, open).await
    }

    /// What a stream that is opened again need not tell again.
    fn note(&mut self, message: &ReadOutputResponse) {
        self.request.attempt = message.attempt;
        if let Some(last) = message.pieces.last() {
            let length = (last.data.len() as u64).saturating_add(last.dropped_bytes);
            self.request.offset = last.offset.saturating_add(length);
            self.request.tail_lines = 0;
        }
        if message.state() != OutputState::Unspecified && self.request.later_attempts {
            self.request.attempt = message.attempt.saturating_add(1);
            (self.request.offset, self.request.tail_lines) = (0, 0);
        }
    }
}
