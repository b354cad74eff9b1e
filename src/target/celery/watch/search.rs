//! Tasks that may be nowhere: whether any of Celery's workers has them.
//!
//! A message that has expired is taken by nobody, and nobody tells of it: RabbitMQ drops it, and in Redis it lies until a
//! worker comes to it. A worker that had taken it before runs it, or has it in reserve. So all are asked for it
//! (`query_task` of Celery's remote control). Whether their answers suffice is for the leader to say.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::holders::Holders;
use super::told::{NAME_BYTES, cut};

/// How long answers are waited for.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// How often the same tasks are searched for: some worker has them, or may have.
const AGAIN_EVERY: Duration = Duration::from_secs(30);

/// The search that is under way, if one is.
#[derive(Debug, Default)]
pub(super) struct Search {
    round: Option<Round>,
    /// What was last searched for, and when.
    last: Option<(Vec<String>, Instant)>,
}

#[derive(Debug)]
struct Round {
    task_ids: Vec<String>,
    /// What answers to it have.
    ticket: String,
    asked: Instant,
    /// Those that workers have, in any state.
    found: HashSet<String>,
    /// Who has answered.
    answered: HashSet<String>,
}

/// Tasks that no worker has of those that have answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfound {
    /// Which.
    pub task_ids: Vec<String>,
    /// For how long it is listened, without a gap.
    pub heard_for: Duration,
    /// Some have not answered: for how long the one was silent that was heard last. None: all have.
    pub silent_for: Option<Duration>,
    /// The broker has nothing of what each worker declares, for a while.
    pub nobody_came: bool,
    /// How many have answered.
    pub answered: usize,
}

impl Search {
    /// Whether it is time to ask for these.
    pub(super) fn is_due(&self, task_ids: &[String], now: Instant) -> bool {
        let was_just_asked =
            |(ids, at): &(Vec<String>, Instant)| ids == task_ids && now.duration_since(*at) < AGAIN_EVERY;
        !task_ids.is_empty() && self.round.is_none() && !self.last.as_ref().is_some_and(was_just_asked)
    }

    /// All workers were asked for these.
    pub(super) fn begin(&mut self, task_ids: &[String], ticket: String, now: Instant) {
        self.last = Some((task_ids.to_vec(), now));
        self.round = Some(Round {
            task_ids: task_ids.to_vec(),
            ticket,
            asked: now,
            found: HashSet::new(),
            answered: HashSet::new(),
        });
    }

    /// Whether an answer with this ticket is one to this search.
    pub(super) fn is_answered_by(&self, ticket: &str) -> bool {
        self.round.as_ref().is_some_and(|round| round.ticket == ticket)
    }

    /// The answer of a worker: its name, and what it has, by the ids. One that could not find out says so otherwise, and
    /// has not answered.
    pub(super) fn take(&mut self, answer: &Value, holders: &mut Holders, now: Instant) {
        let (Some(round), Value::Object(answer)) = (&mut self.round, answer) else { return };
        for (name, has) in answer {
            let Value::Object(has) = has else { continue };
            if has.contains_key("error") {
                continue;
            }
            round.found.extend(has.keys().cloned());
            holders.answers(&cut(name, NAME_BYTES), now);
            round.answered.insert(cut(name, NAME_BYTES));
        }
    }

    /// What was not found, once the answers have had their time. A gap in the listening may have cost one.
    pub(super) fn end(&mut self, holders: &Holders, now: Instant) -> Option<Unfound> {
        let round = self.round.take_if(|round| now.duration_since(round.asked) >= ANSWERS_WITHIN)?;
        let task_ids: Vec<String> =
            round.task_ids.into_iter().filter(|id| !round.found.contains(id)).collect();
        (!task_ids.is_empty()).then(|| Unfound {
            task_ids,
            heard_for: holders.heard_for(now),
            silent_for: holders.silent_for(&round.answered, now),
            nobody_came: holders.nobody_came(now),
            answered: round.answered.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    /// Two workers, who gave a sign of life three seconds after the listening began.
    fn holders(start: Instant) -> Holders {
        let mut holders = Holders::default();
        holders.listening(Some(start));
        for (name, pid) in [("w1@lab", 7), ("w2@lab", 8)] {
            let event = json!({ "hostname": name, "pid": pid, "processed": 1 });
            holders.hear("worker-heartbeat", &event, start + secs(3));
        }
        holders
    }

    #[test]
    fn what_no_worker_has_is_told_once_and_with_the_silence_of_those_that_gave_no_answer() {
        let start = Instant::now();
        let mut holders = holders(start);
        let mut search = Search::default();
        assert_eq!(search.end(&holders, start), None);
        let first = ids(&["a", "b", "c"]);
        assert!(!search.is_due(&[], start) && search.is_due(&first, start));
        search.begin(&first, "t1".to_owned(), start + secs(40));
        assert!(search.is_answered_by("t1") && !search.is_answered_by("t0"));
        assert!(!search.is_due(&ids(&["d"]), start + secs(41)), "one is under way");
        search.take(&json!({ "w1@lab": { "b": ["reserved", {}] } }), &mut holders, start + secs(41));
        search.take(&json!({ "w2@lab": { "error": "KeyError('ids')" } }), &mut holders, start + secs(41));
        assert_eq!(search.end(&holders, start + secs(44)), None, "answers are waited for");
        let told = search.end(&holders, start + secs(45));
        let silent_for = Some(secs(42));
        let unfound = |task_ids: &[&str], heard_for, silent_for| Unfound {
            task_ids: ids(task_ids),
            heard_for,
            silent_for,
            nobody_came: false,
            answered: 1,
        };
        assert_eq!(told, Some(unfound(&["a", "c"], secs(45), silent_for)));
        assert_eq!(search.end(&holders, start + secs(46)), None);
        let is_due = |wanted: &[&str], at| search.is_due(&ids(wanted), start + secs(at));
        assert!(!is_due(&["a", "b", "c"], 69) && is_due(&["a", "b", "c"], 70) && is_due(&["b"], 46));
        // Who has said goodbye has nothing any more; a gap is no silence.
        holders.hear("worker-offline", &json!({ "hostname": "w2@lab", "pid": 8 }), start + secs(50));
        holders.gap(start + secs(55));
        search.begin(&ids(&["a"]), "t2".to_owned(), start + secs(60));
        search.take(&json!({ "w1@lab": {} }), &mut holders, start + secs(61));
        let told = search.end(&holders, start + secs(65));
        assert_eq!(told, Some(unfound(&["a"], secs(10), None)));
        search.begin(&ids(&["a"]), "t3".to_owned(), start + secs(70));
        search.take(&json!({ "w1@lab": { "a": ["active", {}] } }), &mut holders, start + secs(71));
        assert_eq!(search.end(&holders, start + secs(75)), None, "it was found");
        assert!(search.is_due(&ids(&["b"]), start + secs(75)));
    }

    #[test]
    fn one_that_only_answers_is_missed_when_it_does_not() {
        let start = Instant::now();
        let (mut holders, mut search) = (holders(start), Search::default());
        holders.runs("mute@lab", Vec::new(), start + secs(30));
        search.begin(&ids(&["a"]), "t1".to_owned(), start + secs(40));
        search.take(&json!({ "w1@lab": {}, "w2@lab": {} }), &mut holders, start + secs(41));
        let told = search.end(&holders, start + secs(45)).expect("it is over");
        assert_eq!(told.silent_for, Some(secs(15)));
        search.begin(&ids(&["a"]), "t2".to_owned(), start + secs(80));
        search.take(&json!({ "w1@lab": {}, "w2@lab": {}, "mute@lab": {} }), &mut holders, start + secs(81));
        assert_eq!(search.end(&holders, start + secs(85)).expect("it is over").silent_for, None);
    }
}
