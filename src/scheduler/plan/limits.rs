//! Limits that jobs share: no start is planned that the state would refuse for them.

use super::Planning;
use crate::state::group::{Group, GroupKey};
use crate::state::spec::JobSpec;

impl Planning<'_> {
    /// Whether the limits of a job's group and of its queue let one more attempt start. Where they do so later, the plan
    /// is made again then; where an attempt must end first, its end wakes the caller.
    pub(super) fn has_room(&mut self, spec: &JobSpec, queue: &str) -> bool {
        spec.group().is_none_or(|key| self.has_group_room(&key)) && self.has_queue_room(queue)
    }

    fn has_group_room(&mut self, key: &GroupKey) -> bool {
        let planned = [&self.groups, &self.flight.groups].into_iter().filter_map(|starts| starts.get(key));
        let planned = planned.sum();
        if self.state.has_group_room(key, planned, self.now) {
            return true;
        }
        if let Some(group) = self.state.group(key).cloned() {
            self.wake_for(&group, self.state.group_load(key).saturating_add(planned), planned);
        }
        false
    }

    fn has_queue_room(&mut self, name: &str) -> bool {
        let planned = [&self.queues, &self.flight.queues].into_iter().filter_map(|starts| starts.get(name));
        let planned = planned.sum();
        if self.state.has_queue_room(name, planned, self.now) {
            return true;
        }
        if let Some(queue) = self.state.queue(name).cloned() {
            let running = self.state.queue_load(name).running.saturating_add(planned);
            self.wake_for(&queue.group, running, planned);
        }
        false
    }

    /// Looks again when there is a token, if that is what lacks.
    fn wake_for(&mut self, group: &Group, running: u32, planned: u32) {
        if group.concurrency.is_none_or(|most| running < most) {
            self.wake(group.token_at(u64::from(planned) + 1, self.now));
        }
    }
}
