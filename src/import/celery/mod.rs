//! Periodic tasks of Celery, from each of the places where its schedulers keep them:
//!
//! - `beat_schedule` of an app, with what [`DUMP`] writes of it: the schedule as `celery beat` sees it, with the entries
//!   that the app adds when it starts, and the queue that each task is routed to;
//! - the tables of django-celery-beat, as `manage.py dumpdata django_celery_beat` writes them;
//! - the entries of RedBeat, as [`REDBEAT_DUMP`] lists them.
//!
//! A crontab is the line that it says, in the zone of the app or its own, with the days restricting each other
//! (`day_rule: and`), and of wall times those that Celery 5.7 has: one that does not exist is later by the gap, one that
//! comes twice runs once. An interval is counted from the last run there and from the epoch here;
//! where the last run is known, the phase is kept.
//!
//! # Sources
//! Celery 5.7.0: `schedules.py`, `beat.py`, `app/routes.py`; django-celery-beat 2.9.0: `models.py`, `schedulers.py`;
//! RedBeat 2.4.2: `decoder.py`, `schedulers.py`.

mod crontab;
mod django;
mod entry;
mod recurrence;
#[cfg(test)]
mod tests;
mod timing;

use self::entry::Entry;
use super::yaml::{Item, documents};
use super::{Loss, Sheet};

/// Writes the schedule of an app as it is read here; its argument is the app, as `celery -A` takes it.
pub const DUMP: &str = r#"python -c 'import sys; from celery.app.utils import find_app; from celery.beat import Scheduler
from kombu.utils.json import dumps, register_type; register_type(object, "?", repr, str)
app = find_app(sys.argv[1]); beat = Scheduler(app, lazy=True); beat.setup_schedule(); schedule = lambda s: {
"__type__": type(s).__name__, "seconds": getattr(s, "seconds", None), "args": [str(it) for it in s.__reduce__()[1]]}
route = lambda e: getattr(app.amqp.router.route(dict(e.options), e.task, e.args, e.kwargs).get("queue"), "name", None)
print(dumps({"timezone": str(app.timezone), "beat_schedule": {name: {"task": e.task, "schedule": schedule(e.schedule),
"args": e.args or [], "kwargs": e.kwargs, "options": e.options, "route": route(e)}
for name, e in beat.schedule.items()}}, indent=1))' proj.celery > beat.json"#;

/// Lists the entries of RedBeat, each with what is noted of its last run.
pub const REDBEAT_DUMP: &str = "redis-cli zrange redbeat::schedule 0 -1 | while read -r key; do \
                                redis-cli --raw hmget \"$key\" definition meta; done > redbeat.json";

/// What holds for all entries of a document.
#[derive(Default)]
struct App {
    /// Its zone, where that is known.
    timezone: Option<String>,
    /// Whether the queues that tasks are routed to are named.
    knows_routes: bool,
}

pub(super) fn read(text: &str, sheet: &mut Sheet<'_>) {
    let documents = documents(text, sheet);
    let mut rest = documents.iter().map(Item::root).peekable();
    let mut entries = Vec::new();
    while let Some(item) = rest.next() {
        if item.is_list() {
            django::read(&item, &mut entries, sheet);
        } else if item.has("beat_schedule") {
            schedule(&item, &mut entries, sheet);
        } else if item.has("task") {
            let mut entry = Entry::at(&item);
            entry.take_all(&item, sheet);
            // RedBeat keeps beside an entry what it notes of its runs.
            if let Some(meta) = rest.next_if(|item| item.has("last_run_at") && !item.has("task")) {
                entry.take_all(&meta, sheet);
            }
            entries.push((entry, App::default()));
        } else if item.has("last_run_at") {
            sheet.find(item.line, Loss::Noted, "the notes of an entry that is not there, and are left out");
        } else {
            let what = "expected a list, as `manage.py dumpdata django_celery_beat` writes it, or a mapping with \
                        `beat_schedule` or with `task`";
            sheet.find(item.line, Loss::Unread, what);
        }
    }
    let mut is_routed = true;
    for (entry, app) in entries {
        is_routed &= app.knows_routes || entry.names_a_queue();
        entry.finish(&app, sheet);
    }
    if !is_routed {
        let what = "tasks that name no queue go to `celery`; what the app's task_default_queue and task_routes say is not \
                    in the dump";
        sheet.find(1, Loss::Approximated, what);
    }
}

/// A document with `beat_schedule`, and beside it what the app says of all entries.
fn schedule(item: &Item<'_>, entries: &mut Vec<(Entry, App)>, sheet: &mut Sheet<'_>) {
    let timezone = item.get("timezone").map(str::to_owned);
    for (key, item) in item.entries(sheet) {
        match key {
            "timezone" => {
                item.text(sheet);
            }
            "beat_schedule" => {
                for (name, item) in item.entries(sheet) {
                    let mut entry = Entry::at(&item);
                    entry.name = name.to_owned();
                    entry.take_all(&item, sheet);
                    let app = App { timezone: timezone.clone(), knows_routes: item.has("route") };
                    entries.push((entry, app));
                }
            }
            _ => item.lost("unknown", sheet),
        }
    }
}
