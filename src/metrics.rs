//! All figures, declared in one place: name with unit, meaning, labels. No label is unbounded.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// How an attempt ended; six words.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ending {
    outcome: &'static str,
}

/// Another node, by its id; as many as there are members.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PeerLabel {
    peer: u64,
}

/// What a breaker is; three words.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BreakerLabel {
    state: &'static str,
}

/// The figures of a node. Those of firing count only what this node did as leader.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Occurrences fired.
    fires: Counter,
    lateness: Histogram,
    /// Runs that were let through to wait for a worker.
    pub runs_admitted: Counter,
    /// Instants that were missed and not caught up.
    pub missed: Counter,
    /// Attempts started.
    pub attempts_started: Counter,
    endings: Family<Ending, Counter>,
    /// Jobs with no armed next instant, for a leader could not evaluate their schedule.
    pub faulty_jobs: Gauge,
    /// Enabled jobs with further occurrences of which none is armed; anything but 0 is a bug.
    pub unarmed_jobs: Gauge,
    /// Jobs.
    pub jobs: Gauge,
    /// Live runs.
    pub live_runs: Gauge,
    /// Runs that wait for a worker.
    pub waiting_runs: Gauge,
    /// Attempts that run.
    pub running_attempts: Gauge,
    breakers: Family<BreakerLabel, Gauge>,
    clock_ahead: Family<PeerLabel, Gauge<f64, AtomicU64>>,
    clock_astray: Gauge,
    /// 1 on the node that leads.
    pub is_leader: Gauge,
    /// Changes of leadership that this node has seen.
    pub leader_changes: Counter,
    /// The term.
    pub term: Gauge,
    /// The last index known to be committed.
    pub committed_index: Gauge,
    /// The last index applied here.
    pub applied_index: Gauge,
    /// Workers connected to this node.
    pub workers: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All figures at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("chronarch");
        let lateness = Histogram::new([
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0, 3_600.0,
        ]);
        registry.register(
            "fire_lateness_seconds",
            "From the due instant to the stamp of the entry that fired it",
            lateness.clone(),
        );
        let endings = Family::<Ending, Counter>::default();
        registry.register("attempts_ended", "Attempts that ended, by outcome", endings.clone());
        let breakers = Family::<BreakerLabel, Gauge>::default();
        registry.register("breakers", "Breakers that have counted something, by state", breakers.clone());
        let clock_ahead = Family::<PeerLabel, Gauge<f64, AtomicU64>>::default();
        registry.register(
            "clock_ahead_seconds",
            "How far the clock of another node is ahead of this node's",
            clock_ahead.clone(),
        );
        let counter = |registry: &mut Registry, name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let fires = counter(&mut registry, "fires", "Occurrences fired by this node as leader");
        let runs_admitted = counter(&mut registry, "runs_admitted", "Runs let through to wait for a worker");
        let missed = counter(&mut registry, "missed", "Instants missed and not caught up");
        let attempts_started = counter(&mut registry, "attempts_started", "Attempts started");
        let leader_changes = counter(&mut registry, "leader_changes", "Changes of leadership seen");
        let gauge = |registry: &mut Registry, name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Self {
            fires,
            lateness,
            runs_admitted,
            missed,
            attempts_started,
            endings,
            faulty_jobs: gauge(
                &mut registry,
                "jobs_faulty",
                "Jobs with no armed next instant: their schedule cannot be evaluated",
            ),
            unarmed_jobs: gauge(
                &mut registry,
                "jobs_unarmed",
                "Enabled jobs with no armed next instant: a bug",
            ),
            jobs: gauge(&mut registry, "jobs", "Jobs"),
            live_runs: gauge(&mut registry, "runs_live", "Live runs"),
            waiting_runs: gauge(&mut registry, "runs_waiting", "Runs that wait for a worker"),
            running_attempts: gauge(&mut registry, "attempts_running", "Attempts that run"),
            breakers,
            clock_ahead,
            clock_astray: gauge(
                &mut registry,
                "clock_astray",
                "1 while this node's clock is not known to agree with the others': it does not lead",
            ),
            is_leader: gauge(&mut registry, "is_leader", "1 on the node that leads"),
            leader_changes,
            term: gauge(&mut registry, "raft_term", "Raft term"),
            committed_index: gauge(&mut registry, "raft_committed_index", "Last committed log index"),
            applied_index: gauge(&mut registry, "raft_applied_index", "Last applied log index"),
            workers: gauge(&mut registry, "workers", "Workers connected to this node"),
            registry,
        }
    }

    /// An occurrence was fired so long after it was due.
    pub fn fired(&self, lateness: Duration) {
        self.fires.inc();
        self.lateness.observe(lateness.as_secs_f64());
    }

    /// An attempt ended so.
    pub fn attempt_ended(&self, outcome: &'static str) {
        self.endings.get_or_create(&Ending { outcome }).inc();
    }

    /// So many breakers are in this state.
    pub fn set_breakers(&self, state: &'static str, count: usize) {
        self.breakers.get_or_create(&BreakerLabel { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// What the last comparison of clocks found; how far the other nodes' are ahead, in milliseconds.
    pub fn set_clocks(&self, is_astray: bool, ahead_ms: &BTreeMap<u64, i64>) {
        self.clock_astray.set(i64::from(is_astray));
        self.clock_ahead.clear();
        for (&peer, &ahead_ms) in ahead_ms {
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            self.clock_ahead.get_or_create(&PeerLabel { peer }).set(ahead_ms as f64 / 1_000.0);
        }
    }

    /// The text that Prometheus reads (OpenMetrics 1.0).
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }
}
