//! Messages whose type is known only once the call is made: JSON on our side, their own form on the wire.

use bytes::{Buf, BufMut};
use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, MethodDescriptor};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::DescribeError;

/// The request of a job as the method's message; an empty one is the empty message.
pub(super) fn message(method: &MethodDescriptor, json: &str) -> Result<DynamicMessage, DescribeError> {
    let json = if json.trim().is_empty() { "{}" } else { json };
    let failed = |error: serde_json::Error| DescribeError::Request(error.to_string());
    let mut reader = serde_json::Deserializer::from_str(json);
    let options = DeserializeOptions::new();
    let message =
        DynamicMessage::deserialize_with_options(method.input(), &mut reader, &options).map_err(failed)?;
    reader.end().map_err(failed)?;
    Ok(message)
}

/// See the module.
pub(super) struct DynamicCodec(MessageDescriptor);

impl DynamicCodec {
    /// For answers of this type.
    pub(super) fn new(answer: MessageDescriptor) -> Self {
        Self(answer)
    }
}

impl Codec for DynamicCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Writer;
    type Decoder = Reader;

    fn encoder(&mut self) -> Writer {
        Writer
    }

    fn decoder(&mut self) -> Reader {
        Reader(self.0.clone())
    }
}

pub(super) struct Writer;

impl Encoder for Writer {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(message.encoded_len());
        message.encode(&mut out.limit(usize::MAX)).map_err(|error| Status::internal(error.to_string()))
    }
}

pub(super) struct Reader(MessageDescriptor);

impl Decoder for Reader {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let length = bytes.remaining();
        let message = DynamicMessage::decode(self.0.clone(), bytes.take(length));
        message
            .map(Some)
            .map_err(|error| Status::internal(format!("the answer is no {}: {error}", self.0.full_name())))
    }
}
