//! G2: never early, and never later than the job allows. No occurrence is decided, no run started, before it is due in the log's time.

use chronarch::state::{Command, Outcome, Verdict};

use super::Committed;

pub(crate) fn committed(it: &Committed<'_>) {
    let now = it.after.now();
    for (command, outcome) in it.entry.commands.iter().zip(&it.applied.outcomes) {
        if let (Command::Fire { verdicts, .. }, Outcome::Fired { .. }) = (command, outcome) {
            for verdict in verdicts {
                let due = match *verdict {
                    Verdict::Run { due_at, .. } => due_at,
                    Verdict::Missed { until, .. } | Verdict::Excluded { until, .. } => until,
                };
                assert!(due <= now, "{verdict:?} at {now}");
            }
        }
        if let Outcome::Started { run, .. } = outcome {
            let Some(record) = it.after.run(*run) else { continue };
            assert!(record.due_at <= now, "run {run} starts early at {now}");
            let late = record.attempts.len() == 1 && record.start_by.is_some_and(|start_by| start_by < now);
            assert!(!late, "run {run} starts at {now}, too late");
        }
    }
    assert!(now >= it.before.now(), "time goes back");
}
