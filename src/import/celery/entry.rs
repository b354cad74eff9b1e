//! One entry: what it says, and the job that comes of it.

use std::time::Duration;

use super::App;
use super::timing::{Timing, seconds};
use crate::api::limits;
use crate::import::yaml::{Item, json};
use crate::import::{BREAKER, Loss, Sheet, names};
use crate::pb::v1::{CatchUp, CatchUpRuns, CeleryTarget, JobSpec, Overlap, OverlapPolicy, Schedule, Target};
use crate::pb::{instant, span};
use crate::state::time::Timestamp;

/// The connection that tasks are sent through.
const BROKER: &str = "celery";
/// Celery's own name for where tasks go.
const QUEUE: &str = "celery";
/// Options of a message that beat does not need here, or that say what is so anyway.
const NEEDLESS: &[&str] = &["retry", "retry_policy", "add_to_parent", "compression_level"];

/// An entry, and what is known of its runs.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) name: String,
    line: usize,
    description: String,
    target: CeleryTarget,
    timing: Option<Timing>,
    /// Why it has none; a finding says so already.
    is_refused: bool,
    zone: Option<String>,
    route: Option<String>,
    is_disabled: bool,
    is_once: bool,
    has_run: bool,
    start_at: Option<Timestamp>,
    end_at: Option<Timestamp>,
    last_run_at: Option<Timestamp>,
    changed_at: Option<Timestamp>,
}

impl Entry {
    pub(super) fn at(item: &Item<'_>) -> Self {
        Self { line: item.line, ..Self::default() }
    }

    /// Whether the entry itself says where its messages go.
    pub(super) fn names_a_queue(&self) -> bool {
        self.is_refused || !self.target.queue.is_empty() || !self.target.exchange.is_empty()
    }

    pub(super) fn set_timing(&mut self, timing: Result<Timing, String>, line: usize, sheet: &mut Sheet<'_>) {
        match timing {
            Ok(_) if self.timing.is_some() => {
                self.is_refused = true;
                sheet.find(line, Loss::Unread, "has more than one schedule, and Celery takes one");
            }
            Ok(timing) => self.timing = Some(timing),
            Err(why) => {
                self.is_refused = true;
                sheet.find(line, Loss::Unread, why);
            }
        }
    }

    /// Takes all that a mapping says.
    pub(super) fn take_all(&mut self, item: &Item<'_>, sheet: &mut Sheet<'_>) {
        for (key, item) in item.entries(sheet) {
            match key {
                "schedule" => {
                    if let Some("rrule") = item.get("__type__") {
                        self.zone = super::recurrence::zone(&item).or_else(|| Some("UTC".to_owned()));
                    }
                    let timing = Timing::read(&item, sheet);
                    self.set_timing(timing, item.line, sheet);
                }
                "options" => {
                    for (key, item) in item.entries(sheet) {
                        self.option(key, &item, sheet);
                    }
                }
                key => self.take(key, &item, sheet),
            }
        }
    }

    /// Takes what an entry or a row says beside its schedule.
    pub(super) fn take(&mut self, key: &str, item: &Item<'_>, sheet: &mut Sheet<'_>) {
        let text = |sheet: &mut Sheet<'_>| item.text(sheet).unwrap_or_default().to_owned();
        match key {
            "name" => self.name = text(sheet),
            "task" => self.target.task = text(sheet),
            "description" => self.description = text(sheet),
            "args" => self.target.args = self.structure(item, '[', sheet),
            "kwargs" => self.target.kwargs = self.structure(item, '{', sheet),
            "route" => self.route = Some(text(sheet)),
            "enabled" => self.is_disabled = item.flag(sheet) == Some(false),
            "one_off" => self.is_once = item.flag(sheet) == Some(true),
            "start_time" => self.start_at = moment(item, sheet),
            "last_run_at" => self.last_run_at = moment(item, sheet),
            "date_changed" => self.changed_at = moment(item, sheet),
            "total_run_count" => self.has_run = item.number(sheet).is_some_and(|count| count > 0),
            // Both the end of the schedule and of its messages.
            "expires" => {
                self.end_at = moment(item, sheet);
                self.target.expires_at = self.end_at.map(instant::write);
            }
            "expire_seconds" => self.target.expires = duration(item, sheet),
            "relative" => {
                if let (Some(true), Some(Timing::Interval { is_aligned, .. })) =
                    (item.flag(sheet), &mut self.timing)
                {
                    *is_aligned = true;
                }
            }
            "queue" | "exchange" | "routing_key" | "priority" | "headers" => self.option(key, item, sheet),
            _ => item.lost("unknown", sheet),
        }
    }

    /// An option of `apply_async`.
    fn option(&mut self, key: &str, item: &Item<'_>, sheet: &mut Sheet<'_>) {
        let text = |sheet: &mut Sheet<'_>| item.text(sheet).unwrap_or_default().to_owned();
        match key {
            "queue" => self.target.queue = text(sheet),
            "exchange" => self.target.exchange = text(sheet),
            "routing_key" => self.target.routing_key = text(sheet),
            "priority" => {
                self.target.priority = item.number(sheet).and_then(|priority| u32::try_from(priority).ok());
            }
            "headers" => self.target.headers = self.structure(item, '{', sheet),
            "expires" => {
                if item.is_map() || item.get_self().is_some_and(|text| seconds(text).is_none()) {
                    self.target.expires_at = moment(item, sheet).map(instant::write);
                } else {
                    self.target.expires = duration(item, sheet);
                }
            }
            "time_limit" => self.target.time_limit = duration(item, sheet),
            "soft_time_limit" => self.target.soft_time_limit = duration(item, sheet),
            "ignore_result" => self.target.ignore_result = item.flag(sheet),
            "shadow" => self.target.shadow = text(sheet),
            "reply_to" => self.target.reply_to = text(sheet),
            "delivery_mode" => self.target.transient = matches!(item.text(sheet), Some("1" | "transient")),
            "serializer" => {
                if item.text(sheet) != Some("json") {
                    item.lost("messages are written as JSON", sheet);
                }
            }
            "countdown" | "eta" => item.lost("the task runs when its message is there", sheet),
            key if NEEDLESS.contains(&key) => {}
            _ => item.lost("there is nothing like it here", sheet),
        }
    }

    /// JSON, as such or as a text of it; `open` is how it begins. Empty where it says nothing.
    fn structure(&mut self, item: &Item<'_>, open: char, sheet: &mut Sheet<'_>) -> String {
        let text = match item.get_self() {
            Some(text) if text.trim().is_empty() => return String::new(),
            Some(text) => text.trim().to_owned(),
            None => json(item),
        };
        let expected = if open == '[' { "a list" } else { "a mapping" };
        let why = match serde_json::from_str::<serde_json::Value>(&text) {
            _ if text.contains(r#""__type__":"?""#) => {
                "holds what only Python can make when the message is sent".to_owned()
            }
            Ok(value) if text.starts_with(open) => {
                let is_empty = value.as_array().is_some_and(Vec::is_empty)
                    || value.as_object().is_some_and(serde_json::Map::is_empty);
                // As a job file is read, whatever the order and the blanks of the text.
                return if is_empty { String::new() } else { value.to_string() };
            }
            Ok(_) | Err(_) => format!("expected {expected} in JSON; beat disables such a row"),
        };
        self.is_refused = true;
        sheet.find(item.line, Loss::Unread, format!("{}: {why}", item.path));
        String::new()
    }

    /// Makes a job of it.
    pub(super) fn finish(mut self, app: &App, sheet: &mut Sheet<'_>) {
        if self.is_refused {
            return;
        }
        let Some(timing) = self.timing.take() else {
            return sheet.find(self.line, Loss::Unread, "it has no schedule");
        };
        if self.is_once && self.has_run {
            let what = format!("one_off: {:?} has run, and is left out", self.name);
            return sheet.find(self.line, Loss::Noted, what);
        }
        let mut choices = Vec::new();
        let name = names::of_text(&self.name);
        if name != self.name {
            choices.push(format!("name: {:?} there", self.name));
        }
        let schedule = timing.schedule(self.last_run_at, &mut choices);
        let schedule = schedule.and_then(|schedule| self.bounded(schedule, &timing, &mut choices));
        let mut schedule = match schedule {
            Ok(schedule) => schedule,
            Err(why) => return sheet.find(self.line, Loss::Unread, why),
        };
        self.place(&mut schedule, &timing, app, (&mut choices, sheet));
        if self.is_disabled {
            let what = "enabled: a job file cannot say it; `chronarch job pause` the job when it is applied";
            sheet.find(self.line, Loss::Lost, format!("{what}: {name}"));
        }
        let target = self.target(&mut choices, sheet);
        choices.push("catch_up: the latest, however late, as beat does when it starts".to_owned());
        choices.push("overlap: allow, for beat sends whatever runs".to_owned());
        choices.push(BREAKER.to_owned());
        let spec = JobSpec {
            name,
            description: self.description,
            schedule: vec![schedule],
            target: Some(Target { celery: Some(target), ..Target::default() }),
            catch_up: Some(CatchUp {
                runs: CatchUpRuns::Latest.into(),
                window: Some(span::write(limits::LATENESS)),
                ..CatchUp::default()
            }),
            overlap: Some(Overlap { policy: OverlapPolicy::Allow.into(), ..Overlap::default() }),
            ..JobSpec::default()
        };
        sheet.draft(self.line, spec, choices);
    }

    /// From when, until when, and how often.
    fn bounded(
        &self,
        mut schedule: Schedule,
        timing: &Timing,
        choices: &mut Vec<String>,
    ) -> Result<Schedule, String> {
        schedule.start_at = self.start_at.map(instant::write);
        schedule.end_at = self.end_at.map(instant::write);
        if self.start_at.is_some() {
            choices.push("start_at: the first occurrence from there on; beat sends one at once".to_owned());
        }
        if self.is_once && !matches!(timing, Timing::At(_)) {
            let start = self.start_at.or(self.last_run_at).or(self.changed_at);
            let start = start.ok_or("one_off: nothing says from when on its only run is the next one")?;
            schedule.start_at = Some(instant::write(start));
            schedule.count = Some(1);
            choices.push(format!("count: 1, the first occurrence after {start}"));
        }
        Ok(schedule)
    }

    /// The zone of what has wall times, and what is told of the rest.
    fn place(
        &self,
        schedule: &mut Schedule,
        timing: &Timing,
        app: &App,
        (choices, sheet): (&mut Vec<String>, &mut Sheet<'_>),
    ) {
        match timing {
            Timing::Crontab(_) => {
                let zone = app.timezone.clone().or_else(|| sheet.options.timezone.clone());
                if zone.is_none() {
                    let what = "timezone: is not in the dump; taken as UTC, --timezone says another";
                    sheet.find(self.line, Loss::Approximated, what);
                }
                schedule.timezone = zone.filter(|zone| zone != "UTC").unwrap_or_default();
                if schedule.timezone.is_empty() {
                    schedule.dst = None;
                } else if schedule.cron.split(' ').take(2).any(|field| field.starts_with('*')) {
                    choices.push(
                        "dst: in the hour that comes twice it runs in both passes, where beat pauses"
                            .to_owned(),
                    );
                }
            }
            Timing::Recurrence(_) => {
                schedule.timezone = self.zone.clone().filter(|zone| zone != "UTC").unwrap_or_default();
                if !schedule.timezone.is_empty() {
                    let what = "schedule: RedBeat keeps the offset of its rule and not the zone; wall times do not \
                                follow the summer";
                    sheet.find(self.line, Loss::Approximated, what);
                }
            }
            Timing::Interval { is_aligned: true, period } => {
                if *period >= Duration::from_secs(86_400) {
                    let what = "relative: days begin at midnight of the zone there, and at that of UTC here";
                    sheet.find(self.line, Loss::Approximated, what);
                }
            }
            Timing::Interval { is_aligned: false, .. } => {
                let from = if schedule.offset.is_some() { "its last run" } else { "the epoch" };
                let what = format!(
                    "every: counts from each run as it went there, and so falls back bit by bit; here from {from}"
                );
                sheet.find(self.line, Loss::Approximated, what);
            }
            Timing::At(_) | Timing::Solar(_) => {}
        }
    }

    /// What is sent, and where.
    fn target(&mut self, choices: &mut Vec<String>, sheet: &mut Sheet<'_>) -> CeleryTarget {
        let mut target = std::mem::take(&mut self.target);
        BROKER.clone_into(&mut target.broker);
        choices.push(format!("broker: the connection {BROKER} in the workers' configuration"));
        // An exchange alone does not count: kombu's queues are of direct exchanges unless an app says otherwise.
        if !target.exchange.is_empty() && target.routing_key.is_empty() {
            target.exchange.clear();
            choices.push(
                "exchange: left out, for Celery sends to the queue where no routing_key is given".to_owned(),
            );
        }
        if target.exchange.is_empty() {
            if !target.routing_key.is_empty() {
                target.routing_key.clear();
                let what = "routing_key: without an exchange it is left out: the message goes to the queue";
                sheet.find(self.line, Loss::Approximated, what);
            }
            if target.queue.is_empty() {
                target.queue = self.route.take().filter(|queue| queue != QUEUE).unwrap_or_default();
            }
        } else {
            target.queue.clear();
        }
        if target.expires.is_some() {
            target.expires_at = None;
        } else if target.expires_at.is_none() {
            target.expires = Some(span::write(Duration::ZERO));
            choices.push("expires: never, as beat has it".to_owned());
        }
        target
    }
}

/// An instant: a text, or one of the two forms of a `datetime` in JSON.
fn moment(item: &Item<'_>, sheet: &mut Sheet<'_>) -> Option<Timestamp> {
    let text = if item.is_map() {
        let part = |name: &str| item.get(name).and_then(|part| part.parse::<u32>().ok());
        match (item.get("__value__"), part("year"), part("month"), part("day")) {
            (Some(text), ..) => text.to_owned(),
            (None, Some(year), Some(month), Some(day)) => {
                let [hour, minute, second] = ["hour", "minute", "second"].map(|name| part(name).unwrap_or(0));
                let is_utc = matches!(item.get("timezone"), None | Some("UTC" | "0" | "0.0"));
                let end = if is_utc { "Z" } else { "" };
                format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{end}")
            }
            _ => String::new(),
        }
    } else {
        item.text(sheet)?.to_owned()
    };
    text.parse()
        .inspect_err(|error| sheet.find(item.line, Loss::Unread, format!("{}: {error}", item.path)))
        .ok()
}

/// Seconds, with a fraction where there is one.
fn duration(item: &Item<'_>, sheet: &mut Sheet<'_>) -> Option<prost_types::Duration> {
    let text = item.text(sheet)?;
    let found = seconds(text);
    if found.is_none() {
        sheet.find(item.line, Loss::Unread, format!("{}: expected seconds, found {text:?}", item.path));
    }
    found.map(span::write)
}
