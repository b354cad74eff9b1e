//! G2: never early. No occurrence is decided, no run started, before it is due in the log's time.

use chronarch::state::{Command, Outcome, Verdict};

use super::Committed;

pub(crate) fn committed(it: &Committed<'_>) {
    let now = it.after.now();
    for (command, outcome) in it.entry.commands.iter().zip(&it.applied.outcomes) {
        if let (Command::Fire { verdicts, .. }, Outcome::Fired { .. }) = (command, outcome) {
            for verdict in verdicts {
                let due = match *verdict {
                    Verdict::Run { due_at, .. } => due_at,
                    Verdict::Missed { until, .. } => until,
                };
                assert!(due <= now, "{verdict:?} at {now}");
            }
        }
        if let Outcome::Started { run, .. } = outcome {
            let due = it.after.run(*run).map(|run| run.due_at);
            assert!(due.is_none_or(|due| due <= now), "run {run} starts early at {now}");
        }
    }
    assert!(now >= it.before.now(), "time goes back");
}
