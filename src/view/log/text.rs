//! Instants and spans in the textual form of the API.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::pb::span;
use crate::state::Due;
use crate::state::time::Timestamp;

/// An instant as RFC 3339 text.
#[derive(Clone, Copy)]
pub(super) struct At(pub(super) Timestamp);

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A span such as `1m30s`.
#[derive(Clone, Copy)]
pub(super) struct Span(pub(super) Duration);

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&span::format(self.0))
    }
}

/// An armed occurrence.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Armed {
    scheduled_at: At,
    due_at: At,
}

impl From<Due> for Armed {
    fn from(due: Due) -> Self {
        Self { scheduled_at: At(due.scheduled_at), due_at: At(due.due_at) }
    }
}
