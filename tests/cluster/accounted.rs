//! Many workers, of which many die, and leaders with them: every run is decided, and what arrived is accounted for.
//!
//! `CHRONARCH_FLEET` sets the number of workers; 12 carry out 1,000 runs, and 50 as many as 10,000 (about 3 minutes).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chronarch::clock::Clock;
use chronarch::pb::v1::{ListRunsRequest, Run, RunState};
use tokio::time::Instant;

use crate::chance::Chance;
use crate::harness::{Harness, eventually};
use crate::receiver::Receiver;
use crate::staff::Process;

/// Workers, and runs: of 1,000 and beyond, so many for each worker.
const WORKERS: u64 = 12;
const RUNS_EACH: u64 = 200;
/// Runs that are due a second, for each worker; with attempts of 200 ms about half of the slots are taken.
const RATE_EACH: u64 = 5;
/// Slots of a worker.
const SLOTS: &str = "2";
/// Between two strikes.
const STRIKES: Duration = Duration::from_millis(900);
/// A strike in so many takes the leader too.
const LEADERS: u64 = 4;

struct Fleet {
    dir: tempfile::TempDir,
    endpoints: Vec<String>,
    workers: Vec<Process>,
}

impl Fleet {
    fn start(endpoints: Vec<String>, count: u64) -> Self {
        let mut fleet = Self { dir: tempfile::tempdir().expect("a folder"), endpoints, workers: Vec::new() };
        for number in 0..count as usize {
            let worker = fleet.process(number);
            fleet.workers.push(worker);
        }
        fleet
    }

    /// One in three knows one node alone; one in three serves both queues.
    fn process(&self, number: usize) -> Process {
        let endpoints = match number % 3 {
            0 => vec![self.endpoints[(number / 3) % self.endpoints.len()].clone()],
            _ => self.endpoints.clone(),
        };
        let queues = ["red,blue", "red", "blue"][(number / 2) % 3];
        let args = ["--queue", queues, "--concurrency", SLOTS, "--drain-timeout", "10s"];
        Process::start(self.dir.path(), &format!("w{number}"), &endpoints, &args)
    }

    async fn replace(&mut self, number: usize) {
        self.workers[number].kill().await;
        self.workers[number] = self.process(number);
    }
}

fn job(number: u64, at: &str, url: &str) -> String {
    let on_lost = if number.is_multiple_of(2) { "rerun" } else { "fail" };
    let queue = if number.is_multiple_of(3) { "red" } else { "blue" };
    format!(
        "name: job-{number:05}\nqueue: {queue}\nschedule: {{at: {at}}}\ntarget: {{http: {{url: \"{url}\"}}}}\n\
         timeout: 30s\non_lost: {on_lost}\ncatch_up: {{runs: all, window: 10m, max: 10}}\n---\n"
    )
}

/// All records of the run log.
async fn records(harness: &Harness) -> BTreeMap<String, Vec<Run>> {
    let request =
        ListRunsRequest { namespace: "default".into(), page_size: 1_000, ..ListRunsRequest::default() };
    let all = chronarch::client::paging::runs(&harness.client, request, 100_000).await.expect("the run log");
    let mut by_job = BTreeMap::<String, Vec<Run>>::new();
    for run in all.runs {
        by_job.entry(run.job.clone()).or_default().push(run);
    }
    by_job
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_and_leaders_are_killed_together_and_every_run_is_accounted_for() {
    let asked =
        std::env::var("CHRONARCH_FLEET").ok().map(|count| count.parse().expect("a number of workers"));
    let count: u64 = asked.unwrap_or(WORKERS);
    let runs = if count > WORKERS { count * RUNS_EACH } else { 1_000 };
    let seed = Clock::system().random();
    println!("seed {seed}");
    let mut chance = Chance::new(seed);
    let receiver = Receiver::start().await;
    let mut harness = Harness::start("").await;
    let mut fleet = Fleet::start(harness.cluster.endpoints(), count);
    eventually("all workers to serve", || async {
        let workers = harness.workers().await;
        (workers.iter().filter(|worker| worker.node_id == 0).count() as u64 == count).then_some(())
    })
    .await;

    let (begin, rate) = (Clock::system().now().plus(Duration::from_secs(3)), count * RATE_EACH);
    let load = Duration::from_millis(runs * 1_000 / rate);
    for chunk in (0..runs).collect::<Vec<_>>().chunks(1_000) {
        let at = |number: u64| begin.plus(Duration::from_millis(number * 1_000 / rate)).to_string();
        let url = receiver.url("/slow/200");
        let files: String = chunk.iter().map(|number| job(*number, &at(*number), &url)).collect();
        harness.apply(&files).await;
    }
    eventually("the first runs", || async { (receiver.hits().len() > 20).then_some(()) }).await;
    let until = Instant::now() + load;
    let (mut killed, mut leaders) = (0, 0);
    let mut strikes = tokio::time::interval(STRIKES);
    while Instant::now() < until {
        strikes.tick().await;
        let number = chance.between(0, count - 1) as usize;
        if chance.one_in(LEADERS) {
            let leader = harness.leader().await;
            let node = harness.cluster.kill(leader);
            let (node, ()) = tokio::join!(node, fleet.replace(number));
            node.expect("it ran");
            harness.leader().await;
            harness.cluster.start(leader).expect("it starts");
            leaders += 1;
        } else {
            fleet.replace(number).await;
        }
        killed += 1;
    }
    harness.quiet().await;
    println!("{killed} workers and {leaders} leaders were killed");
    assert!(killed > 0 && receiver.hits().len() as u64 >= runs / 2);
    let (lost, repeated) = account(&harness, &receiver, runs).await;
    println!("{lost} runs were lost, {repeated} requests came again");
    for worker in &mut fleet.workers {
        worker.signal(rustix::process::Signal::TERM);
    }
    for worker in &mut fleet.workers {
        assert!(worker.ended().await.success(), "{}", worker.log());
    }
}

/// How many runs were lost as `on_lost: fail` says, and how many requests came again as `rerun` says.
async fn account(harness: &Harness, receiver: &Receiver, runs: u64) -> (u64, usize) {
    let records = records(harness).await;
    let mut hits = BTreeMap::<String, Vec<_>>::new();
    for hit in receiver.hits() {
        hits.entry(hit.job.clone()).or_default().push(hit);
    }
    let (mut lost, mut repeated) = (0, 0);
    for number in 0..runs {
        let name = format!("job-{number:05}");
        let [record] = records.get(&name).map(Vec::as_slice).unwrap_or_default() else {
            panic!("{name}: not one record: {:?}", records.get(&name));
        };
        let arrived = hits.remove(&name).unwrap_or_default();
        let fences: BTreeSet<u64> = arrived.iter().map(|hit| hit.fence).collect();
        assert_eq!(fences.len(), arrived.len(), "{name}: an attempt was carried out twice: {arrived:?}");
        let known: BTreeSet<u64> = record.attempts.iter().map(|attempt| attempt.fence).collect();
        assert!(fences.is_subset(&known), "{name}: carried out and not recorded: {arrived:?}, {record:?}");
        let is_rerun = number.is_multiple_of(2);
        match record.state() {
            RunState::Succeeded => {
                let last = record.attempts.last().expect("an attempt").fence;
                assert!(fences.contains(&last), "{name}: it never arrived: {record:?}");
            }
            RunState::Failed if !is_rerun && record.reason == "lost" => lost += 1,
            _ => panic!("{name}: {record:?}"),
        }
        if is_rerun {
            repeated += arrived.len().saturating_sub(1);
        } else {
            assert!(arrived.len() <= 1 && record.attempts.len() == 1, "{name}: at most once: {arrived:?}");
        }
    }
    assert!(hits.is_empty(), "nobody asked for {hits:?}");
    (lost, repeated)
}
