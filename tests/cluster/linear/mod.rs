//! Reads and writes of the API are linearizable, whatever becomes of the leaders.
//!
//! Clients change and read a few jobs through random nodes while leaders are killed, paused and handed over. Each
//! operation is taken down with the moments of its call and of its return; a change of unknown result may have
//! happened at any time from its call on, or never. The history of each job is then checked against a [`model`] by a
//! known algorithm ([`checker`]). Reads with `stale` are taken down too, and not held to the promise.
//!
//! `SEED=n` replays the faults and the clients' choices of a seed (the interleaving is the machine's), and
//! `LINEAR_SECONDS=n` makes it longer.

mod checker;
mod clients;
mod history;
mod model;
mod nemesis;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chronarch::client::Client;
use chronarch::clock::Clock;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::checker::{Timed, Verdict, check};
use self::clients::{Person, read};
use self::history::{Operation, Recorder, by_job, keep};
use self::model::{Applied, Step};
use self::nemesis::Nemesis;
use crate::chance::Chance;
use crate::harness::{Harness, PATIENCE};
use crate::receiver::Receiver;

/// How long clients work at least, unless `LINEAR_SECONDS` says otherwise.
const SECONDS: u64 = 12;
/// Clients at a time.
const CLIENTS: usize = 6;
/// Jobs that they share.
const JOBS: u64 = 4;
/// How long they work on the same jobs.
const ROUND_SECONDS: u64 = 20;
/// Operations of known result without which a history shows nothing.
const FLOOR: usize = 100;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// The client of one node alone.
fn of_node(harness: &Harness, node: u64) -> Client {
    let ids = Clock::system();
    let endpoint = harness.cluster.endpoint(node).parse().expect("an endpoint");
    Client::new(&[endpoint], Duration::from_secs(20), move || ids.random_id()).expect("an endpoint")
}

/// A read by a client that has nothing else to do.
async fn look(client: &Client, recorder: &Recorder, (job, node): (&str, u64), stale: bool) {
    let called = recorder.moment();
    let Some(step) = read(client, job, stale).await else { return };
    let returned = Some(recorder.moment());
    let operation =
        Operation { job: job.to_owned(), client: CLIENTS, node, stale, called, returned, steps: vec![step] };
    recorder.add(operation);
}

/// Each job of the history that is not linearizable, with what could not follow.
fn violations(operations: &[Operation], with_stale: bool) -> Vec<String> {
    let held = operations.iter().filter(|operation| with_stale || !operation.stale);
    let told = by_job(held).into_iter().filter_map(|(job, history)| match check(&history) {
        Verdict::Linearizable => None,
        Verdict::Violated(longest) => Some(format!("{job}: {}", around(&history, &longest))),
        Verdict::Undecided => Some(format!("{job}: inconclusive, the check takes too long")),
    });
    told.collect()
}

/// Where the longest order ends: its last steps, and those that are left and return first.
fn around(history: &[Timed], longest: &[usize]) -> String {
    let show = |place: &usize| format!("\n    {:?}", history[*place]);
    let tail: String = longest.iter().rev().take(5).rev().map(show).collect();
    let mut left: Vec<usize> = (0..history.len())
        .filter(|place| history[*place].returned.is_some() && !longest.contains(place))
        .collect();
    left.sort_by_key(|place| history[*place].returned);
    let next: String = left.iter().take(5).map(show).collect();
    format!(
        "{} steps follow one another, and then none can.\n  the last:{tail}\n  left:{next}",
        longest.len()
    )
}

/// Has clients work under faults; what they were told.
#[expect(clippy::print_stdout, reason = "how much a seed has shown")]
async fn history(harness: &mut Harness, seed: u64, url: &str) -> Vec<Operation> {
    let recorder = Recorder::default();
    let (stop, round) = (CancellationToken::new(), Arc::<AtomicU64>::default());
    let people: Vec<_> = (0..CLIENTS)
        .map(|number| Person {
            number,
            chance: Chance::new(seed ^ (number as u64 + 1)),
            endpoints: harness.cluster.endpoints(),
            jobs: JOBS,
            round: Arc::clone(&round),
            url: url.to_owned(),
            recorder: recorder.clone(),
        })
        .map(|person| tokio::spawn(person.work(stop.clone())))
        .collect();

    let mut nemesis = Nemesis::new(seed);
    let began = Instant::now();
    let wanted = Duration::from_secs(number("LINEAR_SECONDS").unwrap_or(SECONDS));
    let known = |recorder: &Recorder| recorder.operations().iter().filter(|it| it.returned.is_some()).count();
    while began.elapsed() < wanted || !nemesis.done.suffices() || known(&recorder) < FLOOR {
        let done = nemesis.done;
        assert!(
            began.elapsed() < wanted + 2 * PATIENCE,
            "inconclusive: {done:?}, {} operations",
            known(&recorder)
        );
        nemesis.strike(harness).await;
        round.store(began.elapsed().as_secs() / ROUND_SECONDS, Ordering::Relaxed);
    }
    stop.cancel();
    for person in people {
        person.await.expect("no client panics");
    }
    // All is healed: what every node says now has to follow from what was acknowledged.
    let jobs: BTreeSet<String> = recorder.operations().into_iter().map(|operation| operation.job).collect();
    for node in harness.cluster.nodes() {
        harness.caught_up(node).await;
        let client = of_node(harness, node);
        for job in &jobs {
            look(&client, &recorder, (job, node), false).await;
        }
    }
    let operations = recorder.operations();
    let unknown = operations.iter().filter(|operation| operation.returned.is_none()).count();
    let stale = operations.iter().filter(|operation| operation.stale).count();
    println!(
        "seed {seed}: {} operations, {unknown} of unknown result, {stale} stale reads; {:?}",
        operations.len(),
        nemesis.done
    );
    operations
}

/// Keeps the history where the folder of the cluster is kept, and fails with how to replay it.
fn fail(operations: &[Operation], folder: &Path, seed: u64, wrong: &[String]) -> ! {
    let file = folder.join("history.jsonl");
    keep(operations, &file);
    panic!(
        "not linearizable; the history is in {}, replay with: \
         SEED={seed} cargo test --test cluster linearizable -- --nocapture\n{}",
        file.display(),
        wrong.join("\n")
    );
}

fn folder(harness: &Harness) -> std::path::PathBuf {
    harness.cluster.data_dir(1).parent().expect("a folder").to_path_buf()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_writes_are_linearizable_while_leaders_are_killed_paused_and_replaced() {
    let receiver = Receiver::start().await;
    let mut harness = Harness::start("").await;
    let seed = number("SEED").unwrap_or_else(|| Clock::system().random() >> 1);
    println!("seed {seed}");
    let operations = history(&mut harness, seed, &receiver.url("/ok")).await;
    let wrong = violations(&operations, false);
    if !wrong.is_empty() {
        fail(&operations, &folder(&harness), seed, &wrong);
    }
}

/// Applies a definition that nobody else changes.
async fn apply(harness: &Harness, recorder: &Recorder, value: u64, did: Applied) {
    let called = recorder.moment();
    let target = "{http: {url: \"http://127.0.0.1:9/\"}}";
    let applied = harness.apply(&format!("name: a\ndescription: '{value}'\ntarget: {target}\n")).await;
    let steps = vec![Step::Apply { value, told: Some((did, applied[0].version)) }];
    let (job, returned) = ("a".to_owned(), Some(recorder.moment()));
    recorder.add(Operation { job, client: 0, node: 0, stale: false, called, returned, steps });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_read_of_a_node_that_was_away_is_found_if_it_is_taken_for_a_linearizable_one() {
    let mut harness = Harness::start("").await;
    let recorder = Recorder::default();
    apply(&harness, &recorder, 1, Applied::Created).await;
    let away = harness.followers().await[0];
    harness.caught_up(away).await;
    harness.cluster.kill(away).await.expect("it ran");
    apply(&harness, &recorder, 2, Applied::Updated).await;
    let leader = harness.leader().await;
    look(&of_node(&harness, leader), &recorder, ("a", leader), false).await;
    // Nobody is left who could tell it what it missed.
    for node in harness.cluster.nodes().filter(|node| *node != away) {
        harness.cluster.kill(node).await.expect("it ran");
    }
    harness.cluster.start(away).expect("it starts");
    look(&of_node(&harness, away), &recorder, ("a", away), true).await;
    let operations = recorder.operations();
    assert_eq!(operations.len(), 4, "{operations:?}");
    assert_eq!(violations(&operations, false), Vec::<String>::new(), "{operations:?}");
    assert_eq!(violations(&operations, true).len(), 1, "{operations:?}");
}
