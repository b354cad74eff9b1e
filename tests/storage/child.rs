//! The process that does the work and is killed, or loses its power, or its disk.
//!
//! It is this test program itself, run with one test that does nothing unless it is told what to do.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use chronarch::storage::StorageError;
use tokio::process::Command;

use crate::folder::Folder;
use crate::shim::Shim;
use crate::work::{Before, Op, plan, runs_at, vote, vote_number};

const TASK: &str = "CHRONARCH_STORAGE_TASK";

/// What a child is to do.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// The data folder.
    pub(crate) root: PathBuf,
    /// Where it says what is done; outside of the data folder.
    pub(crate) acks: PathBuf,
    pub(crate) seed: u64,
    pub(crate) length: usize,
    pub(crate) run_log: bool,
}

impl Task {
    /// The program that carries it out, with the shim if there is one.
    pub(crate) fn command(&self, shim: Option<&Shim>) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        let text = format!(
            "{}\n{}\n{} {} {}",
            self.root.display(),
            self.acks.display(),
            self.seed,
            self.length,
            self.run_log
        );
        let said = File::options().create(true).append(true).open(self.acks.with_extension("stderr"));
        command
            .args(["child::a_child_does_what_it_is_told", "--exact", "--nocapture", "--test-threads=1"])
            .env(TASK, text)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(said.expect("the folder is writable"))
            .kill_on_drop(true);
        if let Some(shim) = shim {
            command.envs(shim.environment());
        }
        command
    }

    fn told() -> Option<Self> {
        let text = std::env::var(TASK).ok()?;
        let lines: Vec<&str> = text.lines().collect();
        let [root, acks, rest] = lines[..] else { panic!("a task of three lines: {text}") };
        let words: Vec<&str> = rest.split(' ').collect();
        let [seed, length, run_log] = words[..] else { panic!("three words: {rest}") };
        Some(Self {
            root: root.into(),
            acks: acks.into(),
            seed: seed.parse().expect("a number"),
            length: length.parse().expect("a number"),
            run_log: run_log.parse().expect("true or false"),
        })
    }
}

/// What a child has said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// The operations of the plan, below this one, that concern the log and are durable.
    pub(crate) log: usize,
    /// The runs through this index are durable.
    pub(crate) runs: u64,
    /// The newest snapshot that is durable, by its index.
    pub(crate) snapshot: u64,
    /// It has begun to work.
    pub(crate) opened: bool,
    /// It has come to the end of its plan.
    pub(crate) closed: bool,
    /// It met an error, and ended.
    pub(crate) failed: Option<String>,
}

impl Said {
    /// What the lines say that were complete when it was read.
    pub(crate) fn read(acks: &Path) -> Self {
        Self::parse(&fs::read_to_string(acks).unwrap_or_default())
    }

    pub(crate) fn parse(text: &str) -> Self {
        let mut said = Self::default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let number = || rest.parse::<u64>().unwrap_or_else(|_| panic!("a number: {line}"));
            match word {
                "opened" => said.opened = true,
                "log" => said.log = said.log.max(number() as usize),
                "vote" => {}
                "runs" => said.runs = number(),
                "snapshot" => said.snapshot = number(),
                "closed" => said.closed = true,
                "failed" => said.failed = Some(rest.to_owned()),
                _ => panic!("what does it mean: {line}"),
            }
        }
        said
    }
}

/// Says things, each with one write.
#[derive(Clone)]
struct Voice(Arc<Mutex<File>>);

impl Voice {
    fn say(&self, line: String) {
        let mut file = self.0.lock().expect("nobody panics with it");
        file.write_all(format!("{line}\n").as_bytes()).expect("the acknowledgements are on another disk");
    }
}

/// What a folder holds when a plan begins.
async fn before(folder: &Folder) -> Result<Before, StorageError> {
    Ok(Before {
        log: folder.log().await?,
        runs: folder.run_log.as_ref().map_or(0, chronarch::history::RunLog::last_index),
        snapshot: folder.snapshot()?.0,
    })
}

/// What is in the folder now has to follow from what was there and what was said. Returns what is there.
pub(crate) async fn verify(
    root: &Path,
    before_it: &Before,
    task: &Task,
    said: &Said,
) -> Result<Before, String> {
    let folder = Folder::open(root, task.run_log).map_err(|error| format!("it does not open: {error}"))?;
    let found = before(&folder).await.map_err(|error| format!("it does not read: {error}"))?;
    let ops = plan(task.seed, before_it, task.length, task.run_log);
    if let Some(deviation) = found.log.deviation(&before_it.log, &ops, said.log) {
        return Err(deviation);
    }
    let snapshot = before_it.snapshot.map_or(0, |id| id.index).max(said.snapshot);
    if found.snapshot.map_or(0, |id| id.index) < snapshot {
        return Err(format!("snapshot {snapshot} must be there, the newest is {:?}", found.snapshot));
    }
    let runs = before_it.runs.max(said.runs);
    if task.run_log && found.runs < runs {
        return Err(format!("runs through {runs} must be there, the last index is {}", found.runs));
    }
    folder.check_runs(runs, found.runs).await?;
    folder.close().await.map_err(|error| format!("it does not close: {error}"))?;
    Ok(found)
}

async fn carry_out(task: &Task, voice: &Voice) -> Result<(), StorageError> {
    let folder = Folder::open(&task.root, task.run_log)?;
    let before = before(&folder).await?;
    let ops = plan(task.seed, &before, task.length, task.run_log);
    voice.say("opened".into());
    let mut runs = before.runs;
    for (op, done) in ops.into_iter().zip(1..) {
        match op {
            Op::Append(entries) => {
                let (voice, said) = (voice.clone(), format!("log {done}"));
                let durable = move |result: Result<(), StorageError>| {
                    if result.is_ok() {
                        voice.say(said);
                    }
                };
                folder.wal.append(entries, Box::new(durable)).await?;
            }
            Op::Vote(number) => {
                folder.wal.save_vote(vote(number)).await?;
                voice.say(format!("vote {}", vote_number(&vote(number))));
                voice.say(format!("log {done}"));
            }
            Op::Committed(index) => folder.wal.save_committed(index.to_string().into())?,
            Op::Truncate(keep) => folder.wal.truncate_after(Some(keep)).await?,
            Op::Purge(id) => folder.wal.purge_through(id).await?,
            Op::Snapshot(id) => {
                folder.take_snapshot(id)?;
                voice.say(format!("snapshot {}", id.index));
            }
            Op::Runs(index) => {
                let log = folder.run_log.as_ref().expect("the plan is made for it");
                for index in runs + 1..=index {
                    log.append(index, runs_at(index)).await?;
                }
                runs = index;
            }
            Op::RunsBarrier => {
                folder.run_log.as_ref().expect("the plan is made for it").complete(runs).await?;
                voice.say(format!("runs {runs}"));
            }
        }
    }
    folder.wal.barrier().await?;
    voice.say(format!("log {}", task.length));
    if let Some(log) = &folder.run_log {
        log.complete(runs).await?;
    }
    folder.close().await?;
    voice.say(format!("runs {runs}"));
    voice.say("closed".into());
    Ok(())
}

/// Ends as a node ends after an error of a store: without dropping anything (`storage::store`, rule 7).
#[expect(clippy::disallowed_methods, reason = "a store must not be dropped after an error")]
fn end(code: i32) -> ! {
    std::process::exit(code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_does_what_it_is_told() {
    let Some(task) = Task::told() else { return };
    let file = File::options().create(true).append(true).open(&task.acks).expect("a file for its words");
    let voice = Voice(Arc::new(Mutex::new(file)));
    let ended = carry_out(&task, &voice).await;
    match ended {
        Ok(()) => end(0),
        Err(error) => {
            voice.say(format!("failed {}", error.to_string().replace('\n', " ")));
            end(3)
        }
    }
}
