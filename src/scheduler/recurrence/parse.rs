//! From properties to a rule: what RFC 5545 allows, and what a rule takes from its `DTSTART`.

use super::text::{Moment, Piece, Property, moment, properties, unfolded};
use super::{COUNT_MAX, Counted, DATES_MAX, Freq, NUMBERS_MAX, Recurrence, RecurrenceError, Rule};
use crate::scheduler::times::{Day, Times};
use crate::scheduler::walls::{DAY_SECONDS, Walls as _};
use crate::scheduler::zone::{Zone, Zones};

const FREQUENCIES: [&str; 7] = ["SECONDLY", "MINUTELY", "HOURLY", "DAILY", "WEEKLY", "MONTHLY", "YEARLY"];
const WEEKDAYS: [&str; 7] = ["SU", "MO", "TU", "WE", "TH", "FR", "SA"];
const WEEKDAY: &str = "SU, MO, TU, WE, TH, FR or SA";
/// The parts of `RRULE`.
const PARTS: [&str; 14] = [
    "FREQ",
    "INTERVAL",
    "COUNT",
    "UNTIL",
    "WKST",
    "BYSECOND",
    "BYMINUTE",
    "BYHOUR",
    "BYDAY",
    "BYMONTHDAY",
    "BYYEARDAY",
    "BYWEEKNO",
    "BYMONTH",
    "BYSETPOS",
];
const PART: &str = "FREQ, INTERVAL, COUNT, UNTIL, WKST, BYSECOND, BYMINUTE, BYHOUR, BYDAY, BYMONTHDAY, \
                    BYYEARDAY, BYWEEKNO, BYMONTH or BYSETPOS";
/// The year 10000, behind which nothing is due.
const WALL_MAX: i64 = 253_402_300_800;
/// Largest `INTERVAL`: 100 years of seconds need more, but no rule does.
const INTERVAL_MAX: i64 = 1_000_000;

/// `RRULE`, part by part, as it is written.
#[derive(Default)]
struct Parts {
    /// Which parts there are, and where.
    given: Vec<(&'static str, usize)>,
    freq: Option<Freq>,
    interval: i64,
    count: Option<u32>,
    until: Option<Moment>,
    week_start: u32,
    seconds: u64,
    minutes: u64,
    hours: u64,
    months: u64,
    month_days: Counted,
    year_days: Counted,
    weeks: Counted,
    weekdays: u8,
    nth_weekdays: Vec<(i32, u32)>,
    positions: Vec<i32>,
}

impl Recurrence {
    /// Reads a rule; see [`super`] for the language. `timezone` is the schedule's; the zone that the rule is to
    /// be read in is the one of `TZID`, where there is one.
    ///
    /// # Errors
    /// [`RecurrenceError`], which names the part and the place; [`RecurrenceError::NeverFires`] for a rule
    /// that is well formed but matches nothing.
    pub fn parse(text: &str, timezone: &Zone, zones: &Zones) -> Result<(Self, Zone), RecurrenceError> {
        let text = unfolded(text)?;
        let properties = properties(&text)?;
        let zone = zone_of(&properties, timezone, zones)?;
        let (mut start, mut rule) = (None, None);
        let (mut added, mut left_out, mut days_left_out) = (Vec::new(), Vec::new(), Vec::new());
        for property in &properties {
            let once = |is_new: bool| {
                let twice = RecurrenceError::Twice { at: property.at, part: property.name };
                if is_new { Ok(()) } else { Err(twice) }
            };
            match property.name {
                "DTSTART" => {
                    once(start.is_none())?;
                    start = Some(local(moment(property.value, "DTSTART")?, "DTSTART", &zone)?.wall);
                }
                "RRULE" => {
                    once(rule.is_none())?;
                    rule = Some(Parts::read(property.value)?);
                }
                "RDATE" => added.extend(dates(property, &zone, added.len())?.iter().map(|date| date.wall)),
                _ => {
                    let before = left_out.len() + days_left_out.len();
                    let dates = dates(property, &zone, before)?;
                    let (days, moments): (Vec<Moment>, Vec<Moment>) =
                        dates.into_iter().partition(|date| date.is_date);
                    left_out.extend(moments.iter().map(|moment| moment.wall));
                    days_left_out.extend(days.iter().map(|day| day.wall.div_euclid(DAY_SECONDS)));
                }
            }
        }
        if rule.is_none() && added.is_empty() {
            return Err(RecurrenceError::Missing { part: "RRULE" });
        }
        let rule = rule.map(|parts| parts.rule(start, &zone)).transpose()?;
        for list in [&mut added, &mut left_out, &mut days_left_out] {
            list.sort_unstable();
            list.dedup();
        }
        let read = Self {
            rule,
            added: added.into(),
            left_out: left_out.into(),
            days_left_out: days_left_out.into(),
        };
        match read.next_wall(read.first_wall()) {
            Some(_) => Ok((read, zone)),
            None => Err(RecurrenceError::NeverFires),
        }
    }

    /// No match is earlier.
    pub(in crate::scheduler) fn first_wall(&self) -> i64 {
        let added = self.added.first().copied();
        self.rule.as_ref().map_or(i64::MAX, |rule| rule.start).min(added.unwrap_or(i64::MAX))
    }
}

/// Whether a zone is UTC under any name.
fn is_utc(zone: &Zone) -> bool {
    zone.is_fixed() && zone.segment(0).offset == 0
}

/// The zone that the properties name, or the schedule's.
fn zone_of(properties: &[Property<'_>], timezone: &Zone, zones: &Zones) -> Result<Zone, RecurrenceError> {
    let mut zone = timezone.clone();
    for (part, piece) in properties.iter().filter_map(|property| Some((property.name, property.zone?))) {
        let named = zones.zone(piece.text)?;
        // the first to be named stands for the default
        if is_utc(&zone) {
            zone = named;
        } else if named != zone {
            let (tzid, timezone) = (named.name().to_owned(), zone.name().to_owned());
            return Err(RecurrenceError::OtherZone { part, tzid, timezone });
        }
    }
    Ok(zone)
}

/// A moment in UTC is a wall time where the zone is UTC alone.
fn local(moment: Moment, part: &'static str, zone: &Zone) -> Result<Moment, RecurrenceError> {
    if moment.is_utc && !is_utc(zone) {
        return Err(RecurrenceError::StartInUtc { part, timezone: zone.name().to_owned() });
    }
    Ok(moment)
}

fn dates(property: &Property<'_>, zone: &Zone, before: usize) -> Result<Vec<Moment>, RecurrenceError> {
    let mut dates = Vec::new();
    for piece in property.value.split(',') {
        if before + dates.len() == DATES_MAX {
            return Err(RecurrenceError::TooMany { at: piece.at, part: property.name, most: DATES_MAX });
        }
        dates.push(local(moment(piece, property.name)?, property.name, zone)?);
    }
    Ok(dates)
}

/// A number of digits, with a sign where `is_signed`.
fn number(piece: Piece<'_>, is_signed: bool) -> Option<i64> {
    let digits = if is_signed { piece.text.trim_start_matches(['+', '-']) } else { piece.text };
    let has_one_sign = piece.text.len() - digits.len() <= 1;
    let is_number =
        !digits.is_empty() && digits.len() <= 9 && digits.bytes().all(|byte| byte.is_ascii_digit());
    piece.text.trim_start_matches('+').parse().ok().filter(|_| is_number && has_one_sign)
}

/// The numbers of a list.
fn numbers<'t>(
    list: Piece<'t>,
    part: &'static str,
    (most, expected): (i64, &'static str),
    mut take: impl FnMut(i64),
) -> Result<(), RecurrenceError> {
    // what counts from the end has a sign, and no zeroth
    let is_counted = matches!(part, "BYMONTHDAY" | "BYYEARDAY" | "BYWEEKNO" | "BYSETPOS");
    let least = i64::from(is_counted || part == "BYMONTH");
    for (place, piece) in list.split(',').enumerate() {
        if place == NUMBERS_MAX {
            return Err(RecurrenceError::TooMany { at: piece.at, part, most: NUMBERS_MAX });
        }
        match number(piece, is_counted) {
            Some(number) if (least..=most).contains(&if is_counted { number.abs() } else { number }) => {
                take(number)
            }
            Some(_) | None => return Err(piece.unexpected(part, expected)),
        }
    }
    Ok(())
}

impl Parts {
    fn read(value: Piece<'_>) -> Result<Self, RecurrenceError> {
        let mut parts = Self { interval: 1, week_start: 1, ..Self::default() };
        for piece in value.split(';').filter(|piece| !piece.text.is_empty()) {
            let Some((key, value)) = piece.split_once('=') else {
                return Err(piece.unexpected("RRULE", "`PART=VALUE`, such as `FREQ=DAILY`"));
            };
            let name = key.one_of(&PARTS, "RRULE", PART)?;
            if parts.has(name) {
                return Err(RecurrenceError::Twice { at: key.at, part: name });
            }
            parts.given.push((name, key.at));
            parts.take(name, value)?;
        }
        parts.check()?;
        Ok(parts)
    }

    fn has(&self, name: &str) -> bool {
        self.given.iter().any(|(given, _)| *given == name)
    }

    fn has_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.has(name))
    }

    fn take(&mut self, name: &'static str, value: Piece<'_>) -> Result<(), RecurrenceError> {
        let bit = |mask: &mut u64, number: i64| *mask |= 1 << number;
        match name {
            "FREQ" => {
                let word = value.one_of(
                    &FREQUENCIES,
                    name,
                    "SECONDLY, MINUTELY, HOURLY, DAILY, WEEKLY, MONTHLY or YEARLY",
                )?;
                self.freq = Some(frequency(word));
            }
            "INTERVAL" => {
                let found = number(value, false).filter(|found| (1..=INTERVAL_MAX).contains(found));
                self.interval = found.ok_or_else(|| value.unexpected(name, "a number from 1 to 1000000"))?;
            }
            "COUNT" => {
                let found = number(value, false).and_then(|found| u32::try_from(found).ok());
                let found = found.filter(|found| (1..=COUNT_MAX).contains(found));
                self.count = Some(found.ok_or_else(|| value.unexpected(name, "a number from 1 to 10000"))?);
            }
            "UNTIL" => self.until = Some(moment(value, name)?),
            "WKST" => self.week_start = weekday(value.one_of(&WEEKDAYS, name, WEEKDAY)?),
            "BYDAY" => self.by_day(value)?,
            "BYSECOND" => numbers(value, name, (59, "numbers from 0 to 59"), |n| bit(&mut self.seconds, n))?,
            "BYMINUTE" => numbers(value, name, (59, "numbers from 0 to 59"), |n| bit(&mut self.minutes, n))?,
            "BYHOUR" => numbers(value, name, (23, "numbers from 0 to 23"), |n| bit(&mut self.hours, n))?,
            "BYMONTH" => numbers(value, name, (12, "numbers from 1 to 12"), |n| bit(&mut self.months, n))?,
            "BYMONTHDAY" => {
                numbers(value, name, (31, "numbers from 1 to 31 or -31 to -1"), |n| {
                    self.month_days.add(n as i32)
                })?;
            }
            "BYYEARDAY" => {
                numbers(value, name, (366, "numbers from 1 to 366 or -366 to -1"), |n| {
                    self.year_days.add(n as i32)
                })?;
            }
            "BYWEEKNO" => {
                numbers(value, name, (53, "numbers from 1 to 53 or -53 to -1"), |n| {
                    self.weeks.add(n as i32)
                })?;
            }
            _ => numbers(value, name, (366, "numbers from 1 to 366 or -366 to -1"), |n| {
                self.positions.push(n as i32)
            })?,
        }
        Ok(())
    }

    fn by_day(&mut self, list: Piece<'_>) -> Result<(), RecurrenceError> {
        for (place, piece) in list.split(',').enumerate() {
            if place == NUMBERS_MAX {
                return Err(RecurrenceError::TooMany { at: piece.at, part: "BYDAY", most: NUMBERS_MAX });
            }
            let expected = "weekdays such as MO, 2TU or -1FR";
            let unexpected = || piece.unexpected("BYDAY", expected);
            let split = piece.text.len().checked_sub(2).filter(|split| piece.text.is_char_boundary(*split));
            let (count, day) = piece.text.split_at(split.ok_or_else(unexpected)?);
            let day = Piece { at: piece.at + count.len(), text: day };
            let day = weekday(day.one_of(&WEEKDAYS, "BYDAY", WEEKDAY)?);
            if count.is_empty() {
                self.weekdays |= 1 << day;
                continue;
            }
            let count = number(Piece { at: piece.at, text: count }, true);
            let count = count.filter(|count| (1..=53).contains(&count.abs())).ok_or_else(unexpected)?;
            self.nth_weekdays.push((count as i32, day));
        }
        Ok(())
    }

    /// What RFC 5545, section 3.3.10, forbids.
    fn check(&self) -> Result<(), RecurrenceError> {
        let Some(freq) = self.freq else { return Err(RecurrenceError::Missing { part: "FREQ" }) };
        let counts_days = !self.nth_weekdays.is_empty();
        let conflicts = [
            ("COUNT", "UNTIL", self.has("COUNT") && self.has("UNTIL")),
            ("BYWEEKNO", "any FREQ but YEARLY", freq != Freq::Yearly),
            (
                "BYYEARDAY",
                "FREQ=DAILY, WEEKLY or MONTHLY",
                matches!(freq, Freq::Daily | Freq::Weekly | Freq::Monthly),
            ),
            ("BYMONTHDAY", "FREQ=WEEKLY", freq == Freq::Weekly),
            (
                "BYDAY",
                "a number before the weekday and FREQ below MONTHLY",
                counts_days && freq < Freq::Monthly,
            ),
            ("BYDAY", "a number before the weekday and BYWEEKNO", counts_days && self.has("BYWEEKNO")),
        ];
        for (part, with, is_conflict) in conflicts {
            if let Some((_, at)) = self.given.iter().find(|(given, _)| *given == part && is_conflict) {
                return Err(RecurrenceError::Conflict { at: *at, part, with });
            }
        }
        let has_list = self.given.iter().any(|(given, _)| given.starts_with("BY") && *given != "BYSETPOS");
        if let Some((part, at)) = self.given.iter().find(|(given, _)| *given == "BYSETPOS" && !has_list) {
            return Err(RecurrenceError::Conflict {
                at: *at, part, with: "a rule without another BY… part"
            });
        }
        Ok(())
    }

    /// The rule, with what it takes from its start; `start` is the wall time of `DTSTART`.
    fn rule(mut self, start: Option<i64>, zone: &Zone) -> Result<Rule, RecurrenceError> {
        let freq = self.freq.unwrap_or(Freq::Daily);
        let needed = self.days_from_start(freq, start.unwrap_or(0));
        let needed = needed.or((self.interval > 1).then_some("INTERVAL")).or(self.count.map(|_| "COUNT"));
        if let (None, Some(part)) = (start, needed) {
            return Err(RecurrenceError::NeedsStart { part });
        }
        let start = start.unwrap_or(0);
        let last =
            self.until.map(|until| if until.is_utc { last_wall(until.wall, zone) } else { until.wall });
        let has_months = self.has("BYMONTH");
        let mut rule = Rule {
            freq,
            interval: self.interval,
            start,
            last,
            week_start: self.week_start,
            // bits 1 to 12
            months: self.months as u16,
            month_days: self.month_days,
            year_days: (!self.year_days.is_empty()).then(|| Box::new(self.year_days)),
            weeks: self.weeks,
            weekdays: self.weekdays,
            nth_weekdays: self.nth_weekdays.into(),
            nth_in_month: freq == Freq::Monthly || has_months,
            times: times(freq, start, (self.seconds, self.minutes, self.hours)),
            positions: self.positions.into(),
        };
        if !rule.meets() {
            return Err(RecurrenceError::NeverFires);
        }
        if let Some(count) = self.count {
            let walls = std::iter::successors(rule.next(start), |wall| rule.next(wall + 1));
            let walls = walls.take_while(|wall| *wall < WALL_MAX);
            rule.last = walls.take(count as usize).last();
        }
        Ok(rule)
    }

    /// Fills in the day that `DTSTART` tells where no part does, and names what needs it.
    fn days_from_start(&mut self, freq: Freq, start: i64) -> Option<&'static str> {
        if self.has_any(&["BYDAY", "BYMONTHDAY", "BYYEARDAY", "BYWEEKNO"]) {
            return None;
        }
        let day = Day::of(start.div_euclid(DAY_SECONDS));
        match freq {
            Freq::Yearly => {
                self.month_days.add(day.day as i32);
                if self.months == 0 {
                    self.months = 1 << day.month;
                }
                Some("the day of the year")
            }
            Freq::Monthly => {
                self.month_days.add(day.day as i32);
                Some("the day of the month")
            }
            Freq::Weekly => {
                self.weekdays = 1 << day.weekday;
                Some("the day of the week")
            }
            Freq::Daily | Freq::Hourly | Freq::Minutely | Freq::Secondly => None,
        }
    }
}

/// The times of a rule; what is shorter than its period comes from the start, what is longer does not restrict.
fn times(freq: Freq, start: i64, (seconds, minutes, hours): (u64, u64, u64)) -> Times {
    let of_day = start.rem_euclid(DAY_SECONDS) as u32;
    let given_or = |given: u64, is_within: bool, own: u32, size: u32| match (given, is_within) {
        (0, true) => 1 << own,
        (0, false) => (1 << size) - 1,
        (given, _) => given,
    };
    Times {
        seconds: given_or(seconds, freq > Freq::Secondly, of_day % 60, 60),
        minutes: given_or(minutes, freq > Freq::Minutely, of_day / 60 % 60, 60),
        // 24 bits
        hours: given_or(hours, freq > Freq::Hourly, of_day / 3_600, 24) as u32,
    }
}

/// The latest wall time that an instant or an earlier one of its segment has.
fn last_wall(until: i64, zone: &Zone) -> i64 {
    let segment = zone.segment(until);
    let wall = until + segment.offset;
    // on the second pass of a fold the whole first pass is over
    segment.folded_until().map_or(wall, |folded_until| wall.max(folded_until - 1))
}

fn frequency(word: &str) -> Freq {
    match word {
        "SECONDLY" => Freq::Secondly,
        "MINUTELY" => Freq::Minutely,
        "HOURLY" => Freq::Hourly,
        "DAILY" => Freq::Daily,
        "WEEKLY" => Freq::Weekly,
        "MONTHLY" => Freq::Monthly,
        _ => Freq::Yearly,
    }
}

/// 0 is Sunday.
fn weekday(word: &str) -> u32 {
    // seven of them
    WEEKDAYS.iter().position(|known| *known == word).unwrap_or(0) as u32
}
