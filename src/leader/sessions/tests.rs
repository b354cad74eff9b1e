use std::collections::BTreeSet;

use super::*;
use crate::leader::said::{DrainAsked, StreamWanted};

const LEASE: Duration = Duration::from_secs(8);

fn hello(worker: &str, slots: u32) -> Hello {
    Hello {
        worker: worker.into(),
        queues: Arc::new(BTreeSet::from(["default".into()])),
        labels: Arc::default(),
        kinds: Arc::new(BTreeSet::from(["exec".to_owned()])),
        slots,
        held: BTreeSet::new(),
        version: "0.0.0".to_owned(),
        protocol: 1,
        takes_drain: true,
        node: None,
        connected_to: 1,
        address: String::new(),
        earlier: BTreeSet::new(),
        keeps_output: true,
    }
}

/// Sessions with one worker each, heard at these instants.
fn sessions(heard: &[(&str, Instant)]) -> Sessions {
    let mut sessions = Sessions::default();
    for (number, (worker, last_heard)) in heard.iter().enumerate() {
        let session = Session {
            hello: hello(worker, 3),
            outbox: mpsc::channel(1).0,
            last_heard: *last_heard,
            connected_at: Timestamp::MIN,
            drain: Drain::No,
            has_beaten: true,
            unanswered: 0,
            given: 0,
            leftover: HashSet::new(),
            known: HashSet::new(),
            cancelled: HashSet::new(),
        };
        sessions.open(SessionId(number as u64), session);
    }
    sessions
}

fn open(view: &plan::Sessions) -> Vec<(&str, u32)> {
    view.open.iter().map(|session| (session.worker.as_ref(), session.free)).collect()
}

#[test]
fn a_silent_worker_gets_no_starts() {
    let since = Instant::now();
    let now = since + LEASE;
    let mut sessions = sessions(&[("silent", now - LEASE / 2), ("alive", now - LEASE / 4)]);
    let listening = Listening { since, now, lease: LEASE };
    let starts = HashMap::from([("alive".into(), 1)]);
    let view = sessions.view(&State::default(), &starts, listening);
    assert_eq!(open(&view), [("alive", 2)]);
    assert_eq!(view.alive, HashSet::from(["alive".into()]));
    assert!(view.is_complete);
    let earlier = Listening { since: since + LEASE / 10, now, lease: LEASE };
    assert!(!sessions.view(&State::default(), &starts, earlier).is_complete, "others may still come");

    // It is heard again.
    sessions.heard(SessionId(0), now);
    let view = sessions.view(&State::default(), &starts, listening);
    assert_eq!(open(&view), [("silent", 3), ("alive", 2)]);
}

#[test]
fn a_worker_that_drains_gets_no_starts_and_keeps_what_it_has() {
    let now = Instant::now();
    let mut sessions = sessions(&[("w1", now)]);
    sessions.get_mut(SessionId(0)).unwrap().drain = Drain::Confirmed(DrainAsked::default());
    let view = sessions.view(&State::default(), &HashMap::new(), Listening { since: now, now, lease: LEASE });
    assert_eq!((open(&view), view.alive.len()), (vec![], 1));
}

/// A drained worker that comes to a new leader says hello first, and only then that it drains.
#[test]
fn a_worker_gets_no_starts_before_its_first_heartbeat() {
    let now = Instant::now();
    let mut sessions = sessions(&[("w1", now)]);
    sessions.get_mut(SessionId(0)).expect("open").has_beaten = false;
    let listening = Listening { since: now, now, lease: LEASE };
    let view = sessions.view(&State::default(), &HashMap::new(), listening);
    assert_eq!((open(&view), view.alive.len()), (vec![], 1));
    // It counts also where it cannot be answered yet.
    assert!(sessions.get_mut(SessionId(0)).expect("open").answer(false));
    let view = sessions.view(&State::default(), &HashMap::new(), listening);
    assert_eq!(open(&view), [("w1", 3)]);
}

#[test]
fn output_is_asked_of_the_life_that_has_it_and_only_of_workers_that_keep_it() {
    let now = Instant::now();
    let mut sessions = sessions(&[("a/2", now), ("b/1", now)]);
    let (outbox, mut messages) = mpsc::channel(1);
    let a = sessions.get_mut(SessionId(0)).expect("open");
    a.hello.earlier.insert("a/1".into());
    a.outbox = outbox;
    sessions.get_mut(SessionId(1)).expect("open").hello.keeps_output = false;
    let wanted = || {
        Box::new(OutputWanted {
            id: "x".to_owned(),
            run: "1-2".parse().expect("a run id"),
            fence: 1,
            offset: 0,
            tail_lines: 0,
            stream: StreamWanted::All,
            follow: false,
        })
    };
    assert_eq!(sessions.read_output(&"a/1".into(), wanted()), OutputAsked::Asked);
    assert_eq!(sessions.read_output(&"a/2".into(), wanted()), OutputAsked::Away, "it has no room");
    assert!(matches!(messages.try_recv(), Ok(Message::ReadOutput(_))));
    assert_eq!(sessions.read_output(&"a/2".into(), wanted()), OutputAsked::Asked);
    assert_eq!(sessions.read_output(&"b/1".into(), wanted()), OutputAsked::KeepsNone);
    assert_eq!(sessions.read_output(&"c/1".into(), wanted()), OutputAsked::Away);
}

#[test]
fn a_slot_in_which_an_attempt_still_stops_is_not_free() {
    let now = Instant::now();
    let mut sessions = sessions(&[("w1", now)]);
    let given_up = |fence| (RunId { job: crate::state::JobId(1), at: Timestamp::MIN, seq: fence }, fence);
    sessions.get_mut(SessionId(0)).unwrap().leftover.extend([given_up(1), given_up(2)]);
    let listening = Listening { since: now, now, lease: LEASE };
    let view = sessions.view(&State::default(), &HashMap::new(), listening);
    assert_eq!(open(&view), [("w1", 1)]);
    sessions.get_mut(SessionId(0)).unwrap().leftover.clear();
    let view = sessions.view(&State::default(), &HashMap::new(), listening);
    assert_eq!(open(&view), [("w1", 3)]);
}

#[test]
fn a_worker_is_found_by_its_name_and_by_its_place_where_it_is_alone_there() {
    let now = Instant::now();
    let sessions = sessions(&[("a/1", now), ("b/2", now), ("b/3", now), ("plain", now)]);
    let named = |name| sessions.named(name).map(|(_, session)| session.hello.worker.to_string());
    assert_eq!([named("a/1"), named("a"), named("plain")].map(Result::unwrap), ["a/1", "a/1", "plain"]);
    assert_eq!(named("b"), Err(FleetError::Ambiguous(vec!["b/2".into(), "b/3".into()])));
    assert_eq!(named("b/3").as_deref(), Ok("b/3"));
    assert_eq!(named("c"), Err(FleetError::NoWorker));
}

#[test]
fn each_heartbeat_is_answered_also_one_that_had_to_wait() {
    let mut sessions = sessions(&[("a", Instant::now())]);
    let (outbox, mut messages) = mpsc::channel(8);
    let session = sessions.get_mut(SessionId(0)).expect("it is open");
    session.outbox = outbox;
    let mut answers = || {
        let sent = std::iter::from_fn(|| messages.try_recv().ok());
        sent.map(|message| assert!(matches!(message, Message::Heartbeat), "{message:?}")).count()
    };
    assert!(session.answer(true));
    assert_eq!(answers(), 1);
    // No majority has been heard of for a while.
    assert!((0..3).all(|_| session.answer(false)));
    assert_eq!(answers(), 0);
    assert!(session.answer(true));
    assert_eq!(answers(), 4);
    // What the worker has given up is not kept for ever.
    assert!((0..UNANSWERED_MAX).all(|_| session.answer(false)));
    assert!(!session.answer(false));
}
