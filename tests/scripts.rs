//! Golden scripts over the replicated state and the plan: a scenario a file, in `tests/scripts`.
//!
//! A script is a lab book: commands, `---`, and what happened. `UPDATE_GOLDENFILES=1 cargo test --test
//! scripts` writes what happens anew; the difference is then read by a person. Commands:
//!
//! - `worker NAME [slots=N] [queues=A/B] [kinds=exec/http] [label=K.V]`, `silence NAME`, `revive NAME`
//! - `job NAME KEY=VALUE…` creates or edits from the defaults of `lab::spec`; `edit NAME KEY=VALUE…`
//!   changes the definition that stands; `delete NAME [cancel]`, `pause`, `resume`,
//!   `namespace NAME [runs=N] [age=SPAN]`, `queue NAME [concurrency=N] [starts=N/SPAN] [waiting=N]`, `trigger NAME [id=OPERATION] [param=K.V]`, `repeat RUN`, `backfill NAME INSTANT…`, `cancel RUN`, `trip BREAKER [for=SPAN]`, `reset BREAKER`
//! - `calendar NAME KEY=VALUE…` in the words of `lab::spec::calendar`, `no-calendar NAME`
//! - `tzdata RELEASE [ZONE=OTHER]…` pins the bundled data, with other zones in the place of some; `reading=old` for `job`, `edit` and `resume`: computed before any of it was
//! - `advance SPAN` with the leader at work, `gap SPAN` with none, then `leader N [ahead=SPAN|behind=SPAN]`, by the clock of its node
//! - `report RUN ok|fail|timeout|cancelled|lost [exit=N] [http=N] [fence=N] [wait=SPAN]`
//! - `hand RUN TASK [fence=N]`: the worker has left a task with others; `report` then says how that ended; `hear RUN WHO [process=N] [retried=WHY no=N] [fence=N]`: who runs it, or that it put itself off
//! - `raw retry|expire|start|lose|fire|arm|disarm|half-open …` proposes what a leader with an old view would; `again` proposes the last entry once more
//! - `show calendars|runs|job NAME|breaker KEY|leaderships`

#[path = "lab/mod.rs"]
mod lab;

use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;

use chronarch::scheduler::backoff::backoff;
use chronarch::scheduler::zone::Zones;
use chronarch::state::breaker::Status;
use chronarch::state::namespace::NamespaceLimits;
use chronarch::state::queue::QueueLimits;
use chronarch::state::run::{AttemptOutcome, Cause, Report, RunId, TaskNews};
use chronarch::state::spec::{JobSpec, OnResume};
use chronarch::state::time::Timestamp;
use chronarch::state::tzdata::{ZoneData, ZoneFile};
use chronarch::state::{Again, Command, Due, JobRef, Request, Verdict};
use goldenscript::{Argument, Context};
use lab::names;
use lab::single::{LEASE, Single, Worker, session};
use lab::spec::{clock, instant, span};

type Told = Result<String, Box<dyn Error>>;

#[derive(Default)]
struct Script {
    lab: Single,
}

/// The arguments of a command: words, and `key=value` pairs.
struct Args {
    words: Vec<String>,
    pairs: Vec<(String, String)>,
}

impl Args {
    fn of(command: &goldenscript::Command) -> Self {
        let mut args = Self { words: Vec::new(), pairs: Vec::new() };
        for arg in &command.args {
            match arg {
                Argument::Positional(word) => args.words.push(word.clone()),
                Argument::KeyValue(key, value) => args.pairs.push((key.clone(), value.clone())),
                _ => {}
            }
        }
        args
    }

    fn word(&self, place: usize) -> Result<&str, String> {
        self.words.get(place).map(String::as_str).ok_or_else(|| format!("argument {} is missing", place + 1))
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

fn request(args: &Args) -> Request {
    Request {
        operation_id: args.get("id").unwrap_or_default().to_owned(),
        actor: args.get("by").unwrap_or_default().to_owned(),
        reason: args.get("why").unwrap_or_default().to_owned(),
    }
}

impl goldenscript::Runner for Script {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, _: &Context) -> Told {
        let args = Args::of(command);
        let mut out = String::new();
        match command.name.as_str() {
            "worker" | "silence" | "revive" => self.worker(&command.name, &args)?,
            "advance" => self.lab.advance(span(args.word(0)?)?, &mut out),
            "gap" => {
                self.lab.leader = None;
                self.lab.led_until.get_or_insert(self.lab.wall);
                self.lab.wall = self.lab.wall.plus(span(args.word(0)?)?);
            }
            "leader" => {
                for (key, sign) in [("ahead", 1), ("behind", -1)] {
                    if let Some(skew) = args.get(key) {
                        self.lab.skew_ms = sign * i64::try_from(span(skew)?.as_millis())?;
                    }
                }
                self.lab.lead(args.word(0)?.parse()?, &mut out);
            }
            "show" => return self.show(&args),
            "again" => {
                let commands = self.lab.last.clone();
                self.lab.propose(commands, &mut out);
            }
            "raw" => {
                let command = self.raw(&args)?;
                self.lab.propose(vec![command], &mut out);
            }
            "hand" | "hear" => {
                let command = self.task(&command.name, &args)?;
                self.lab.propose(vec![command], &mut out);
            }
            "report" => {
                let command = self.report(&args)?;
                self.lab.propose(vec![command], &mut out);
            }
            name => {
                let command = self.client(name, &args)?;
                self.lab.propose(vec![command], &mut out);
            }
        }
        if !matches!(command.name.as_str(), "raw" | "again" | "gap") {
            self.lab.settle(&mut out);
        }
        Ok(out)
    }

    fn end_script(&mut self) -> Result<(), Box<dyn Error>> {
        self.lab.snapshot();
        Ok(())
    }
}

impl Script {
    fn fence(&self, run: RunId, args: &Args) -> Result<u64, Box<dyn Error>> {
        match args.get("fence") {
            Some(fence) => Ok(fence.parse()?),
            None => Ok(self.lab.state.run(run).and_then(|run| run.running()).ok_or("no attempt runs")?.fence),
        }
    }

    /// What is said of a task that an attempt leaves, or has left.
    fn task(&self, verb: &str, args: &Args) -> Result<Command, Box<dyn Error>> {
        let run = self.lab.names.run(args.word(0)?)?;
        let fence = self.fence(run, args)?;
        if verb == "hand" {
            let task = args.word(1)?.into();
            let (connection, expires_at, queue) = ("main".into(), None, None);
            return Ok(Command::HandOver { run, fence, connection, task, expires_at, queue });
        }
        let count = args.get("no").unwrap_or("1").parse()?;
        let news = match args.get("retried") {
            Some(error) => TaskNews::Retried { count, error: error.into() },
            None => TaskNews::Begun { process: args.get("process").unwrap_or("0").parse()? },
        };
        Ok(Command::HearTask { run, fence, by: args.word(1)?.into(), news })
    }

    fn worker(&mut self, verb: &str, args: &Args) -> Result<(), Box<dyn Error>> {
        let name = args.word(0)?;
        if verb != "worker" {
            let worker = self.lab.workers.get_mut(name).ok_or("no such worker")?;
            worker.silent = verb == "silence";
            return Ok(());
        }
        let queues = args.get("queues").unwrap_or("default");
        let mut session = session(name, queues, args.get("kinds").unwrap_or("exec"));
        if let Some((key, value)) = args.get("label").and_then(|label| label.split_once('.')) {
            Arc::make_mut(&mut session.labels).insert(key.to_owned(), value.to_owned());
        }
        let slots = args.get("slots").unwrap_or("1").parse()?;
        self.lab.workers.insert(name.into(), Worker { session, slots, silent: false });
        Ok(())
    }

    fn named(&self, name: &str) -> Option<Arc<JobSpec>> {
        self.lab.state.job_named("default", name).map(|job| job.spec.clone())
    }

    /// The job of a label, `a` or `a.2`, as a client names it: `a`.
    fn reference(&self, label: &str) -> Result<JobRef, String> {
        let (id, name) = (self.lab.names.job(label)?, label.split('.').next().unwrap_or(label));
        Ok(JobRef { id, namespace: "default".into(), name: name.into() })
    }

    fn client(&mut self, verb: &str, args: &Args) -> Result<Command, Box<dyn Error>> {
        let word = args.word(0)?;
        let request = request(args);
        let reading = self.reading(args)?;
        Ok(match verb {
            "job" | "edit" => {
                let mut spec = lab::spec::job(word);
                if verb == "edit" {
                    spec = self.named(word).ok_or("no such job")?.as_ref().clone();
                }
                let mine = |key: &str| matches!(key, "id" | "by" | "why" | "next" | "reading");
                if verb == "edit"
                    && args
                        .pairs
                        .iter()
                        .any(|(key, _)| matches!(key.as_str(), "every" | "rest" | "at" | "cron"))
                {
                    spec.schedules.clear();
                }
                for (key, value) in args.pairs.iter().filter(|(key, _)| !mine(key)) {
                    lab::spec::set(&mut spec, key, value)?;
                }
                let next = match args.get("next") {
                    Some(text) => Some(due(text)?),
                    None => self.lab.next(&spec)?,
                };
                Command::PutJob { spec: Arc::new(spec), next, request, reading }
            }
            "delete" => {
                let cancel_runs = args.words.get(1).is_some_and(|word| word == "cancel");
                Command::DeleteJob { job: self.reference(word)?, cancel_runs, request }
            }
            "pause" => {
                let until = args.get("until").map(instant).transpose()?;
                Command::PauseJob { job: self.reference(word)?, request, until }
            }
            "resume" => {
                let id = self.lab.names.job(word)?;
                let job = self.lab.state.job(id).ok_or("no such job")?.clone();
                let next = match job.spec.on_resume {
                    OnResume::CatchUp => job.armed(),
                    OnResume::Skip => self.lab.next(&job.spec)?,
                };
                Command::ResumeJob {
                    job: self.reference(word)?,
                    version: job.version,
                    next,
                    request,
                    reading,
                }
            }
            "trigger" => {
                let params = args.get("param").and_then(lab::spec::param).into_iter().collect();
                Command::TriggerJob { job: self.reference(word)?, request, params, again: None, place: None }
            }
            "repeat" => {
                let run = self.lab.names.run(word)?;
                let ended =
                    self.lab.finished.iter().find(|ended| ended.id == run).ok_or("it has not ended")?;
                let again = Some(Again { run, chain: ended.chain.unwrap_or(run) });
                let job = self.reference(&self.lab.names.label(run.job))?;
                let (params, place) = (ended.params.clone(), ended.place.clone());
                Command::TriggerJob { job, request, params, again, place }
            }
            "queue" => {
                let number = |key: &str| args.get(key).map(str::parse).transpose();
                let mut spec = lab::spec::job("any");
                for (key, value) in args.pairs.iter().filter(|(key, _)| key == "starts") {
                    lab::spec::set(&mut spec, key, value)?;
                }
                let rate = spec.limits.and_then(|limits| limits.rate);
                let limits =
                    QueueLimits { concurrency: number("concurrency")?, rate, waiting: number("waiting")? };
                Command::SetQueue { queue: word.into(), limits, request }
            }
            "tzdata" => self.tzdata(args)?,
            "namespace" => {
                let runs = args.get("runs").map(str::parse).transpose()?;
                let age = args.get("age").map(lab::spec::span).transpose()?;
                let limits = NamespaceLimits { runs, age };
                Command::SetNamespace { namespace: word.into(), limits, request }
            }
            "calendar" => {
                let spec = Arc::new(lab::spec::calendar(word, &args.pairs)?);
                Command::PutCalendar { spec, request }
            }
            "no-calendar" => Command::DeleteCalendar { calendar: word.into(), request },
            "backfill" => {
                let id = self.lab.names.job(word)?;
                let version = self.lab.state.job(id).ok_or("no such job")?.version;
                let instants = args.words[1..].iter().map(|at| instant(at)).collect::<Result<_, _>>()?;
                Command::Backfill { job: self.reference(word)?, version, instants, request }
            }
            "cancel" => Command::CancelRun { run: self.lab.names.run(word)?, request },
            "trip" => {
                let open_for = args.get("for").map(span).transpose()?;
                Command::TripBreaker { breaker: self.lab.names.breaker(word)?, open_for, request }
            }
            "reset" => Command::ResetBreaker { breaker: self.lab.names.breaker(word)?, request },
            other => return Err(format!("unknown command {other}").into()),
        })
    }

    /// The generation that a client computes with; `reading=old` is the one before all.
    fn reading(&self, args: &Args) -> Result<u64, String> {
        match args.get("reading") {
            Some("old") => Ok(0),
            Some(other) => Err(format!("unknown reading {other}")),
            None => Ok(self.lab.state.reading().generation),
        }
    }

    /// The bundled data, with some zones in the place of others.
    fn tzdata(&self, args: &Args) -> Result<Command, Box<dyn Error>> {
        let mut data = ZoneData::clone(Zones::bundled().data());
        data.release = args.word(0)?.to_owned();
        for (name, other) in &args.pairs {
            let tzif = data.files.iter().find(|file| file.names.contains(other)).ok_or("no such zone")?;
            let file = ZoneFile { names: vec![name.clone()], tzif: tzif.tzif.clone() };
            data.files.iter_mut().for_each(|file| file.names.retain(|known| known != name));
            data.files.retain(|file| !file.names.is_empty());
            data.files.push(file);
        }
        let new = Zones::checked(Arc::new(data))?;
        let shifts = Zones::of(&self.lab.state).shifts(&new, self.lab.now());
        let expect = self.lab.state.tzdata().map(|tzdata| tzdata.hash);
        Ok(Command::SetTzdata { data: new.data().clone(), shifts, expect, request: Request::default() })
    }

    /// A report as the leader proposes it: with the wait before the next attempt.
    fn report(&self, args: &Args) -> Result<Command, Box<dyn Error>> {
        let id = self.lab.names.run(args.word(0)?)?;
        let outcome = match args.word(1)? {
            "ok" => AttemptOutcome::Succeeded,
            "fail" => AttemptOutcome::Failed,
            "timeout" => AttemptOutcome::TimedOut,
            "cancelled" => AttemptOutcome::Cancelled,
            "lost" => AttemptOutcome::Lost,
            other => return Err(format!("unknown outcome {other}").into()),
        };
        let fence = self.fence(id, args)?;
        let retry_after = match (self.lab.state.run(id), self.lab.state.job(id.job)) {
            (Some(run), Some(job)) if outcome != AttemptOutcome::Succeeded => {
                let ended = u32::try_from(run.attempts.len())? - run.reruns;
                backoff(&job.spec.retry, ended.max(1), 0)
            }
            _ => std::time::Duration::ZERO,
        };
        let report = Report {
            exit_code: args.get("exit").map(str::parse).transpose()?,
            http_status: args.get("http").map(str::parse).transpose()?,
            error: args.get("error").unwrap_or_default().to_owned(),
            ..Report::default()
        };
        Ok(Command::Complete { run: id, fence, outcome, report: Arc::new(report), retry_after })
    }

    fn raw(&self, args: &Args) -> Result<Command, Box<dyn Error>> {
        let word = args.word(1)?;
        let run = || -> Result<RunId, String> { self.lab.names.run(word) };
        let version_of = |job| self.lab.state.job(job).map_or(1, |job| job.version);
        Ok(match args.word(0)? {
            "level" => Command::RaiseLevel { from: self.lab.state.level(), to: word.parse()? },
            "retry" => Command::Retry { run: run()? },
            "expire" => Command::Expire { run: run()? },
            "start" => Command::Start {
                run: run()?,
                attempt: args.get("attempt").unwrap_or("1").parse()?,
                worker: args.get("worker").unwrap_or("w1").into(),
                lease_until: self.lab.now().plus(LEASE),
            },
            "lose" => Command::Lose {
                worker: word.into(),
                expect: args.get("expect").map(instant).transpose()?.unwrap_or(self.lab.now()),
                retry_after: std::time::Duration::from_secs(1),
            },
            "half-open" => {
                let opened = args.get("opened").unwrap_or("0").parse()?;
                Command::HalfOpen { breaker: self.lab.names.breaker(word)?, opened }
            }
            "arm" => {
                let job = self.lab.names.job(word)?;
                let since = instant(args.get("since").ok_or("since=INSTANT")?)?;
                let next = due(args.get("next").ok_or("next=INSTANT")?)?;
                Command::Arm { job, version: version_of(job), since, next }
            }
            "disarm" => {
                let job = self.lab.names.job(word)?;
                let expect = instant(args.get("expect").ok_or("expect=INSTANT")?)?;
                Command::Disarm { job, version: version_of(job), expect, why: "by hand".into() }
            }
            "fire" => {
                let job = self.lab.names.job(word)?;
                let version = args.get("version").map(str::parse).transpose()?.unwrap_or(version_of(job));
                let expect = instant(args.get("expect").ok_or("expect=INSTANT")?)?;
                let at = args.get("run").map(instant).transpose()?.unwrap_or(expect);
                let verdicts = vec![Verdict::Run {
                    from: at,
                    scheduled_at: at,
                    due_at: at,
                    cause: Cause::Schedule,
                    stands_for: 1,
                    moved: None,
                }];
                let next = args.get("next").map(due).transpose()?;
                Command::Fire { job, version, expect, verdicts, next }
            }
            other => return Err(format!("unknown command {other}").into()),
        })
    }

    fn show(&self, args: &Args) -> Told {
        let mut out = String::new();
        let (state, names) = (&self.lab.state, &self.lab.names);
        match args.word(0)? {
            "runs" => {
                for run in state.runs() {
                    writeln!(
                        out,
                        "{} {}: {}",
                        names.of_run(run.id),
                        names::state(run.state),
                        names::phase(run)
                    )?;
                }
            }
            "job" => {
                let job = state.job(names.job(args.word(1)?)?).ok_or("it is gone")?;
                let paused = if job.pause.is_some() { ", paused" } else { "" };
                let deleted = if job.deleted { ", deleted" } else { "" };
                let armed = names::due(job.armed());
                let fault = job.fault.as_ref().map_or_else(String::new, |it| format!(", faulty: {}", it.why));
                let changed = format!("version {} of {}", job.version, clock(job.updated_at));
                let previous: Vec<String> =
                    job.previous.iter().map(|(origin, _)| origin.version.to_string()).collect();
                let kept = if previous.is_empty() {
                    String::new()
                } else {
                    format!(", before it {}", previous.join(" "))
                };
                writeln!(out, "{changed}, armed {armed}{paused}{deleted}{fault}{kept}")?;
            }
            "breaker" => match state.breaker(&names.breaker(args.word(1)?)?) {
                None => writeln!(out, "closed, nothing counted")?,
                Some(breaker) => {
                    let status = match breaker.status {
                        Status::Closed => "closed".to_owned(),
                        Status::Open { until, index } => format!("open until {} since {index}", clock(until)),
                        Status::HalfOpen { running, passed, .. } => {
                            format!("half open, {running} probes run, {passed} passed")
                        }
                    };
                    let (attempts, failures) = breaker.window_counts();
                    let row = breaker.consecutive_failures;
                    writeln!(out, "{status}; {row} in a row; window {failures} of {attempts}")?;
                }
            },
            "namespaces" => {
                for (name, it) in state.namespaces() {
                    let age = it.retention.age.map_or_else(|| "any age".to_owned(), |age| format!("{age:?}"));
                    let runs = it.retention.runs.map_or_else(|| "all".to_owned(), |runs| runs.to_string());
                    let (at, actor, why) = (clock(it.origin.at), &it.origin.actor, &it.origin.reason);
                    writeln!(out, "{name} keeps {runs} of {age}, says {actor:?} at {at}: {why:?}")?;
                }
            }
            "calendars" => {
                for (name, it) in state.calendars() {
                    let (version, at) = (it.origin.version, clock(it.origin.at));
                    writeln!(out, "{name} version {version} of {at}")?;
                }
            }
            "leaderships" => {
                for it in state.leaderships() {
                    let (at, since) = (clock(it.at), clock(it.silent_since));
                    writeln!(out, "n{} term {} at {at}, silent since {since}", it.node, it.term)?;
                }
            }
            other => return Err(format!("cannot show {other}").into()),
        }
        Ok(out)
    }
}

fn due(text: &str) -> Result<Due, String> {
    let at: Timestamp = instant(text)?;
    Ok(Due { due_at: at, scheduled_at: at })
}

#[test]
fn what_happens_is_what_the_scripts_say() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut names: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder of scripts")
        .map(|entry| entry.expect("an entry of it").path())
        .filter(|path| path.is_file())
        .collect();
    names.sort();
    assert!(names.len() >= 30, "scripts are missing: {}", names.len());
    let only = std::env::var("SCRIPT").unwrap_or_default();
    let mut failed = Vec::new();
    for path in names.iter().filter(|path| path.to_string_lossy().contains(&only)) {
        let run = || goldenscript::run(&mut Script::default(), path);
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed.push(format!("{}: {error}", path.display())),
            Err(_) => failed.push(format!("{}: see above", path.display())),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
