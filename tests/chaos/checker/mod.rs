//! The judge of a run: it reads what was observed ([`history`]) and names every way in which the promises were
//! broken. It shares no code with the product: due instants, breakers and attempts are worked out anew from the job
//! files and the documented rules.
//!
//! A run that saw too little is *inconclusive*, whatever else was found right. [`planted`] shows for each kind of
//! violation that it is found.

mod attempts;
mod breakers;
mod effects;
mod faults;
mod file;
mod floors;
pub(crate) mod history;
mod instants;
mod lives;
#[cfg(test)]
mod planted;
mod records;
mod replicas;
mod schedule;

use std::collections::BTreeMap;
use std::fmt;

use history::History;

/// The clocks of a client or of the target and that of a leader are read this far apart at most, on one machine.
const READ_MS: i64 = 100;

/// A way in which a promise is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// An instant was due and has no record.
    Missed,
    /// An instant has two records, or a run ended twice.
    Doubled,
    /// Decided, started or called before it was due.
    Early,
    /// Decided late though nothing disturbed the cluster.
    Late,
    /// A record that no rule explains.
    Unexplained,
    /// A change that no client asked for.
    UnexplainedChange,
    /// More runs, or older ones, than catch-up allows.
    CatchUp,
    /// More attempts beside each other than the job allows.
    Overlap,
    /// More attempts than `retry` allows.
    TooManyAttempts,
    /// Another attempt came before the wait of `retry` was over.
    RetriedTooEarly,
    /// A run failed though another attempt was to be made.
    GaveUp,
    /// Started after `start_within`.
    StartedTooLate,
    /// A fence was not greater than all before it.
    FenceDidNotGrow,
    /// The end of an attempt was accepted under a fence that did not run.
    StaleFenceAccepted,
    /// An attempt started while another one of the run ran.
    TwoAttemptsAtOnce,
    /// An attempt followed one that was lost, with `on_lost: fail`.
    AttemptAfterLoss,
    /// A call whose start is not in the log, or is later.
    EffectWithoutStart,
    /// One attempt called twice.
    DoubledEffect,
    /// A second call of a run that allows one.
    SecondEffect,
    /// A success that the target did not give.
    SuccessWithoutEffect,
    /// Two nodes tell the same entry, state or record in two ways.
    DivergedReplica,
    /// A node lacks the record of a run that has ended.
    LostRecord,
    /// The replicated time or the term went back.
    TimeWentBack,
    /// An operation was acknowledged and not done.
    LostAcknowledgement,
    /// An operation was refused and done.
    RefusedYetDone,
    /// An operation was done twice.
    DoubledOperation,
    /// A breaker did not do what its attempts made it do.
    LostBreakerTransition,
    /// A breaker did what nothing made it do.
    UnexplainedBreakerTransition,
    /// An attempt started while its breaker was open.
    CallWhileOpen,
    /// A node ended and no fault had ended it.
    NodeEnded,
    /// Something was live long after the last fault.
    NotSettled,
}

impl Kind {
    /// Whether it may come from a machine that has no time for the nodes.
    fn is_of_speed(self) -> bool {
        matches!(self, Self::Late | Self::NotSettled)
    }
}

/// Beyond this load a node waits for a processor longer than for its peers, and nothing follows from what is late:
/// a run of five nodes makes one of about 2 where nothing else runs.
const LOAD_MAX: f64 = 4.0;

/// What was found so far.
#[derive(Default)]
pub(crate) struct Findings {
    violations: Vec<(Kind, String)>,
    /// Why nothing can be concluded.
    lacking: Vec<String>,
}

impl Findings {
    fn add(&mut self, kind: Kind, what: String) {
        self.violations.push((kind, what));
    }

    fn lacks(&mut self, what: String) {
        self.lacking.push(what);
    }

    /// The verdict; of a machine that was busy with other work, nothing that is a matter of speed is a violation.
    fn verdict(mut self, load: f64, figures: BTreeMap<&'static str, u64>) -> Verdict {
        if load > LOAD_MAX {
            let count = self.violations.len();
            self.violations.retain(|(kind, _)| !kind.is_of_speed());
            if self.violations.len() < count {
                let late = count - self.violations.len();
                self.lacking
                    .push(format!("{late} times late, on a machine with a load of {load:.1} a processor"));
            }
        }
        Verdict { violations: self.violations, lacking: self.lacking, figures }
    }
}

/// The verdict on a run.
pub(crate) struct Verdict {
    pub(crate) violations: Vec<(Kind, String)>,
    pub(crate) lacking: Vec<String>,
    pub(crate) figures: BTreeMap<&'static str, u64>,
}

impl Verdict {
    pub(crate) fn is_pass(&self) -> bool {
        self.violations.is_empty() && self.lacking.is_empty()
    }

    #[cfg(test)]
    fn kinds(&self) -> std::collections::BTreeSet<Kind> {
        self.violations.iter().map(|(kind, _)| *kind).collect()
    }
}

/// Lines of one kind that a report shows.
const SHOWN: usize = 10;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match (self.violations.is_empty(), self.lacking.is_empty()) {
            (false, _) => "violation",
            (true, false) => "inconclusive",
            (true, true) => "pass",
        };
        writeln!(f, "verdict: {word}")?;
        for (figure, count) in &self.figures {
            writeln!(f, "  {figure}: {count}")?;
        }
        let mut shown: BTreeMap<Kind, usize> = BTreeMap::new();
        for (kind, what) in &self.violations {
            let count = shown.entry(*kind).or_default();
            *count += 1;
            if *count <= SHOWN {
                writeln!(f, "{kind:?}: {what}")?;
            }
        }
        for (kind, count) in shown.iter().filter(|(_, count)| **count > SHOWN) {
            writeln!(f, "{kind:?}: {count} in all")?;
        }
        for what in &self.lacking {
            writeln!(f, "lacking: {what}")?;
        }
        Ok(())
    }
}

/// Judges a run.
pub(crate) fn check(history: &History) -> Verdict {
    let mut findings = Findings::default();
    let calm = faults::Calm::of(history);
    let lives = lives::lives(history, &mut findings);
    replicas::check(history, &mut findings);
    if !history.setting.settled {
        // The nodes were asked one after the other while things went on: what they say cannot be compared.
        let what = format!("healed at {}, and something was live still", history.setting.healed_at);
        findings.add(Kind::NotSettled, what);
        let figures = floors::figures(history, &attempts::Starts::new(), 0);
        return findings.verdict(history.setting.load_per_processor, figures);
    }
    replicas::check_at_rest(history, &mut findings);
    instants::check(history, &lives, &calm, &mut findings);
    let starts = attempts::replay(history, &lives, &mut findings);
    records::check(history, &lives, &starts, &mut findings);
    effects::check(history, &lives, &starts, &mut findings);
    let across = breakers::check(history, &lives, &mut findings);
    let figures = floors::figures(history, &starts, across);
    for (floor, least) in &history.setting.floors {
        let count = figures.get(floor.as_str()).copied().unwrap_or(0);
        if count < *least {
            findings.lacks(format!("{floor}: {count}, at least {least} wanted"));
        }
    }
    findings.verdict(history.setting.load_per_processor, figures)
}
