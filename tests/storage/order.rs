//! Nothing is acknowledged before a sync that began after it was written has returned: seen from outside, at the
//! level of system calls, for the stores and for a whole node.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use crate::child::Task;
use crate::folder::{Kept, seed};
use crate::nodes::{self, Nodes, PROGRAM};
use crate::shim::Shim;
use crate::trace;
use crate::work::{Before, Op, plan, vote};

/// How many acknowledgements are looked at; each is looked for in the whole trace.
const SAMPLE: usize = 25;

#[tokio::test]
async fn the_log_is_synced_between_the_write_of_an_entry_or_a_vote_and_its_acknowledgement() {
    let (kept, seed) = (Kept::new(), seed(5_000));
    let (root, acks, noted) = (kept.path().join("data"), kept.path().join("acks"), kept.path().join("trace"));
    std::fs::create_dir(&root).expect("a folder");
    let task = Task { root, acks, seed, length: 120, run_log: false };
    let shim = Shim::of(&task.root).trace(&noted).acks(&task.acks);
    assert!(task.command(Some(&shim)).status().await.expect("it starts").success(), "seed {seed}");
    let events = trace::read(&noted);

    let ops = plan(seed, &Before::default(), task.length, false);
    let said: Vec<(String, String)> = ops
        .iter()
        .zip(1..)
        .filter_map(|(op, done)| match op {
            Op::Append(entries) => {
                let id = entries.last()?.id;
                Some((format!("<entry {} {}>", id.term, id.index), format!("log {done}\n")))
            }
            Op::Vote(number) => {
                Some((String::from_utf8_lossy(&vote(*number)).into_owned(), format!("vote {number}\n")))
            }
            _ => None,
        })
        .collect();
    let (mut votes, mut entries): (Vec<_>, Vec<_>) =
        said.into_iter().partition(|(written, _)| written.starts_with("<vote"));
    let mut chance = SmallRng::seed_from_u64(seed);
    for (what, sample) in [("vote", &mut votes), ("entry", &mut entries)] {
        sample.shuffle(&mut chance);
        assert!(sample.len() > 5, "seed {seed}: {} acknowledgements of a {what}", sample.len());
        for (written, acknowledged) in sample.iter().take(SAMPLE) {
            let wrong = trace::unsynced(&events, written.as_bytes(), acknowledged.as_bytes());
            assert_eq!(wrong, None, "seed {seed}: {written}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_answers_only_when_the_entry_is_synced() {
    let kept = Kept::new();
    let (noted, program) = (kept.path().join("trace"), kept.path().join("program"));
    let shim = Shim::of(&kept.path().join("cluster")).trace(&noted).sends();
    shim.wrapper(PROGRAM.as_ref(), &program);
    let mut nodes = Nodes::prepare(&kept.path().join("cluster"), 1, &program, "");
    nodes.cluster.start(1).expect("a process");
    nodes.ready(1).await;
    let client = nodes.client(&[1]);
    let names: Vec<String> = (0..12).map(|n| format!("marker-{n}-end")).collect();
    for name in &names {
        nodes::apply(&client, vec![nodes::job(name, 10)]).await.expect("a healthy node takes it");
    }
    nodes.cluster.kill(1).await.expect("it ran");
    let events = trace::read(&noted);
    for name in &names {
        assert_eq!(trace::unsynced(&events, name.as_bytes(), name.as_bytes()), None, "{name}");
    }
}
