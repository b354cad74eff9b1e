//! The tables of django-celery-beat, as `manage.py dumpdata django_celery_beat` writes them: rows of its models, where
//! a periodic task names its schedule by table and number.

use std::collections::BTreeMap;

use super::App;
use super::crontab::Fields;
use super::entry::Entry;
use super::timing::{Timing, Unit};
use crate::import::yaml::Item;
use crate::import::{Loss, Sheet};

/// How the models are called, up to their names.
const APP: &str = "django_celery_beat.";

/// A row that periodic tasks name.
#[derive(Clone)]
struct Row {
    timing: Result<Timing, String>,
    timezone: Option<String>,
}

/// Reads all rows; the schedules first, wherever they stand.
pub(super) fn read(list: &Item<'_>, entries: &mut Vec<(Entry, App)>, sheet: &mut Sheet<'_>) {
    let mut rows = BTreeMap::new();
    let mut tasks = Vec::new();
    for item in list.elements(sheet) {
        let model = item.get("model").unwrap_or_default().to_ascii_lowercase();
        let Some(fields) = item.entry("fields") else {
            sheet.find(item.line, Loss::Unread, "expected a row of a table, with `model`, `pk` and `fields`");
            continue;
        };
        let key = item.get("pk").unwrap_or_default();
        match model.strip_prefix(APP) {
            Some("periodictask") => tasks.push((item, fields)),
            // The mark of the last change.
            Some("periodictasks") => {}
            Some(kind @ ("crontabschedule" | "intervalschedule" | "clockedschedule" | "solarschedule")) => {
                let column = kind.trim_end_matches("schedule").to_owned();
                let row = schedule(&column, &fields, sheet);
                rows.insert((column, key.to_owned()), row);
            }
            _ => {
                let what = format!("a {model} is no table of django-celery-beat, and is left out");
                sheet.find(item.line, Loss::Noted, what);
            }
        }
    }
    for (item, fields) in tasks {
        let mut entry = Entry::at(&item);
        let mut timezone = None;
        for (column, item) in fields.entries(sheet) {
            match column {
                "crontab" | "interval" | "clocked" | "solar" => {
                    let key = item.text(sheet).unwrap_or_default();
                    match rows.get(&(column.to_owned(), key.to_owned())) {
                        Some(row) => {
                            timezone.clone_from(&row.timezone);
                            entry.set_timing(row.timing.clone(), item.line, sheet);
                        }
                        None => {
                            let what = format!("{}: there is no row {key} in the dump", item.path);
                            entry.set_timing(Err(what), item.line, sheet);
                        }
                    }
                }
                column => entry.take(column, &item, sheet),
            }
        }
        entries.push((entry, App { timezone, knows_routes: false }));
    }
}

/// The row of one of the four tables.
fn schedule(kind: &str, fields: &Item<'_>, sheet: &mut Sheet<'_>) -> Row {
    let mut crontab = Fields::default();
    let mut texts = BTreeMap::new();
    for (column, item) in fields.entries(sheet) {
        let text = item.text(sheet).unwrap_or_default().to_owned();
        match crontab.of(column) {
            Some(field) => *field = text,
            None => {
                texts.insert(column, text);
            }
        }
    }
    let mut text = |column: &str| texts.remove(column).unwrap_or_default();
    let mut timezone = None;
    let timing = match kind {
        "crontab" => {
            timezone = Some(text("timezone")).filter(|zone| !zone.is_empty());
            Ok(Timing::Crontab(crontab))
        }
        "interval" => {
            let (every, period) = (text("every"), text("period"));
            Unit::of(&period)
                .and_then(|unit| unit.times(&every))
                .map(|period| Timing::Interval { period, is_aligned: false })
                .ok_or_else(|| format!("expected an interval, found {every:?} of {period:?}"))
        }
        "clocked" => {
            let at = text("clocked_time");
            at.parse().map(Timing::At).map_err(|error| format!("clocked_time: {error}"))
        }
        _ => Timing::solar(&text("event"), &text("latitude"), &text("longitude")),
    };
    for column in texts.keys() {
        sheet.find(fields.line, Loss::Lost, format!("{}.{column}: unknown", fields.path));
    }
    Row { timing, timezone }
}
