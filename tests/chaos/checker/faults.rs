//! When nothing disturbed the cluster, by the fault log.

use std::collections::BTreeMap;

use super::history::{At, History};

/// How long a cluster may take to be itself again after a fault.
const RECOVERY_MS: i64 = 10_000;

/// Spans without a fault and not shortly after one.
pub(crate) struct Calm {
    disturbed: Vec<(At, At)>,
}

impl Calm {
    pub(crate) fn of(history: &History) -> Self {
        let mut open: BTreeMap<u64, At> = BTreeMap::new();
        let mut disturbed = Vec::new();
        for fault in &history.faults {
            match fault.phase.as_str() {
                "begin" => {
                    open.insert(fault.id, fault.at);
                }
                "end" => {
                    let from = open.remove(&fault.id).unwrap_or(fault.at);
                    disturbed.push((from, At(fault.at.0 + RECOVERY_MS)));
                }
                _ => {}
            }
        }
        disturbed.extend(open.into_values().map(|from| (from, At(i64::MAX))));
        Self { disturbed }
    }

    /// Whether nothing disturbed this span.
    pub(crate) fn holds(&self, from: At, until: At) -> bool {
        self.disturbed.iter().all(|(begin, end)| until < *begin || from > *end)
    }
}
