//! Retention of namespaces: of all runs of a namespace the last that ended stay, and none beyond its age.
//!
//! Runs go in the order in which they ended, whatever their jobs, and that is the order of the indexes. What the search
//! for the oldest ones has passed over it does not look at again, so removing costs what is removed, and each run of
//! other namespaces once. A job's own retention holds beside this: whichever of the two does not want a run removes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::census::Front;
use super::read::stored;
use super::retain::Ended;
use super::{HistoryError, RunLog, Shared};
use crate::state::namespace::NamespaceLimits;
use crate::state::time::Timestamp;

/// Pieces that one call counts, or searches for runs of one namespace that have to go.
const PIECES: usize = 64;
/// Runs that are removed in one batch.
const BATCH: usize = 256;

/// What a piece of the search found.
struct Found {
    /// To be removed, in order.
    gone: Vec<Ended>,
    /// From where the search goes on.
    front: Front,
    /// Nothing more has to go.
    is_done: bool,
    /// How often the count was begun anew before.
    anew: u64,
}

impl RunLog {
    /// Counts on; whether all is counted.
    pub(super) async fn count(&self) -> Result<bool, HistoryError> {
        for _ in 0..PIECES {
            if self.blocking(Shared::count_on).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes what a namespace no longer wants, a bounded amount of it: how many, and whether that was all.
    pub(super) async fn prune_namespace(
        &self,
        name: &Arc<str>,
        kept: NamespaceLimits,
        now: Timestamp,
    ) -> Result<(usize, bool), HistoryError> {
        let oldest_allowed = kept.age.map(|age| now.minus(age));
        let mut removed = 0;
        for _ in 0..PIECES {
            let surplus = {
                let memory = self.shared.memory();
                // It is counted first; a run that came since goes with the next call.
                let count = memory.census.count(name).unwrap_or(0);
                kept.runs.map_or(0, |most| count.saturating_sub(u64::from(most)))
            };
            let of = Arc::clone(name);
            let found = self.blocking(move |shared| shared.oldest_of(&of, surplus, oldest_allowed)).await?;
            removed += found.gone.len();
            if !found.gone.is_empty() {
                self.remove(found.gone).await?;
            }
            self.shared.memory().census.put_front(name, found.front, found.anew);
            if found.is_done {
                return Ok((removed, true));
            }
        }
        Ok((removed, false))
    }

    /// Forgets how far the search has come for namespaces that have no limits any more.
    pub(super) fn keep_fronts(&self, limited: &BTreeMap<Arc<str>, NamespaceLimits>) {
        self.shared.memory().census.keep_fronts(|name| limited.contains_key(name));
    }
}

impl Shared {
    /// One piece of the search for runs of a namespace that have to go: the first `surplus`, and besides all that
    /// ended before `oldest_allowed`.
    fn oldest_of(
        &self,
        name: &str,
        surplus: u64,
        oldest_allowed: Option<Timestamp>,
    ) -> Result<Found, HistoryError> {
        let (front, through, anew) = {
            let memory = self.memory();
            let census = &memory.census;
            (census.front(name), census.through(), census.anew())
        };
        let (first, ended_at) = front;
        // Entries are stamped in order, so what follows has not ended earlier.
        let is_young = |at: Timestamp| oldest_allowed.is_none_or(|oldest| at >= oldest);
        if surplus == 0 && (oldest_allowed.is_none() || ended_at.is_some_and(is_young)) {
            return Ok(Found { front, anew, is_done: true, gone: Vec::new() });
        }
        let (ids, searched) = self.named_between(first.saturating_sub(1), through)?;
        let (front, is_done) = ((searched.saturating_add(1), None), searched >= through);
        let mut found = Found { front, anew, is_done, gone: Vec::new() };
        for (index, id) in ids {
            if self.namespace_of(id)?.as_deref() != Some(name) {
                continue;
            }
            let Some(run) = stored(&self.rows, id)? else { continue };
            let at = run.finished_at.unwrap_or(run.fired_at);
            let is_surplus = u64::try_from(found.gone.len()).is_ok_and(|gone| gone < surplus);
            if !is_surplus && is_young(at) {
                (found.front, found.is_done) = ((index, Some(at)), true);
                break;
            }
            if found.gone.len() >= BATCH {
                (found.front, found.is_done) = ((index, None), false);
                break;
            }
            found.gone.push(Ended { index, run });
        }
        Ok(found)
    }
}
