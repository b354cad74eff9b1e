//! Feature levels: what may be written into the log while nodes of different releases share it.
//!
//! # Words
//! A *feature level* is a number that says what entries, records and snapshots may hold. A release *speaks* the levels
//! from one to another ([`SPOKEN`]). The cluster's level is part of the replicated state ([`super::State::level`]) and
//! only ever rises: a leader proposes [`Command::RaiseLevel`] once all members have told it, in its time, that they
//! speak the next one (`raft::levels`).
//!
//! # What follows
//! What came with a level *needs* it ([`Command::need`]), and is not proposed below it, by nobody: the one door to the
//! log refuses it (`Raft::submit`). So as long as a member speaks less, no entry is written that it could not read, or
//! would apply differently. A new field that says nothing needs no level, for then it is not written
//! ([`super::pack`]); the state has to give it a default under which it acts as before.
//!
//! A release that speaks less than the cluster's level takes no part in it ([`Levels::check`]).
//!
//! # The levels
//! | level | since | brings in |
//! |---|---|---|
//! | 0 | | what a cluster begins with; builds that say nothing of levels speak this one alone |
//! | 1 | 0.1 | the data of the time zones, pinned; calendars; `grpc`, `redis`, `amqp`, `nats` and `celery` targets; `every_node`; params in texts of targets; limits of namespaces; all schedules but `cron` of the unix dialect, `every` and `at`, and of that dialect `H`, `~` and years; doubts about an attempt outlast it |

use std::fmt;
use std::sync::Arc;

use super::command::{Command, Entry};
use super::run::Report;
use super::schedule::{Dialect, Rule, Schedule};
use super::spec::{JobSpec, OnExcluded, RetryOn, Target};
use super::verdict::Verdict;

/// What a cluster begins at.
pub const FIRST: u32 = 0;

/// The levels that this release speaks. It reads what was written at the oldest of them and since.
pub const SPOKEN: Levels = Levels { oldest: FIRST, newest: 1 };

/// What is heard of a member that says nothing of levels.
pub const UNSPOKEN: Levels = Levels { oldest: FIRST, newest: FIRST };

/// All levels from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// The first.
    pub oldest: u32,
    /// The last.
    pub newest: u32,
}

/// Why a release takes no part in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// The cluster has been raised to what only later releases speak.
    #[error(
        "this cluster is at feature level {level}, this release speaks up to {newest}\n\
         hint: run the release that the other nodes run, or a later one; nothing here is changed or lost"
    )]
    TooNew {
        /// The cluster's.
        level: u32,
        /// The newest that is spoken here.
        newest: u32,
    },
    /// This release no longer speaks what the cluster is at.
    #[error(
        "this cluster is at feature level {level}, this release speaks {oldest} and above\n\
         hint: upgrade all nodes to a release between the two first; nothing here is changed or lost"
    )]
    TooOld {
        /// The cluster's.
        level: u32,
        /// The oldest that is spoken here.
        oldest: u32,
    },
}

impl Levels {
    /// Whether a release that speaks these takes part in a cluster at `level`.
    ///
    /// # Errors
    /// [`LevelError`].
    pub const fn check(self, level: u32) -> Result<(), LevelError> {
        let Self { oldest, newest } = self;
        if level > newest {
            Err(LevelError::TooNew { level, newest })
        } else if level < oldest {
            Err(LevelError::TooOld { level, oldest })
        } else {
            Ok(())
        }
    }

    /// These without those above `newest`; one remains in any case.
    #[must_use]
    pub fn up_to(self, newest: u32) -> Self {
        Self { oldest: self.oldest.min(newest), newest: self.newest.min(newest) }
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(f, "{}", self.newest),
            false => write!(f, "{} to {}", self.oldest, self.newest),
        }
    }
}

/// A level, and what needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Below it this is not proposed.
    pub level: u32,
    /// What needs it, in the words of users: a field by its path, or a command.
    pub what: &'static str,
}

impl Need {
    /// What every member of every cluster can read.
    pub const NONE: Self = Self { level: FIRST, what: "" };

    /// The higher of the two.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        if other.level > self.level { other } else { self }
    }
}

impl Entry {
    /// The highest level that a command of it needs.
    #[must_use]
    pub fn need(&self) -> Need {
        self.commands.iter().fold(Need::NONE, |need, command| need.or(command.need()))
    }
}

impl Command {
    /// The level below which it is not proposed. Every variant has its place here, and every field that came later
    /// where it says something: this match, and those of [`JobSpec::need`], are what a new one does not get past.
    #[must_use]
    pub fn need(&self) -> Need {
        match self {
            Self::PutJob { spec, next: _, request: _, reading } => spec.need().or(of_reading(*reading)),
            Self::ResumeJob { job: _, version: _, next: _, request: _, reading } => of_reading(*reading),
            Self::SetTzdata { data: _, shifts: _, expect: _, request: _ }
            | Self::Reread { generation: _, after: _, through: _, armed: _ } => {
                Need { level: 1, what: "the pinned data of the time zones" }
            }
            Self::TriggerJob { job: _, request: _, params: _, again: _, place } => match place {
                Some(_) => Need { level: 1, what: "a run for one worker" },
                None => Need::NONE,
            },
            Self::PutCalendar { spec: _, request: _ } | Self::DeleteCalendar { calendar: _, request: _ } => {
                Need { level: 1, what: "calendars" }
            }
            Self::Fire { job: _, version: _, expect: _, verdicts, next: _ } => {
                verdicts.iter().map(Verdict::need).fold(Need::NONE, Need::or)
            }
            Self::Complete { run: _, fence: _, outcome: _, report, retry_after: _ } => report.need(),
            Self::SetNamespace { namespace: _, limits: _, request: _ } => {
                Need { level: 1, what: "the limits of a namespace" }
            }
            // Only jobs that need the level rest.
            Self::Arm { job: _, version: _, since: _, next: _ } => {
                Need { level: 1, what: "`schedule.from: completion`" }
            }
            // Only jobs that need the level leave tasks.
            Self::HandOver { run: _, fence: _, connection: _, task: _, expires_at: _, queue: _ }
            | Self::StopTask { run: _, fence: _ }
            | Self::HearTask { run: _, fence: _, by: _, news: _ } => {
                Need { level: 1, what: "tasks that others end" }
            }
            Self::Spread { run: _, places: _ } => Need { level: 1, what: "`every_node`" },
            // Proposed only to members that all speak the level that it raises to.
            Self::RaiseLevel { from: _, to: _ } => Need::NONE,
            Self::Lead { node: _, term: _, silent_for: _ }
            | Self::DeleteJob { job: _, cancel_runs: _, request: _ }
            | Self::PauseJob { job: _, request: _, until: _ }
            | Self::Backfill { job: _, version: _, instants: _, request: _ }
            | Self::Disarm { job: _, version: _, expect: _, why: _ }
            | Self::Start { run: _, attempt: _, worker: _, lease_until: _ }
            | Self::Renew { worker: _, lease_until: _ }
            | Self::Lose { worker: _, expect: _, retry_after: _ }
            | Self::Retry { run: _ }
            | Self::Expire { run: _ }
            | Self::CancelRun { run: _, request: _ }
            | Self::HalfOpen { breaker: _, opened: _ }
            | Self::SetQueue { queue: _, limits: _, request: _ }
            | Self::TripBreaker { breaker: _, open_for: _, request: _ }
            | Self::ResetBreaker { breaker: _, request: _ } => Need::NONE,
        }
    }
}

/// A cluster whose data of the time zones is pinned has the level.
const fn of_reading(generation: u64) -> Need {
    match generation {
        0 => Need::NONE,
        _ => Need { level: 1, what: "the pinned data of the time zones" },
    }
}

impl JobSpec {
    /// The level that a job with this definition needs.
    #[must_use]
    pub fn need(&self) -> Need {
        let Self {
            namespace: _,
            name: _,
            description: _,
            labels: _,
            schedules,
            target,
            queue: _,
            requires: _,
            timeout: _,
            retry,
            catch_up: _,
            start_within: _,
            overlap: _,
            on_lost: _,
            on_resume: _,
            breaker: _,
            retention: _,
            params: _,
            limits: _,
            after: _,
            priority: _,
            every_node,
            on_excluded,
        } = self;
        let of_target = match target {
            Target::Http { .. } | Target::Exec { .. } | Target::Queue { .. } => Need::NONE,
            Target::Grpc { .. } => Need { level: 1, what: "`target.grpc`" },
            Target::Redis(_) => Need { level: 1, what: "`target.redis`" },
            Target::Celery(_) => Need { level: 1, what: "`target.celery`" },
            Target::Amqp(_) => Need { level: 1, what: "`target.amqp`" },
            Target::Nats(_) => Need { level: 1, what: "`target.nats`" },
        };
        // An older worker would send them as they stand there.
        let of_params = match target.has_params() {
            true => Need { level: 1, what: "a param in a text of `target`" },
            false => Need::NONE,
        };
        let of_every_node = match every_node {
            true => Need { level: 1, what: "`every_node`" },
            false => Need::NONE,
        };
        let of_calendars = match on_excluded {
            OnExcluded::Skip => Need::NONE,
            OnExcluded::NextAllowed => Need { level: 1, what: "`on_excluded`" },
        };
        let of_rules = schedules.iter().map(Schedule::need);
        let of_retries = retry.on.iter().map(|on| match on {
            RetryOn::Failed | RetryOn::Timeout | RetryOn::Lost | RetryOn::Exit(_) | RetryOn::Http(..) => {
                Need::NONE
            }
            RetryOn::Grpc(_) => Need { level: 1, what: "`retry.on: grpc`" },
        });
        of_rules.chain(of_retries).fold(of_target.or(of_params).or(of_every_node).or(of_calendars), Need::or)
    }
}

impl Verdict {
    fn need(&self) -> Need {
        let is_later = match self {
            Self::Run { from: _, scheduled_at: _, due_at: _, cause: _, stands_for: _, moved } => {
                moved.is_some()
            }
            Self::Missed { from: _, until: _, count: _ } => false,
            Self::Excluded { from: _, until: _, count: _, why: _ } => true,
        };
        if is_later { Need { level: 1, what: "calendars" } } else { Need::NONE }
    }
}

impl Schedule {
    /// The level that it needs. An older leader could not tell when it is due, and would end the job's schedule.
    #[must_use]
    pub fn need(&self) -> Need {
        let Self {
            rule,
            timezone: _,
            gap: _,
            fold: _,
            start_at: _,
            end_at: _,
            jitter: _,
            count,
            exclude,
            only,
        } = self;
        let of_calendars = match exclude.is_empty() && only.is_empty() {
            true => Need::NONE,
            false => Need { level: 1, what: "`schedule.exclude` and `schedule.only`" },
        };
        let of_rule = match rule {
            Rule::Cron { line, dialect, day_rule: _ } => match dialect {
                Dialect::Unix if !is_later_line(line) => Need::NONE,
                Dialect::Unix => Need { level: 1, what: "`H`, `~` and years in `schedule.cron`" },
                Dialect::Quartz | Dialect::Aws => Need { level: 1, what: "`schedule.dialect`" },
            },
            Rule::Every { .. } | Rule::At(_) => Need::NONE,
            Rule::AfterCompletion { .. } => Need { level: 1, what: "`schedule.from: completion`" },
            Rule::Recurrence(_) => Need { level: 1, what: "`schedule.rrule`" },
            Rule::Calendar(_) => Need { level: 1, what: "`schedule.calendar`" },
            Rule::Solar { .. } => Need { level: 1, what: "`schedule.solar`" },
        };
        match count {
            Some(_) => of_rule.or(Need { level: 1, what: "`schedule.count`" }),
            None => of_rule,
        }
        .or(of_calendars)
    }
}

/// What the first builds did not read in a line of the unix dialect: `H`, `~` and a seventh field.
fn is_later_line(line: &str) -> bool {
    let mut items = line.split([' ', '\t', ',']);
    line.contains('~')
        || items.any(|item| item.starts_with(['H', 'h']))
        || line.split_whitespace().count() > 6
}

impl Report {
    /// Itself, without what a cluster at `level` has no words for.
    #[must_use]
    pub fn at_level(self: &Arc<Self>, level: u32) -> Arc<Self> {
        if self.need().level <= level {
            return Arc::clone(self);
        }
        Arc::new(Self { grpc_status: None, ..Self::clone(self) })
    }

    fn need(&self) -> Need {
        let Self {
            exit_code: _,
            http_status: _,
            error: _,
            output: _,
            output_truncated: _,
            result: _,
            grpc_status,
        } = self;
        match grpc_status {
            Some(_) => Need { level: 1, what: "the status of a grpc call" },
            None => Need::NONE,
        }
    }
}

#[cfg(test)]
mod tests;
