//! Limits that jobs share: no start is planned that the state would refuse for them.

use super::Planning;
use crate::state::spec::JobSpec;

impl Planning<'_> {
    /// Whether the limits of a job let one more attempt start. Where they do so later, the plan is made again then;
    /// where an attempt must end first, its end wakes the caller.
    pub(super) fn has_group_room(&mut self, spec: &JobSpec) -> bool {
        let Some(key) = spec.group() else { return true };
        let planned = [&self.groups, &self.flight.groups].into_iter().filter_map(|starts| starts.get(&key));
        let planned = planned.sum();
        if self.state.has_group_room(&key, planned, self.now) {
            return true;
        }
        if let Some(group) = self.state.group(&key)
            && group.concurrency.is_none_or(|most| self.state.group_load(&key).saturating_add(planned) < most)
        {
            self.wake(group.token_at(u64::from(planned) + 1, self.now));
        }
        false
    }
}
