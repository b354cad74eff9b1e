//! What an entry moved among the breakers.

use serde::Serialize;

use super::Scene;
use super::names::{BreakerNamed, word_of};
use super::text::At;
use crate::pb::v1 as pb;
use crate::state::BreakerChange;
use crate::state::breaker::{Status, StatusKind, Transition};
use crate::view::breaker::kind;

/// A transition of a breaker.
#[derive(Serialize)]
pub(super) struct Moved<'a> {
    #[serde(flatten)]
    breaker: BreakerNamed,
    from: &'static str,
    to: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    actor: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    at: At,
    #[serde(skip_serializing_if = "Option::is_none")]
    open_until: Option<At>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reopened: Option<u32>,
}

/// The transitions of the entry at `index`, by breaker and in their order.
pub(super) fn moved<'a>(index: u64, scene: &Scene<'a>) -> Vec<Moved<'a>> {
    scene.after.breakers_changed_since(scene.before).flat_map(|change| of(change, index, scene)).collect()
}

fn of<'a>(change: BreakerChange<'a>, index: u64, scene: &Scene<'a>) -> Vec<Moved<'a>> {
    let breaker = BreakerNamed::of(change.key, scene);
    let mut from = change.before.map_or(StatusKind::Closed, |before| before.kind());
    let Some(after) = change.after else {
        // What was closed kept nothing from anyone: that it is gone is no transition.
        let removed = Moved {
            breaker,
            from: word(from),
            to: "removed",
            reason: None,
            actor: "",
            detail: "",
            at: At(scene.after.now()),
            open_until: None,
            reopened: None,
        };
        return if from == StatusKind::Closed { Vec::new() } else { vec![removed] };
    };
    let mut moved: Vec<Moved<'a>> = Vec::new();
    for Transition { at, to, why, actor, reason, .. } in
        after.transitions.iter().filter(|transition| transition.index == index)
    {
        moved.push(Moved {
            breaker: breaker.clone(),
            from: word(from),
            to: word(*to),
            reason: Some(why.as_str()),
            actor,
            detail: reason,
            at: At(*at),
            open_until: None,
            reopened: None,
        });
        from = *to;
    }
    if let Some(last) = moved.last_mut() {
        last.open_until = match after.status {
            Status::Open { until, .. } => Some(At(until)),
            Status::Closed | Status::HalfOpen { .. } => None,
        };
        last.reopened = Some(after.reopened).filter(|reopened| *reopened > 0);
    }
    moved
}

fn word(of: StatusKind) -> &'static str {
    word_of::<pb::BreakerState>(kind(of).into())
}
