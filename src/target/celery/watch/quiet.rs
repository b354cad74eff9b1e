//! Tasks of which nobody is heard: whether they were dropped, for they are registered nowhere.
//!
//! A worker that has just come up sends no events before it was asked for them, and of a task that it drops meanwhile,
//! because it has none of that name, nobody tells. So of a task that is gone from its queue all workers are asked which
//! tasks are registered with them (`registered`), and from which queues they take (`active_queues`): whoever takes what
//! is registered nowhere has dropped it.
//!
//! Of a task whose name some worker knows nothing is concluded. A worker does not name all that it keeps (what waits for
//! `rate_limit` is in none of its answers), nor does a broker: kombu's transport for Redis may have taken a message that no
//! one has been given yet, and a task goes on under its id in another queue (`Task.replace`). To take such a one for gone,
//! and send it again, would be to run it twice.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::super::message;
use super::holders::Holders;
use super::search::Unfound;
use super::told::{NAME_BYTES, cut};

/// How long answers are waited for.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked for such tasks.
const AGAIN_EVERY: Duration = Duration::from_secs(30);
/// Workers whose answers are remembered, at most; of more nothing is concluded.
const WORKERS_MAX: usize = 10_000;

/// A task, and where it was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lain {
    /// What it is called.
    pub task_id: String,
    /// The queue.
    pub queue: String,
    /// What it is registered under.
    pub name: String,
    /// Of the attempts that may have left it.
    pub fences: Vec<u64>,
}

impl Lain {
    /// What tells the messages apart that may have been left of it.
    pub(super) fn tags(&self) -> Vec<String> {
        let Ok(task) = Uuid::parse_str(&self.task_id) else { return Vec::new() };
        self.fences.iter().map(|fence| message::tag_of(task, *fence)).collect()
    }
}

/// What a broker says of a queue and some of its tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Emptied {
    /// The tasks that do not lie in it; none, where anything does.
    pub(super) gone: Vec<String>,
    /// How many take from it, where that is known.
    pub(super) takers: Option<usize>,
}

/// The look that is under way, if one is.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    round: Option<Round>,
    last: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Round {
    pub(super) tasks: Vec<Lain>,
    asked: Instant,
    /// What answers have: to `registered`, and to `active_queues`.
    tickets: [String; 2],
    /// By the names of workers.
    answers: BTreeMap<String, Answers>,
}

/// What one worker has answered.
#[derive(Debug, Default)]
struct Answers {
    /// Of the names of tasks those that are registered there.
    knows: Option<BTreeSet<String>>,
    /// The queues that it takes from.
    takes: Option<BTreeSet<String>>,
}

impl Quiet {
    /// Whether it is time to look.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.round.is_none() && self.last.is_none_or(|last| now.duration_since(last) >= AGAIN_EVERY)
    }

    /// It was looked.
    pub(super) fn looked(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// All workers were asked.
    pub(super) fn begin(&mut self, tasks: Vec<Lain>, tickets: [String; 2], now: Instant) {
        self.round = Some(Round { tasks, asked: now, tickets, answers: BTreeMap::new() });
    }

    /// Whether an answer with this ticket is one to this look.
    pub(super) fn is_answered_by(&self, ticket: &str) -> bool {
        self.round.as_ref().is_some_and(|round| round.tickets.iter().any(|one| one == ticket))
    }

    /// The answer of a worker: its name, and what was asked. One that could not find out says so otherwise, and has not
    /// answered.
    pub(super) fn take(&mut self, ticket: &str, answer: &Value, holders: &mut Holders, now: Instant) {
        let (Some(round), Value::Object(answer)) = (&mut self.round, answer) else { return };
        for (name, said) in answer {
            let name = cut(name, NAME_BYTES);
            holders.answers(&name, now);
            if round.answers.len() < WORKERS_MAX || round.answers.contains_key(&name) {
                round.take(ticket, name, said);
            }
        }
    }

    /// What was looked for, once the answers have had their time.
    pub(super) fn end(&mut self, now: Instant) -> Option<Round> {
        self.round.take_if(|round| now.duration_since(round.asked) >= ANSWERS_WITHIN)
    }
}

impl Round {
    fn take(&mut self, ticket: &str, name: String, said: &Value) {
        let answers = self.answers.entry(name).or_default();
        match (self.tickets.iter().position(|one| one == ticket), said) {
            (Some(0), Value::Array(registered)) => {
                let names: BTreeSet<&str> = self.tasks.iter().map(|task| task.name.as_str()).collect();
                let known = registered.iter().filter_map(|it| name_of(it.as_str()?, &names));
                answers.knows.get_or_insert_default().extend(known.map(str::to_owned));
            }
            (Some(1), Value::Array(queues)) => {
                let names = queues.iter().filter_map(|queue| queue["name"].as_str());
                answers.takes.get_or_insert_default().extend(names.map(str::to_owned));
            }
            _ => {}
        }
    }

    /// Those that are registered nowhere, if the broker still says the same of their queues.
    pub(super) fn verdict(
        self,
        emptied: &BTreeMap<String, Emptied>,
        holders: &Holders,
        now: Instant,
    ) -> Option<Unfound> {
        // Some who have not answered would not be missed.
        if holders.is_full() || self.answers.len() >= WORKERS_MAX {
            return None;
        }
        let whole = |answers: &&Answers| answers.knows.is_some() && answers.takes.is_some();
        let answered: HashSet<String> =
            self.answers.iter().filter(|(_, it)| whole(it)).map(|(name, _)| name.clone()).collect();
        let mut fewest = usize::MAX;
        let mut task_ids = Vec::new();
        for task in self.tasks {
            let Some(queue) = emptied.get(&task.queue).filter(|it| it.gone.contains(&task.task_id)) else {
                continue;
            };
            let takes = |it: &&Answers| it.takes.as_ref().is_some_and(|it| it.contains(&task.queue));
            let knows = |it: &Answers| it.knows.as_ref().is_some_and(|it| it.contains(&task.name));
            let takers = self.answers.values().filter(whole).filter(takes).count();
            // Somebody takes from it who has not answered, or nobody who has takes from it.
            let is_of_strangers = takers == 0 || queue.takers.is_some_and(|of_broker| of_broker != takers);
            if !is_of_strangers && !self.answers.values().any(knows) {
                task_ids.push(task.task_id);
                fewest = fewest.min(takers);
            }
        }
        (!task_ids.is_empty()).then(|| Unfound {
            task_ids,
            answered: fewest,
            heard_for: holders.heard_for(now),
            silent_for: holders.silent_or_left_for(&answered, now),
            nobody_came: false,
        })
    }
}

/// The name of a task in what a worker says of one that is registered there: behind it stand more, in brackets.
fn name_of<'a>(said: &str, names: &BTreeSet<&'a str>) -> Option<&'a str> {
    let name = said.rsplit_once(" [").map_or(said, |(name, _)| name);
    names.get(said).or_else(|| names.get(name)).copied()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TICKETS: [&str; 2] = ["knows", "takes"];

    fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// Tasks `a` and `b` of one queue, named `shop.a` and `shop.b`, that are gone from it, and what workers say.
    struct Scene {
        holders: Holders,
        quiet: Quiet,
        start: Instant,
        emptied: Emptied,
    }

    impl Scene {
        fn new() -> Self {
            let start = Instant::now();
            let (mut holders, mut quiet) = (Holders::default(), Quiet::default());
            holders.listening(Some(start));
            let lain = |id: &str| Lain {
                task_id: id.to_owned(),
                queue: "work".to_owned(),
                name: format!("shop.{id}"),
                fences: Vec::new(),
            };
            quiet.looked(start);
            quiet.begin(vec![lain("a"), lain("b")], TICKETS.map(str::to_owned), start);
            let gone = vec!["a".to_owned(), "b".to_owned()];
            Self { holders, quiet, start, emptied: Emptied { gone, takers: None } }
        }

        fn says(&mut self, ticket: &str, answer: &Value) {
            assert!(self.quiet.is_answered_by(ticket));
            self.quiet.take(ticket, answer, &mut self.holders, self.start);
        }

        /// One that knows the name of `b`, and takes from the queue.
        fn usual(&mut self, name: &str) {
            self.says("knows", &json!({ name: ["celery.chain", "shop.b [rate_limit=10/m]", "shop.ab"] }));
            self.says("takes", &json!({ name: [{ "name": "other" }, { "name": "work" }] }));
        }

        fn verdict(mut self) -> Option<Unfound> {
            let now = self.start + ANSWERS_WITHIN;
            assert!(self.quiet.end(self.start).is_none(), "answers are waited for");
            let round = self.quiet.end(now).expect("it is over");
            assert!(!self.quiet.is_due(now) && self.quiet.is_due(self.start + AGAIN_EVERY));
            round.verdict(&BTreeMap::from([("work".to_owned(), self.emptied)]), &self.holders, now)
        }

        fn ids(self) -> Vec<String> {
            self.verdict().map(|unfound| unfound.task_ids).unwrap_or_default()
        }
    }

    #[test]
    fn what_is_registered_nowhere_is_told_with_who_has_answered() {
        let mut scene = Scene::new();
        scene.usual("w1@lab");
        scene.usual("w2@lab");
        let told = Unfound {
            task_ids: vec!["a".to_owned()],
            answered: 2,
            heard_for: ANSWERS_WITHIN,
            silent_for: None,
            nobody_came: false,
        };
        assert_eq!(scene.verdict(), Some(told));
    }

    #[test]
    fn what_one_knows_that_has_not_answered_all_is_registered() {
        let mut scene = Scene::new();
        scene.usual("w1@lab");
        scene.says("knows", &json!({ "w2@lab": ["shop.a"] }));
        assert_eq!(scene.ids(), [""; 0]);
    }

    #[test]
    fn nothing_is_said_of_a_queue_from_which_nobody_takes_that_answers() {
        let mut scene = Scene::new();
        scene.says("knows", &json!({ "w1@lab": [] }));
        scene.says("takes", &json!({ "w1@lab": [{ "name": "other" }] }));
        assert_eq!(scene.ids(), [""; 0]);
        let mut scene = Scene::new();
        scene.says("takes", &json!({ "w1@lab": [{ "name": "work" }] }));
        scene.says("knows", &json!({ "w1@lab": { "error": "KeyError('x')" } }));
        assert_eq!(scene.ids(), [""; 0], "it has not answered one of the questions");
    }

    #[test]
    fn a_broker_that_knows_of_more_takers_than_have_answered_is_believed() {
        for (takers, told) in [(1, vec!["a"]), (2, Vec::new())] {
            let mut scene = Scene::new();
            scene.usual("w1@lab");
            scene.emptied.takers = Some(takers);
            assert_eq!(scene.ids(), told, "{takers}");
        }
    }

    #[test]
    fn what_lies_in_its_queue_again_was_on_its_way() {
        let mut scene = Scene::new();
        scene.usual("w1@lab");
        scene.emptied.gone = vec!["b".to_owned()];
        assert_eq!(scene.ids(), [""; 0]);
    }

    #[test]
    fn one_that_has_said_goodbye_is_silent_all_the_same() {
        let mut scene = Scene::new();
        let event = |kind| json!({ "type": kind, "hostname": "old@lab", "pid": 7 });
        scene.holders.hear("worker-heartbeat", &event("worker-heartbeat"), scene.start);
        scene.holders.hear("worker-offline", &event("worker-offline"), scene.start + secs(1));
        scene.usual("w1@lab");
        let told = scene.verdict().expect("one is registered nowhere");
        assert_eq!(told.silent_for, Some(ANSWERS_WITHIN), "it may still end what it has");
    }

    #[test]
    fn strange_answers_are_passed_over() {
        let mut scene = Scene::new();
        for (ticket, answer) in [
            ("knows", json!([])),
            ("knows", json!({ "w1@lab": "shop.a" })),
            ("knows", json!({ "w1@lab": [3, null] })),
            ("takes", json!({ "w1@lab": [{ "name": 3 }, 4] })),
        ] {
            scene.says(ticket, &answer);
        }
        assert!(!scene.quiet.is_answered_by("another"));
        assert_eq!(scene.ids(), [""; 0]);
    }

    #[test]
    fn the_tags_of_a_task_are_those_of_the_messages_that_were_left() {
        let id = "b784366a-e12b-5154-a5c2-c75132de5520";
        let lain =
            |fences| Lain { task_id: id.to_owned(), queue: String::new(), name: String::new(), fences };
        let task = Uuid::parse_str(id).expect("an id");
        assert_eq!(lain(vec![7, 9]).tags(), [message::tag_of(task, 7), message::tag_of(task, 9)]);
        assert_eq!(Lain { task_id: "x".to_owned(), ..lain(vec![7]) }.tags(), [""; 0]);
    }
}
