//! The log of one node as text.

use tonic::Streaming;

use super::{ANSWER_BYTES_MAX, Client, ClusterServiceClient, Error};
use crate::pb::v1::{ExportLogRequest, ExportLogResponse};

/// An export under way. Only its own node can go on with it: when that fails, so does the export.
#[derive(Debug)]
pub struct Export {
    pieces: Streaming<ExportLogResponse>,
}

impl Client {
    /// The applied entries of the first endpoint that answers, with what became of each.
    ///
    /// # Errors
    /// As any read, when the export cannot begin.
    pub async fn export_log(&self, request: ExportLogRequest) -> Result<Export, Error> {
        let pieces = self.call(None, |channel| async move {
            ClusterServiceClient::new(channel)
                .max_decoding_message_size(ANSWER_BYTES_MAX)
                .export_log(request)
                .await
        });
        Ok(Export { pieces: pieces.await? })
    }
}

impl Export {
    /// The next piece of the text; `None` when the export is whole.
    ///
    /// # Errors
    /// [`Error`] when it ends before that.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        match self.pieces.message().await {
            Ok(piece) => Ok(piece.map(|piece| piece.text)),
            Err(status) => Err(Error::of(&status)),
        }
    }
}
