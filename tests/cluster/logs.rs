//! Output, live and complete: read through every node, over the death of leaders and workers, and in amounts that must
//! not hurt anyone.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use chronarch::client::Output;
use chronarch::config::WorkerConfig;
use chronarch::node::worker::{Folder, OutputLimits, keep};
use chronarch::pb::v1::{OutputLoss, OutputState, ReadOutputRequest, RunState};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use crate::harness::{Harness, PATIENCE, eventually};
use crate::staff::{Inside, Way};

/// A stand-alone worker with a folder for output.
fn worker(harness: &Harness, data_dir: &Path, flags: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_chronarch"))
        .args(["worker", "--queue", "apart", "--allow-exec", "--data-dir"])
        .arg(data_dir)
        .arg("--endpoints")
        .arg(harness.cluster.endpoints().join(","))
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("a process")
}

fn job(name: &str, shell: &str) -> String {
    format!("name: {name}\nqueue: apart\ntimeout: 2m\ntarget: {{exec: {{shell: {shell:?}}}}}\n---\n")
}

fn request(run_id: &str, follow: bool) -> ReadOutputRequest {
    let run_id = run_id.to_owned();
    ReadOutputRequest { run_id, follow, later_attempts: follow, ..ReadOutputRequest::default() }
}

/// What was read of a run's attempts.
#[derive(Debug, Default)]
struct Read {
    data: Vec<u8>,
    losses: Vec<(OutputLoss, u64)>,
    states: Vec<OutputState>,
}

async fn all(output: &mut Output<'_>) -> Read {
    let mut read = Read::default();
    while let Some(message) = timeout(PATIENCE, output.next()).await.expect("it goes on").expect("it is read")
    {
        for piece in &message.pieces {
            read.data.extend_from_slice(&piece.data);
            if piece.loss() != OutputLoss::Unspecified {
                read.losses.push((piece.loss(), piece.dropped_bytes));
            }
        }
        if message.state() != OutputState::Unspecified {
            read.states.push(message.state());
        }
    }
    read
}

async fn output(harness: &Harness, run_id: &str, follow: bool) -> Read {
    all(&mut harness.client.read_output(request(run_id, follow))).await
}

/// `seq 1 last`, a line each.
fn lines(last: u32) -> Vec<u8> {
    (1..=last).flat_map(|line| format!("{line}\n").into_bytes()).collect()
}

/// `run logs` as a person types it, through one node.
fn command(harness: &Harness, node: u64, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chronarch"));
    command.args(["run", "logs"]).args(args).args(["--endpoints", &harness.cluster.endpoint(node)]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_shows_the_output_while_it_is_written_and_afterwards() {
    let harness = Harness::start("").await;
    let folder = tempfile::tempdir().expect("a folder");
    let _worker = worker(&harness, folder.path(), &["--exec-streams", "apart"]);
    let gate = folder.path().join("gate");
    let script = format!(
        "echo begun; echo oops >&2; while [ ! -e {} ]; do sleep 0.02; done; seq 1 2000; \
         echo '{{\"rows\": 2000}}' > $CHRONARCH_RESULT_FILE",
        gate.display()
    );
    harness.apply(&job("talk", &script)).await;
    let run = harness.trigger("talk").await;
    let mut followers = Vec::new();
    for node in harness.cluster.nodes() {
        let mut follower =
            command(&harness, node, &[&run.run_id, "-f", "--stdout"]).spawn().expect("a process");
        let mut begun = [0; 6];
        let stdout = follower.stdout.as_mut().expect("piped");
        let read = timeout(PATIENCE, stdout.read_exact(&mut begun)).await.expect("while it runs");
        read.expect("readable");
        assert_eq!(&begun, b"begun\n");
        followers.push(follower);
    }
    std::fs::write(&gate, "").expect("writable");
    for follower in followers {
        let output =
            timeout(PATIENCE, follower.wait_with_output()).await.expect("it ends").expect("waited for");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stdout, lines(2_000), "what came after the gate");
    }
    let ended = harness.ended(&run.run_id).await;
    assert_eq!((ended.state(), ended.attempts[0].result.as_str()), (RunState::Succeeded, "{\"rows\": 2000}"));
    assert!(ended.attempts[0].output_truncated, "more than the record has");
    for node in harness.cluster.nodes() {
        let output = command(&harness, node, &[&run.run_id, "--stderr"]).output().await.expect("a process");
        assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"oops\n"[..], Some(0)), "{output:?}");
        let output =
            command(&harness, node, &[&run.run_id, "--tail", "2"]).output().await.expect("a process");
        assert_eq!(output.stdout, b"1999\n2000\n", "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_follows_over_the_death_of_leaders_without_loss_or_doubling() {
    let mut harness = Harness::start("").await;
    let folder = tempfile::tempdir().expect("a folder");
    let _worker = worker(&harness, folder.path(), &[]);
    // About 20 s of lines, or until it is told to finish.
    let done = folder.path().join("done");
    let script = format!(
        "n=0; while [ ! -e {} ]; do n=$((n+1)); echo $n; sleep 0.005; done; echo last $n",
        done.display()
    );
    harness.apply(&job("count", &script)).await;
    let run = harness.trigger("count").await;
    // Of its own, for the harness is needed meanwhile.
    let endpoints: Vec<_> =
        harness.cluster.endpoints().iter().map(|at| at.parse().expect("an endpoint")).collect();
    let ids = chronarch::clock::Clock::system();
    let client = chronarch::client::Client::new(&endpoints, Duration::from_secs(20), move || ids.random_id());
    let client = client.expect("endpoints");
    let wanted = request(&run.run_id, true);
    let follower = tokio::spawn(async move { all(&mut client.read_output(wanted)).await });
    for _ in 0..2 {
        let leader = harness.leader().await;
        let before = output(&harness, &run.run_id, false).await.data.len();
        harness.cluster.kill(leader).await.expect("it ran");
        harness.leader().await;
        eventually("the output to go on at the new leader", || async {
            (output(&harness, &run.run_id, false).await.data.len() > before + 200).then_some(())
        })
        .await;
        harness.cluster.start(leader).expect("a process");
        harness.caught_up(leader).await;
    }
    std::fs::write(&done, "").expect("writable");
    let read = timeout(PATIENCE, follower).await.expect("it ends").expect("no panic");
    assert_eq!((read.losses.as_slice(), read.states.as_slice()), (&[][..], &[OutputState::Ended][..]));
    let text = String::from_utf8(read.data).expect("text");
    let (counted, last) = text.trim_end().rsplit_once('\n').expect("many lines");
    let count: u32 = last.strip_prefix("last ").and_then(|count| count.parse().ok()).expect("the last line");
    assert_eq!(counted.as_bytes(), lines(count).trim_ascii_end(), "each line once");
    assert_eq!(harness.ended(&run.run_id).await.attempts.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_of_output_hurt_nobody() {
    const WRITTEN: u64 = 100_000_000;
    let mut harness =
        Harness::start("[worker]\nallow_exec = true\noutput_bytes = 16777216\nlease = \"2s\"\n").await;
    // On every node at once: while the one that leads is killed, the others write on.
    let script = format!("seq 1 100000000 | head -c {WRITTEN}; echo; echo over");
    let flood = |name: &str| job(name, &script).replace("queue: apart\n", "on_lost: rerun\n");
    let names = ["flood-1", "flood-2", "flood-3"];
    let beat = format!(
        "name: beat\nschedule: {{every: 200ms}}\noverlap: allow\ntarget: {{exec: {{command: [\"true\"]}}}}\non_lost: rerun\n---\n{}",
        names.map(flood).concat()
    );
    harness.apply(&beat).await;
    let mut runs = Vec::new();
    for name in names {
        runs.push(harness.trigger(name).await.run_id);
    }
    for run in &runs {
        eventually("the flood to begin", || async {
            (harness.run(run).await.state() != RunState::Pending).then_some(())
        })
        .await;
    }
    let leader = harness.leader().await;
    let killed_at = Instant::now();
    harness.cluster.kill(leader).await.expect("it ran");
    harness.leader().await;
    let takeover = killed_at.elapsed();
    assert!(takeover < Duration::from_secs(5), "{takeover:?}");
    harness.cluster.start(leader).expect("a process");
    for run in &runs {
        let ended = harness.ended(run).await;
        assert_eq!(ended.state(), RunState::Succeeded, "{ended:?}");
        // Only what the killed node had is begun anew: no lease was lost because of output.
        let lost = ended.attempts.iter().filter(|attempt| attempt.output.is_empty()).count();
        assert!(ended.attempts.len() <= 2 && lost == ended.attempts.len() - 1, "{ended:?}");
        let read = output(&harness, run, false).await;
        let [(OutputLoss::Limit, dropped)] = read.losses[..] else { panic!("{:?}", read.losses) };
        assert_eq!(read.states, [OutputState::Ended]);
        assert_eq!(read.data.len() as u64 + dropped, WRITTEN + 6);
        assert!(read.data.len() < 16 << 20 && read.data.len() > 15 << 20, "{}", read.data.len());
        assert!(read.data.starts_with(b"1\n2\n3\n") && read.data.ends_with(b"\nover\n"));
    }
    harness.pause("beat").await;
    harness.quiet().await;
    let beats = harness.runs("beat").await;
    assert!(beats.iter().all(|run| run.state() == RunState::Succeeded), "{beats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_worker_is_gone_the_record_tells_the_end_and_its_next_life_tells_all() {
    let harness = Harness::start("").await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = worker(&harness, folder.path(), &[]);
    harness.apply(&job("long", "seq 1 3000")).await;
    let run = harness.trigger("long").await;
    let ended = harness.ended(&run.run_id).await;
    let read = output(&harness, &run.run_id, false).await;
    assert_eq!((read.data, read.states), (lines(3_000), vec![OutputState::Ended]));
    first.kill().await.expect("it ran");

    let gone = eventually("the worker to be missed", || async {
        let output = command(&harness, 1, &[&run.run_id]).output().await.expect("a process");
        (output.status.code() == Some(1)).then_some(output)
    })
    .await;
    let (stdout, stderr) = (String::from_utf8_lossy(&gone.stdout), String::from_utf8_lossy(&gone.stderr));
    assert_eq!(stdout, ended.attempts[0].output, "the record's end");
    assert!(stdout.ends_with("2999\n3000\n"));
    let worker_name = &ended.attempts[0].worker;
    assert!(stderr.contains(&format!("worker {worker_name}, which is not connected")), "{stderr}");

    let _second = worker(&harness, folder.path(), &[]);
    eventually("the next life to serve it", || async {
        let read = output(&harness, &run.run_id, true).await;
        (read.data == lines(3_000) && read.states == [OutputState::Ended]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_reaches_one_follower_alone_sends_its_output_through_it() {
    let harness = Harness::start("").await;
    let folder = tempfile::tempdir().expect("a folder");
    let through = harness.followers().await[0];
    let known = [harness.cluster.endpoint(through)];
    let limits = OutputLimits::from(&WorkerConfig::default());
    let clock = chronarch::clock::Clock::system();
    let kept = keep("far", Folder::Asked(folder.path().to_owned()), limits, &clock).await.expect("a folder");
    let way = Way::to(&known);
    let mut inside = Inside::keeping(kept, "far", "apart", 4, (&known, &way));
    inside.until(|status| status.carried_by == Some(through)).await;
    let done = folder.path().join("done");
    let script = format!("seq 1 3000; while [ ! -e {} ]; do sleep 0.02; done; echo over", done.display());
    harness.apply(&job("far", &script)).await;
    let run = harness.trigger("far").await;
    eventually("the output to come through", || async {
        (output(&harness, &run.run_id, false).await.data == lines(3_000)).then_some(())
    })
    .await;
    std::fs::write(&done, "").expect("writable");
    let read = output(&harness, &run.run_id, true).await;
    assert_eq!(
        (read.data, read.states),
        ([lines(3_000), b"over\n".to_vec()].concat(), vec![OutputState::Ended])
    );
    assert_eq!(inside.status.borrow().carried_by, Some(through));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_no_output_fails_neither_the_attempt_nor_the_worker() {
    let harness = Harness::start("").await;
    let folder = tempfile::tempdir().expect("a folder");
    let _worker = worker(&harness, folder.path(), &[]);
    harness.apply(&format!("{}{}", job("before", "echo fine"), job("full", "seq 1 100000"))).await;
    let before = harness.trigger("before").await;
    harness.ended(&before.run_id).await;
    // Its folder of this life becomes a file: nothing can be made in it any more, also not by root.
    let life = std::fs::read_dir(folder.path())
        .expect("readable")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.extension().is_some_and(|ending| ending == "out"))
        .expect("the folder of this life");
    std::fs::remove_dir_all(&life).expect("removable");
    std::fs::write(&life, "").expect("writable");
    let run = harness.trigger("full").await;
    let ended = harness.ended(&run.run_id).await;
    assert_eq!((ended.state(), ended.attempts.len()), (RunState::Succeeded, 1));
    let read = output(&harness, &run.run_id, false).await;
    assert_eq!(read.states, [OutputState::Forgotten], "{read:?}");
    assert!(read.data.ends_with(b"99999\n100000\n"), "the record has the end");
}
