//! `bench failover`: the leader is killed again and again while a job is due every 10 ms.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::Shared;
use super::error::BenchError;
use super::load::Load;
use super::report::Measured;
use super::stage::{Leader, Stage};
use super::stats::Sample;
use crate::cli::printer::Printer;

/// How long a takeover may take before the bench gives up.
const TAKEOVER_MAX: Duration = Duration::from_secs(60);
/// Of undisturbed load before each kill, in which an election would be one that nobody asked for.
const QUIET: Duration = Duration::from_secs(1);
/// Rounds between two words about how far it is.
const WORD_EVERY: u32 = 10;

pub(super) const HELP: &str = "\
Figures:
  takeover        from just before the SIGKILL to the arrival of the first request whose instant is
                  later than that, so fired by the new leader; the instants are 10 ms apart
  terms_per_kill  Raft terms that an election took; 1 where no vote was split
  unasked_terms   terms that began though no leader had been killed (spurious elections)
  back            from the restart of a killed node until it is ready and has caught up
  lateness_max    the latest first request of any instant, those included whose attempt was lost
                  with its node and had to wait for the end of the lease

Account, over all runs, counted where the requests arrive: instants due, received, repeats (a further
attempt of a run: its attempt was lost with the killed node), duplicates (a second run of an instant,
or the same attempt twice), lost. Exit code 1 when one was lost or a duplicate.";

/// Arguments of `bench failover`.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct FailoverArgs {
    /// How often the leader is killed in each run
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) kills: u32,
    #[command(flatten)]
    pub(super) shared: Shared,
}

/// What the rounds have brought.
#[derive(Default)]
struct Rounds {
    takeovers: Vec<i64>,
    back: Vec<i64>,
    terms: u64,
    unasked_terms: u64,
}

/// One run.
pub(super) async fn measure(
    args: &FailoverArgs,
    stage: &mut Stage,
    printer: &mut Printer,
) -> Result<Measured, BenchError> {
    let mut leader = stage.ready().await?;
    let mut load = Load::begin(stage).await?;
    let mut rounds = Rounds::default();
    for number in 1..=args.kills {
        stage.reach(stage.clock.now().plus(QUIET)).await?;
        leader = round(stage, &leader, &mut rounds).await?;
        if number % WORD_EVERY == 0 {
            printer.note(&format!("{number} of {} kills", args.kills));
        }
    }
    load.end(stage).await?;

    let mut measured = Measured::default();
    let takeovers: Sample = rounds.takeovers.iter().copied().collect();
    measured.spans("takeover", &takeovers, &[500, 900, 990]);
    measured.figure("terms_per_kill", "terms", rounds.terms as f64 / f64::from(args.kills));
    measured.figure("unasked_terms", "terms", rounds.unasked_terms as f64);
    measured.spans("back", &rounds.back.iter().copied().collect(), &[500]);
    if let Some(latest) = load.lateness().max() {
        measured.figure("lateness_max", "ms", latest as f64);
    }
    measured.tally = Some(load.tally());
    Ok(measured)
}

/// Kills the leader and brings it back; the new leader, and `before` is the one that the last round left.
async fn round(stage: &mut Stage, before: &Leader, rounds: &mut Rounds) -> Result<Leader, BenchError> {
    let leader = stage.leader().await?;
    rounds.unasked_terms += leader.term.saturating_sub(before.term);

    let mark = stage.receiver.mark();
    let killed_at = stage.clock.now();
    stage.kill(leader.node).await?;
    let first = stage
        .receiver
        .wait(mark, TAKEOVER_MAX, |new| new.iter().find(|arrival| arrival.scheduled_at > killed_at).copied());
    let first = first
        .await
        .ok_or(BenchError::Silent { what: "a new leader's first request", limit: TAKEOVER_MAX })?;
    rounds.takeovers.push(first.at.millis() - killed_at.millis());

    let next = stage.leader().await?;
    rounds.terms += next.term.saturating_sub(leader.term);
    let restarted = Instant::now();
    stage.start(leader.node)?;
    stage.ready().await?;
    rounds.back.push(i64::try_from(restarted.elapsed().as_millis()).unwrap_or(i64::MAX));
    Ok(next)
}
