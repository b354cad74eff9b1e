//! Whether Celery's workers live, as far as their signs of life tell: each says every two seconds what number its process
//! has, how much it has done, and how much it does.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{NAME_BYTES, cut};

/// Workers whose signs are remembered, at most; of further ones nobody can say whether they live, so none of their
/// tasks is given up but by its time.
pub(super) const HOLDERS_MAX: usize = 10_000;
/// Where there are so many, those of whom nothing was heard for so long are forgotten: their tasks are over.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// How often it is looked for such ones.
const FORGETS_EVERY: Duration = Duration::from_secs(60);
/// Tasks that one worker runs, at most, for it to be told which these are; what the leader takes.
const ACTIVE_MAX: usize = 1_000;
/// What a worker says at two instants that lie so far apart is told.
const ASKED_APART: Duration = Duration::from_secs(20);
/// Within how long one that lives is heard who was not before: its signs come every two seconds.
const HEARD_AT_ONCE: Duration = Duration::from_secs(10);
/// Within how long Celery's workers are back at a server that was gone: the longest wait of their tries, twice.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// How long after a worker has ended its tasks may still be told of: what it has sent comes before that.
const WORD_WITHIN: Duration = Duration::from_secs(60);

/// What is known of those who run tasks.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// By name.
    holders: HashMap<String, Holder>,
    /// Since when it is listened.
    since: Option<Instant>,
    /// Since when without a gap in which something may have been said.
    gapless: Option<Instant>,
    /// Those that give no signs of life by themselves, by name: when they last answered.
    mute: HashMap<String, Instant>,
    /// When it was last looked whom to forget.
    forgot: Option<Instant>,
    /// When anyone was last heard.
    heard: Option<Instant>,
    /// When it was listened anew, if nobody was heard since.
    anew: Option<Instant>,
    /// Since when the broker has nothing of what each worker declares.
    nobody_since: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Holder {
    process: u32,
    heard: Instant,
    /// It has said goodbye.
    left: Option<Instant>,
    /// Since when another process had the name.
    first_heard: Instant,
    processed: u64,
    /// When it was seen to begin anew under the same number, as the first process of a container does.
    anew: Option<Instant>,
    /// What it ran when it was last asked, and the time before that.
    active: VecDeque<(Instant, Vec<String>)>,
}

/// Signs of life of one that runs tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// Its name.
    pub by: String,
    /// The number of its process.
    pub process: u32,
    /// For how long it was silent; None: it is heard.
    pub silent_for: Option<Duration>,
    /// The process has ended for certain.
    pub gone: bool,
    /// What it ran when it was asked, twice.
    pub active: Option<Active>,
    /// How long ago it was seen to have begun anew.
    pub anew_for: Option<Duration>,
}

/// What one said that it runs, when it was asked twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    /// The tasks of either time.
    pub task_ids: Vec<String>,
    /// How long ago the first of them was.
    pub since: Duration,
    /// For how long it is listened, without a gap.
    pub heard_for: Duration,
}

impl Holders {
    /// From here on it is listened, or no more.
    pub(super) fn listening(&mut self, now: Option<Instant>) {
        if now.is_none() || self.since.is_none() {
            (self.since, self.gapless, self.heard, self.anew) = (now, now, None, None);
            self.holders.clear();
            self.mute.clear();
        }
    }

    /// Nobody was heard for long, so it is listened by another connection, though the first one had not said that it broke.
    /// Something was missed if somebody is heard at once; else there is nobody.
    pub(super) fn listening_anew(&mut self, now: Instant) {
        self.anew = Some(now);
    }

    /// Whether the broker has nothing of what each worker declares.
    pub(super) fn may_be_none(&mut self, nobody: bool, now: Instant) {
        self.nobody_since = nobody.then(|| self.nobody_since.unwrap_or(now));
    }

    /// Whether that has lasted: those who were there before a server lost its memory are back by then.
    pub(super) fn nobody_came(&self, now: Instant) -> bool {
        self.nobody_since.is_some_and(|since| now.duration_since(since) >= BACK_WITHIN)
    }

    /// Something may have been missed; who was silent still is.
    pub(super) fn gap(&mut self, now: Instant) {
        self.gapless = self.since.and(Some(now));
    }

    /// When anyone was last heard.
    pub(super) fn last_heard(&self) -> Option<Instant> {
        self.heard.or(self.since)
    }

    /// One event of a worker's own: `worker-online`, `-heartbeat`, `-offline`. Whether it may not have heard what all were
    /// told before: it was not known, or has just come up.
    pub(super) fn hear(&mut self, kind: &str, event: &Value, now: Instant) -> bool {
        let name = cut(event["hostname"].as_str().unwrap_or_default(), NAME_BYTES);
        let process = event["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        if name.is_empty() || process == 0 {
            return false;
        }
        if kind == "worker-offline" {
            if let Some(holder) = self.holders.get_mut(&name).filter(|holder| holder.process == process) {
                holder.left = Some(now);
            }
            return false;
        }
        self.heard = Some(now);
        if let Some(anew) = self.anew.take().filter(|anew| now.duration_since(*anew) < HEARD_AT_ONCE) {
            self.gap(anew);
        }
        let known = self.holders.get(&name).cloned().filter(|holder| holder.process == process);
        let fresh = Holder {
            process,
            heard: now,
            left: None,
            first_heard: now,
            processed: 0,
            anew: None,
            active: VecDeque::new(),
        };
        let mut is_new = known.is_none() || kind == "worker-online";
        let mut holder = Holder { heard: now, left: None, ..known.unwrap_or(fresh) };
        if let Some(processed) = event["processed"].as_u64().filter(|_| kind == "worker-heartbeat") {
            // It counts from nothing when it begins.
            if processed < holder.processed {
                holder.anew = Some(now);
                holder.active.clear();
                is_new = true;
            }
            holder.processed = processed;
        }
        if self.holders.len() >= HOLDERS_MAX && !self.holders.contains_key(&name) && self.may_forget(now) {
            self.holders.retain(|_, holder| now.duration_since(holder.heard) < FORGOTTEN_AFTER);
        }
        let has_room = self.holders.len() < HOLDERS_MAX || self.holders.contains_key(&name);
        if has_room {
            self.holders.insert(name, holder);
        }
        is_new && has_room
    }

    /// For how long it is listened, without a gap.
    pub(super) fn heard_for(&self, now: Instant) -> Duration {
        now.duration_since(self.gapless.unwrap_or(now))
    }

    /// For how long the one was silent that was heard last, of those that have not answered and that may have a task: they
    /// have not said goodbye.
    pub(super) fn silent_for(&self, answered: &HashSet<String>, now: Instant) -> Option<Duration> {
        self.silent(answered, now, false)
    }

    /// The same, with those that have said goodbye: one that ends what it still runs says it first.
    pub(super) fn silent_or_left_for(&self, answered: &HashSet<String>, now: Instant) -> Option<Duration> {
        self.silent(answered, now, true)
    }

    /// Whether further workers are not remembered, and so would not be missed.
    pub(super) fn is_full(&self) -> bool {
        self.holders.len() >= HOLDERS_MAX || self.mute.len() >= HOLDERS_MAX
    }

    fn silent(&self, answered: &HashSet<String>, now: Instant, with_left: bool) -> Option<Duration> {
        let heard = self.holders.iter().filter(|(_, holder)| with_left || holder.left.is_none());
        let heard = heard.map(|(name, holder)| (name, holder.heard));
        let mute = self.mute.iter().filter(|(name, _)| !self.holders.contains_key(*name));
        let mute = mute.map(|(name, heard)| (name, *heard));
        let others = heard.chain(mute).filter(|(name, _)| !answered.contains(*name));
        others.map(|(_, heard)| now.duration_since(heard)).min()
    }

    /// Whether it is time to look whom to forget: all are looked at, and each event may ask for it.
    fn may_forget(&mut self, now: Instant) -> bool {
        let may = self.forgot.is_none_or(|at| now.duration_since(at) >= FORGETS_EVERY);
        if may {
            self.forgot = Some(now);
        }
        may
    }

    /// One has answered something.
    pub(super) fn answers(&mut self, name: &str, now: Instant) {
        if self.mute.len() >= HOLDERS_MAX && !self.mute.contains_key(name) && self.may_forget(now) {
            self.mute.retain(|_, heard| now.duration_since(*heard) < FORGOTTEN_AFTER);
        }
        if self.mute.len() < HOLDERS_MAX || self.mute.contains_key(name) {
            self.mute.insert(name.to_owned(), now);
        }
    }

    /// What one runs, as it says itself.
    pub(super) fn runs(&mut self, name: &str, task_ids: Vec<String>, now: Instant) {
        self.answers(name, now);
        let Some(holder) = self.holders.get_mut(name) else { return };
        if task_ids.len() > ACTIVE_MAX / 2 {
            return holder.active.clear();
        }
        // Two answers to what was asked at nearly the same time tell no more than one.
        let last = holder.active.back().map(|(at, _)| *at);
        if last.is_none_or(|last| now.duration_since(last) >= ASKED_APART) {
            holder.active.push_back((now, task_ids));
        } else if let Some((_, ids)) = holder.active.back_mut() {
            *ids = task_ids;
        }
        if holder.active.len() > 2 {
            holder.active.pop_front();
        }
    }

    /// The number of the process that gives signs of life under this name now; 0: none does.
    pub(super) fn process(&self, name: &str) -> u32 {
        self.holders.get(name).map_or(0, |holder| holder.process)
    }

    /// Whether this one lives.
    pub(super) fn signs(&self, (by, process): (&str, u32), now: Instant) -> Option<Signs> {
        let since = self.since?;
        let signs = Signs { by: by.to_owned(), process, ..Signs::default() };
        let Some(holder) = self.holders.get(by) else {
            return Some(Signs { silent_for: Some(now.duration_since(since)), ..signs });
        };
        let for_long = |at: Instant| now.duration_since(at) >= WORD_WITHIN;
        if holder.process != process {
            let gone = for_long(holder.first_heard);
            return Some(Signs { silent_for: Some(now.duration_since(holder.first_heard)), gone, ..signs });
        }
        let silent = now.duration_since(holder.heard);
        Some(Signs {
            silent_for: Some(silent).filter(|silent| *silent >= Duration::from_secs(5)),
            gone: holder.left.is_some_and(for_long),
            active: match holder.active.iter().collect::<Vec<_>>().as_slice() {
                [(first, before), (_, then)] => Some(Active {
                    task_ids: before.iter().chain(then).cloned().collect(),
                    since: now.duration_since(*first),
                    heard_for: self.heard_for(now),
                }),
                _ => None,
            },
            anew_for: holder.anew.filter(|anew| for_long(*anew)).map(|anew| now.duration_since(anew)),
            ..signs
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

    fn beat(holders: &mut Holders, process: u32, (processed, active): (u64, u64), at: Instant) {
        let event = json!({ "hostname": "w1@lab", "pid": process, "processed": processed, "active": active });
        holders.hear("worker-heartbeat", &event, at);
    }

    fn listening() -> (Holders, Instant) {
        let start = Instant::now();
        let mut holders = Holders::default();
        assert_eq!(holders.signs(("w1@lab", 7), start), None, "nobody listens");
        holders.listening(Some(start));
        (holders, start)
    }

    #[test]
    fn silence_counts_from_the_last_sign_and_from_the_listening_where_there_was_none() {
        let (mut holders, start) = listening();
        let signs = holders.signs(("w1@lab", 7), start + secs(40)).unwrap();
        assert_eq!(signs.silent_for, Some(secs(40)));
        beat(&mut holders, 7, (3, 1), start + secs(41));
        assert_eq!(holders.process("w1@lab"), 7);
        assert_eq!(holders.signs(("w1@lab", 7), start + secs(43)).unwrap().silent_for, None);
        let signs = holders.signs(("w1@lab", 7), start + secs(71)).unwrap();
        assert_eq!((signs.silent_for, signs.gone, signs.active), (Some(secs(30)), false, None));
        // A gap in the listening is no silence.
        holders.listening(None);
        assert_eq!(holders.signs(("w1@lab", 7), start + secs(999)), None);
        holders.listening(Some(start + secs(1_000)));
        let signs = holders.signs(("w1@lab", 7), start + secs(1_001)).unwrap();
        assert_eq!(signs.silent_for, Some(secs(1)));
    }

    #[test]
    fn a_process_is_gone_once_another_one_has_had_its_name_for_a_while_or_it_took_leave() {
        let (mut holders, start) = listening();
        beat(&mut holders, 7, (3, 1), start);
        beat(&mut holders, 8, (0, 0), start + secs(10));
        assert!(
            !holders.signs(("w1@lab", 7), start + secs(69)).unwrap().gone,
            "its last words are waited for"
        );
        assert!(holders.signs(("w1@lab", 7), start + secs(70)).unwrap().gone);
        assert!(!holders.signs(("w1@lab", 8), start + secs(70)).unwrap().gone);
        let bye = json!({ "hostname": "w1@lab", "pid": 8 });
        holders.hear("worker-offline", &bye, start + secs(100));
        assert!(holders.signs(("w1@lab", 8), start + secs(160)).unwrap().gone);
        // It was cut off, and is there again.
        beat(&mut holders, 8, (4, 0), start + secs(161));
        assert!(!holders.signs(("w1@lab", 8), start + secs(300)).unwrap().gone);
    }

    #[test]
    fn one_that_counts_from_nothing_again_has_begun_anew_under_its_number() {
        let (mut holders, start) = listening();
        beat(&mut holders, 1, (30, 2), start);
        beat(&mut holders, 1, (31, 2), start + secs(2));
        beat(&mut holders, 1, (0, 0), start + secs(12));
        let signs = holders.signs(("w1@lab", 1), start + secs(72)).unwrap();
        assert_eq!((signs.gone, signs.anew_for), (false, Some(secs(60))));
    }

    #[test]
    fn what_one_runs_is_told_once_it_has_said_so_twice_and_by_the_same_process() {
        let (mut holders, start) = listening();
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        holders.runs("w1@lab", ids(&["early"]), start);
        beat(&mut holders, 7, (3, 1), start);
        holders.runs("w1@lab", ids(&["a"]), start + secs(30));
        holders.runs("w1@lab", ids(&["a", "b"]), start + secs(32));
        let active = |holders: &Holders, at| holders.signs(("w1@lab", 7), start + secs(at)).unwrap().active;
        assert_eq!(active(&holders, 33), None, "once");
        holders.runs("w1@lab", ids(&["c"]), start + secs(60));
        let told = Active { task_ids: ids(&["a", "b", "c"]), since: secs(40), heard_for: secs(70) };
        assert_eq!(active(&holders, 70), Some(told));
        holders.runs("w1@lab", ids(&[]), start + secs(90));
        let told = Active { task_ids: ids(&["c"]), since: secs(40), heard_for: secs(100) };
        assert_eq!(active(&holders, 100), Some(told));
        holders.gap(start + secs(95));
        assert_eq!(active(&holders, 100).unwrap().heard_for, secs(5), "something may have been missed");
        // It counts from nothing: it is another one.
        beat(&mut holders, 7, (0, 0), start + secs(101));
        assert_eq!(active(&holders, 102), None);
        let many = (0..=ACTIVE_MAX / 2).map(|id| id.to_string()).collect();
        holders.runs("w1@lab", ids(&[]), start + secs(120));
        holders.runs("w1@lab", many, start + secs(150));
        holders.runs("w1@lab", ids(&[]), start + secs(180));
        assert_eq!(active(&holders, 181), None, "more than is told");
    }

    #[test]
    fn nobody_came_where_the_broker_has_nothing_of_workers_for_a_while() {
        let (mut holders, start) = listening();
        for (nobody, at, nobody_came) in [
            (true, 0, false),
            (true, 59, false),
            (true, 60, true),
            (false, 61, false),
            (true, 62, false),
            (true, 121, false),
        ] {
            holders.may_be_none(nobody, start + secs(at));
            assert_eq!(holders.nobody_came(start + secs(at)), nobody_came, "{at}");
        }
    }

    #[test]
    fn something_was_missed_where_listening_anew_hears_at_once_what_was_not_heard() {
        for (heard_after, heard_for) in [(2, 42), (9, 49), (11, 111)] {
            let (mut holders, start) = listening();
            holders.listening_anew(start + secs(60));
            beat(&mut holders, 7, (0, 0), start + secs(60 + heard_after));
            beat(&mut holders, 7, (0, 0), start + secs(62 + heard_after));
            let since_anew = if heard_after < 10 { 60 } else { 0 };
            let at = start + secs(since_anew + heard_for);
            assert_eq!(holders.heard_for(at), secs(heard_for), "{heard_after}");
        }
    }

    #[test]
    fn strange_events_and_too_many_names_are_passed_over() {
        let (mut holders, start) = listening();
        for event in [json!({}), json!({ "hostname": 3, "pid": 4 }), json!({ "hostname": "w", "pid": -1 })] {
            holders.hear("worker-heartbeat", &event, start);
        }
        assert!(holders.holders.is_empty());
        for number in 0..=HOLDERS_MAX {
            let event = json!({ "hostname": format!("w{number}"), "pid": 1 });
            holders.hear("worker-online", &event, start);
        }
        assert_eq!(holders.holders.len(), HOLDERS_MAX);
        assert_eq!(holders.process(&format!("w{HOLDERS_MAX}")), 0);
        assert!(holders.is_full());
        let event = json!({ "hostname": "next", "pid": 1 });
        holders.hear("worker-online", &event, start + FORGOTTEN_AFTER);
        assert_eq!((holders.holders.len(), holders.is_full()), (1, false), "those of long ago are forgotten");
    }
}
