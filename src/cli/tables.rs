//! What people see of jobs, runs, breakers and nodes: columns, and pairs of name and value.
//!
//! Every table has its header even when it is empty, so that a script that cuts columns is not
//! surprised, and names what `-o json` calls the same.

mod control;

use comfy_table::Table;

pub(super) use self::control::{calendar, calendars, names, namespaces, queues, set_calendars, versions};

use crate::pb::v1::{
    AppliedJob, Breaker, BreakerState, Cause, Change, ClusterStatus, EveryFrom, Explanation, FieldChange,
    Job, JobState, NodeRole, Occurrence, Outcome, Pause, Run, RunState, Schedule, SolarEvent, Target,
};
use crate::pb::word::{self, Words};
use crate::pb::{instant, span};

pub(super) fn columns(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.set_header(header);
    table
}

/// An instant, without milliseconds where they are zero.
pub(super) fn at(wire: Option<&prost_types::Timestamp>) -> String {
    match wire {
        Some(wire) => instant::read(wire).to_string().replace(".000Z", "Z"),
        None => "-".to_owned(),
    }
}

pub(super) fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

pub(super) fn word<E: Words>(number: i32) -> String {
    word::of::<E>(number).map_or_else(|| number.to_string(), str::to_owned)
}

fn length(wire: Option<&prost_types::Duration>) -> String {
    wire.and_then(|wire| span::read(wire).ok()).map_or_else(|| "-".to_owned(), span::format)
}

fn schedule(schedule: &Schedule) -> String {
    let zone = if schedule.timezone.is_empty() { String::new() } else { format!(" {}", schedule.timezone) };
    if !schedule.cron.is_empty() {
        return format!("{}{zone}", schedule.cron);
    }
    if !schedule.calendar.is_empty() {
        return format!("{}{zone}", schedule.calendar);
    }
    if !schedule.rrule.is_empty() {
        let words = schedule.rrule.split_ascii_whitespace().collect::<Vec<_>>();
        return format!("{}{zone}", words.join(" "));
    }
    if let Some(solar) = &schedule.solar {
        let [latitude, longitude] = [solar.latitude, solar.longitude].map(Option::unwrap_or_default);
        return format!("{} at {latitude} {longitude}", word::<SolarEvent>(solar.event));
    }
    match (&schedule.every, schedule.at.as_slice()) {
        (Some(every), _) if schedule.from() == EveryFrom::Completion => {
            format!("{} after each run", length(Some(every)))
        }
        (Some(every), _) => format!("every {}", length(Some(every))),
        (None, []) => "-".to_owned(),
        (None, [one]) => format!("at {}", at(Some(one))),
        (None, many) => format!("at {} instants", many.len()),
    }
}

fn schedules(job: &Job) -> String {
    match job.spec.as_ref().map(|spec| spec.schedule.as_slice()) {
        None | Some([]) => match job.spec.as_ref().and_then(|spec| spec.after.as_ref()) {
            Some(after) => format!("after {}", after.jobs.join(", ")),
            None => "on trigger".to_owned(),
        },
        Some(schedules) => schedules.iter().map(schedule).collect::<Vec<_>>().join("; "),
    }
}

fn target(target: Option<&Target>) -> String {
    match target {
        Some(Target { http: Some(http), .. }) => {
            let method = if http.method.is_empty() { "GET" } else { &http.method };
            format!("http {method} {}", http.url)
        }
        Some(Target { exec: Some(exec), .. }) if exec.command.is_empty() => "exec shell".to_owned(),
        Some(Target { exec: Some(exec), .. }) => format!("exec {}", exec.command.join(" ")),
        Some(Target { queue: Some(_), .. }) => "queue".to_owned(),
        Some(Target { grpc: Some(grpc), .. }) => format!("grpc {} {}", grpc.address, grpc.method),
        Some(Target { redis: Some(redis), .. }) => {
            let to = [&redis.list, &redis.channel, &redis.stream].map(String::as_str).concat();
            format!("redis {} {to}", redis.connection)
        }
        Some(Target { celery: Some(celery), .. }) => {
            let how = if celery.template.is_empty() { "" } else { " (template)" };
            format!("celery {} {}{how}", celery.broker, celery.task)
        }
        Some(Target { amqp: Some(amqp), .. }) => {
            format!("amqp {} {} {}", amqp.connection, amqp.exchange, amqp.routing_key).replace("  ", " ")
        }
        Some(Target { nats: Some(nats), .. }) => format!("nats {} {}", nats.connection, nats.subject),
        Some(Target {
            http: None,
            exec: None,
            queue: None,
            grpc: None,
            redis: None,
            celery: None,
            amqp: None,
            nats: None,
        })
        | None => "-".to_owned(),
    }
}

fn run_state(run: &Run) -> String {
    let state = word::<RunState>(run.state);
    if run.reason.is_empty() { state } else { format!("{state} ({})", run.reason) }
}

/// Jobs, one a line.
pub(super) fn jobs(jobs: &[Job], wide: bool) -> Table {
    let mut table = if wide {
        let narrow = ["NAMESPACE", "NAME", "STATE", "SCHEDULE", "NEXT", "LAST RUN"];
        columns(&[&narrow[..], &["LAST AT", "LIVE", "BREAKER", "QUEUE", "TARGET", "VERSION"]].concat())
    } else {
        columns(&["NAMESPACE", "NAME", "STATE", "SCHEDULE", "NEXT", "LAST RUN"])
    };
    for job in jobs {
        let spec = job.spec.clone().unwrap_or_default();
        let last = job.last_run.as_ref();
        let mut row = vec![
            spec.namespace.clone(),
            spec.name.clone(),
            word::<JobState>(job.state),
            schedules(job),
            at(job.next_at.as_ref()),
            last.map_or_else(|| "-".to_owned(), run_state),
        ];
        if wide {
            let breaker = job.breaker.as_ref().map(|breaker| word::<BreakerState>(breaker.state));
            row.extend([
                at(last.and_then(|run| run.scheduled_at.as_ref())),
                job.live_runs.len().to_string(),
                breaker.unwrap_or_else(|| "-".to_owned()),
                or_dash(&spec.queue).to_owned(),
                target(spec.target.as_ref()),
                job.version.to_string(),
            ]);
        }
        table.add_row(row);
    }
    table
}

/// One job in full.
pub(super) fn job(job: &Job) -> Table {
    let spec = job.spec.clone().unwrap_or_default();
    let last = job.last_run.as_ref();
    let mut rows = vec![
        ("name", spec.name.clone()),
        ("namespace", spec.namespace.clone()),
        ("description", or_dash(&spec.description).to_owned()),
        ("state", word::<JobState>(job.state)),
        ("schedule", schedules(job)),
        ("next_at", at(job.next_at.as_ref())),
        ("next_due_at", at(job.next_due_at.as_ref())),
        ("target", target(spec.target.as_ref())),
        ("queue", or_dash(&spec.queue).to_owned()),
        ("timeout", length(spec.timeout.as_ref())),
        ("version", job.version.to_string()),
        ("created_at", at(job.created_at.as_ref())),
        ("updated_at", at(job.updated_at.as_ref())),
        ("applied by", or_dash(&job.actor).to_owned()),
        ("live_runs", or_dash(&job.live_runs.join(" ")).to_owned()),
    ];
    if !job.reason.is_empty() {
        rows.push(("applied because", job.reason.clone()));
    }
    if !job.fault.is_empty() {
        rows.extend([("fault", job.fault.clone()), ("faulty_since", at(job.faulty_since.as_ref()))]);
    }
    if let Some(pause) = &job.pause {
        let who = format!("{} by {}", at(pause.paused_at.as_ref()), or_dash(&pause.actor));
        rows.extend([("paused_at", who), ("pause reason", or_dash(&pause.reason).to_owned())]);
        rows.extend(pause.until.as_ref().map(|until| ("paused until", at(Some(until)))));
    }
    if let Some(breaker) = &job.breaker {
        rows.push(("breaker", format!("{} {}", breaker.name, word::<BreakerState>(breaker.state))));
    }
    if let Some(run) = last {
        rows.push(("last run", format!("{} {}", run.run_id, run_state(run))));
    }
    pairs(rows)
}

fn pairs(rows: Vec<(&str, String)>) -> Table {
    let mut table = Table::new();
    for (name, value) in rows {
        table.add_row([format!("{name}:"), value]);
    }
    table
}

/// What applying came to, one job a line.
pub(super) fn applied(results: &[AppliedJob]) -> Table {
    let mut table = columns(&["NAMESPACE", "NAME", "CHANGE", "VERSION", "NEXT"]);
    for result in results {
        table.add_row([
            result.namespace.clone(),
            result.name.clone(),
            word::<Change>(result.change),
            result.version.to_string(),
            at(result.next_at.as_ref()),
        ]);
    }
    table
}

/// What applying would change: a line for each job, and below it one for each field.
pub(super) fn differences(results: &[AppliedJob]) -> Vec<String> {
    let mut lines = Vec::new();
    for result in results {
        let change = word::<Change>(result.change);
        lines.push(format!("{change:<9}  {}/{}", result.namespace, result.name));
        for FieldChange { path, from, to } in &result.changes {
            lines.push(match (from.as_deref().map(shown), to.as_deref().map(shown)) {
                (Some(from), Some(to)) => format!("  ~ {path}: {from} → {to}"),
                (Some(from), None) => format!("  - {path}: {from}"),
                (None, Some(to)) => format!("  + {path}: {to}"),
                (None, None) => format!("  ~ {path}"),
            });
        }
    }
    lines
}

/// A value on one line; one that would not be read as it is stands in quotes.
fn shown(text: &str) -> String {
    let plain = !text.is_empty() && text.trim() == text && !text.chars().any(char::is_control);
    if plain { text.to_owned() } else { format!("{text:?}") }
}

/// Runs, one a line.
pub(super) fn runs(runs: &[Run], wide: bool) -> Table {
    let narrow = ["RUN ID", "JOB", "SCHEDULED", "CAUSE", "STATE", "ATTEMPTS"];
    let mut table = if wide {
        let more = ["NAMESPACE", "FIRED", "FINISHED", "STANDS FOR", "WORKER", "DETAIL"];
        columns(&[&narrow[..], &more].concat())
    } else {
        columns(&narrow)
    };
    for run in runs {
        let mut row = vec![
            run.run_id.clone(),
            run.job.clone(),
            at(run.scheduled_at.as_ref()),
            word::<Cause>(run.cause),
            run_state(run),
            run.attempts.len().to_string(),
        ];
        if wide {
            let worker = run.attempts.last().map_or("-", |attempt| or_dash(&attempt.worker));
            row.extend([
                run.namespace.clone(),
                at(run.fired_at.as_ref()),
                at(run.finished_at.as_ref()),
                run.stands_for.to_string(),
                worker.to_owned(),
                or_dash(&run.detail).to_owned(),
            ]);
        }
        table.add_row(row);
    }
    table
}

/// One run in full, without its attempts.
pub(super) fn run(run: &Run) -> Table {
    let until = run.scheduled_until.as_ref().map(|until| ("scheduled_until", at(Some(until))));
    let from = run.scheduled_from.as_ref().map(|from| ("scheduled_from", at(Some(from))));
    let retry = run.retry_at.as_ref().map(|retry| ("retry_at", at(Some(retry))));
    let mut rows = vec![
        ("run_id", run.run_id.clone()),
        ("job", format!("{}/{}", run.namespace, run.job)),
        ("state", run_state(run)),
        ("detail", or_dash(&run.detail).to_owned()),
        ("cause", word::<Cause>(run.cause)),
        ("actor", or_dash(&run.actor).to_owned()),
        ("scheduled_at", at(run.scheduled_at.as_ref())),
    ];
    rows.extend(from);
    rows.extend(until);
    rows.extend([
        ("due_at", at(run.due_at.as_ref())),
        ("fired_at", at(run.fired_at.as_ref())),
        ("finished_at", at(run.finished_at.as_ref())),
        ("stands_for", run.stands_for.to_string()),
        ("queue", or_dash(&run.queue).to_owned()),
    ]);
    rows.extend(control::origin(run));
    rows.extend(retry);
    pairs(rows)
}

/// The attempts of a run, one a line.
pub(super) fn attempts(run: &Run) -> Table {
    let mut table = columns(&["ATTEMPT", "FENCE", "WORKER", "STARTED", "FINISHED", "OUTCOME", "RESULT"]);
    for attempt in &run.attempts {
        let exit = attempt.exit_code.map(|code| format!("exit {code}"));
        let status = attempt.http_status.map(|status| format!("http {status}"));
        let error = (!attempt.error.is_empty()).then(|| attempt.error.clone());
        let result: Vec<String> = [exit, status, error].into_iter().flatten().collect();
        table.add_row([
            attempt.number.to_string(),
            attempt.fence.to_string(),
            or_dash(&attempt.worker).to_owned(),
            at(attempt.started_at.as_ref()),
            at(attempt.finished_at.as_ref()),
            word::<Outcome>(attempt.outcome),
            or_dash(&result.join(", ")).to_owned(),
        ]);
    }
    table
}

/// One change of a watched run, as a line.
pub(super) fn change(run: &Run) -> String {
    let attempt = run.attempts.last().map(|attempt| {
        let worker = or_dash(&attempt.worker);
        format!("  attempt {} on {worker}: {}", attempt.number, word::<Outcome>(attempt.outcome))
    });
    format!("{}  {}{}", run.run_id, run_state(run), attempt.unwrap_or_default())
}

/// Breakers, one a line.
pub(super) fn breakers(breakers: &[Breaker], wide: bool) -> Table {
    let narrow = ["NAMESPACE", "NAME", "STATE", "REASON", "SINCE", "OPEN UNTIL", "FAILURES"];
    let mut table = if wide {
        columns(&[&narrow[..], &["WINDOW", "PROBES", "REOPENED", "JOBS", "ACTOR"]].concat())
    } else {
        columns(&narrow)
    };
    for breaker in breakers {
        let mut row = vec![
            breaker.namespace.clone(),
            breaker.name.clone(),
            word::<BreakerState>(breaker.state),
            or_dash(&breaker.reason).to_owned(),
            at(breaker.changed_at.as_ref()),
            at(breaker.open_until.as_ref()),
            breaker.consecutive_failures.to_string(),
        ];
        if wide {
            row.extend([
                format!("{}/{}", breaker.window_failures, breaker.window_attempts),
                format!("{} passed, {} running", breaker.probes_passed, breaker.probes_running),
                breaker.reopened.to_string(),
                breaker.jobs.to_string(),
                or_dash(&breaker.actor).to_owned(),
            ]);
        }
        table.add_row(row);
    }
    table
}

/// The last changes of a breaker, newest last.
pub(super) fn transitions(breaker: &Breaker) -> Table {
    let mut table = columns(&["AT", "TO", "REASON", "ACTOR"]);
    for transition in &breaker.transitions {
        table.add_row([
            at(transition.at.as_ref()),
            word::<BreakerState>(transition.to),
            or_dash(&transition.reason).to_owned(),
            or_dash(&transition.actor).to_owned(),
        ]);
    }
    table
}

/// What is said of a schedule that has no occurrence to show.
pub(super) const NO_OCCURRENCE: &str = "the schedule has no further occurrence";

/// Since when a job is paused, by whom and why.
pub(super) fn paused(pause: &Pause) -> String {
    let by = if pause.actor.is_empty() { String::new() } else { format!(" by {}", pause.actor) };
    let why = if pause.reason.is_empty() { String::new() } else { format!(" ({})", pause.reason) };
    let until = pause.until.as_ref().map_or_else(String::new, |until| format!(" until {}", at(Some(until))));
    format!("paused{by} since {}{until}{why}", at(pause.paused_at.as_ref()))
}

/// Occurrences, one a line.
pub(super) fn occurrences(occurrences: &[Occurrence]) -> Table {
    let mut table = columns(&["AT", "LOCAL", "NOTE"]);
    for occurrence in occurrences {
        table.add_row([at(occurrence.at.as_ref()), occurrence.local.clone(), occurrence.note.clone()]);
    }
    table
}

/// An answer to "why", as lines.
pub(super) fn explanation(explanation: &Explanation) -> Vec<String> {
    let reasons = explanation.reasons.iter().map(|reason| format!("  - {reason}"));
    std::iter::once(explanation.summary.clone()).chain(reasons).collect()
}

/// The cluster as one node sees it.
pub(super) fn cluster(status: &ClusterStatus) -> Table {
    let leader = if status.leader_id == 0 { "none known".to_owned() } else { status.leader_id.to_string() };
    let level = status.feature_level.to_string();
    let level = match status.feature_level_holds.as_slice() {
        [] => level,
        holds => format!("{level}: {}", holds.join(", ")),
    };
    let tzdata = tzdata(status);
    pairs(vec![
        ("cluster", status.cluster_id.clone()),
        ("leader", leader),
        ("term", status.term.to_string()),
        ("jobs", status.jobs.to_string()),
        ("live runs", status.live_runs.to_string()),
        ("replicated time", at(status.now.as_ref())),
        ("tzdata", tzdata),
        ("version", status.version.clone()),
        ("feature level", level),
    ])
}

/// `2026f (pinned, 3f2a…); this binary ships 2027a`.
fn tzdata(status: &ClusterStatus) -> String {
    let pinned = if status.tzdata_pinned { "pinned, " } else { "" };
    let hash = status.tzdata_hash.get(..super::cluster::status::HASH_DIGITS).unwrap_or(&status.tzdata_hash);
    let ships = match status.tzdata_in_binary == status.tzdata {
        true => String::new(),
        false => format!("; the binary ships {}", status.tzdata_in_binary),
    };
    let rereading = if status.rereading { "; jobs are being read with it" } else { "" };
    format!("{} ({pinned}{hash}){ships}{rereading}", status.tzdata)
}

/// The members of the cluster, one a line, the leader marked.
pub(super) fn nodes(status: &ClusterStatus, wide: bool) -> Table {
    let narrow = ["NODE", "ROLE", "ADDRESS", "MATCHED", "SILENT"];
    let mut table = if wide {
        columns(&[&narrow[..], &["PEER ADDRESS", "VERSION", "LEVELS"]].concat())
    } else {
        columns(&narrow)
    };
    for node in &status.nodes {
        let mark = if node.node_id == status.leader_id { "*" } else { "" };
        let matched = if node.matched_index == 0 { "-".to_owned() } else { node.matched_index.to_string() };
        let mut row = vec![
            format!("{}{mark}", node.node_id),
            word::<NodeRole>(node.role),
            or_dash(&node.address).to_owned(),
            matched,
            node.silent_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms}ms")),
        ];
        if wide {
            let levels = node.feature_levels.as_ref();
            row.push(or_dash(&node.peer_address).to_owned());
            row.push(or_dash(&node.version).to_owned());
            row.push(
                levels
                    .map_or_else(|| "-".to_owned(), |levels| format!("{}-{}", levels.oldest, levels.newest)),
            );
        }
        table.add_row(row);
    }
    table
}

/// The workers that the leader knows, one a line.
pub(super) fn workers(status: &ClusterStatus) -> Table {
    let mut table = columns(&["WORKER", "QUEUES", "LABELS", "RUNNING", "SLOTS", "DRAINING"]);
    for worker in &status.workers {
        let labels: Vec<String> = worker.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        table.add_row([
            worker.worker.clone(),
            worker.queues.join(","),
            or_dash(&labels.join(",")).to_owned(),
            worker.running.to_string(),
            worker.slots.to_string(),
            if worker.draining { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table
}
