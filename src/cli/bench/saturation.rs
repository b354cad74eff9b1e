//! `bench saturation`: more jobs are due than the cluster can run; how many it runs.

use std::time::Duration;

use clap::Args;

use super::account::{Account, Expected};
use super::error::BenchError;
use super::lateness::Busy;
use super::report::Measured;
use super::stage::Stage;
use super::stats::Sample;
use super::{Shared, jobs};

const PERIOD: Duration = Duration::from_secs(1);
const WARM_UP: Duration = Duration::from_secs(5);

pub(super) const HELP: &str = "\
Figures:
  runs_per_second  requests that arrived a second, after 5 s of warm-up
  due_per_second   instants that were due a second; what overlaps with a live run of its job is skipped
  share            of the instants that were due in the measured time, how many had arrived at its end
  lateness         of those, from the instant to the arrival
  duplicates       second runs of an instant, or the same attempt twice
  cpu              in percent of one core: where the time goes; bench: this process, which receives

The nodes, their workers and the receiver share the cores of this machine.";

/// Arguments of `bench saturation`.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct SaturationArgs {
    /// Jobs `every: 1s`, so that as many are due each second
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) jobs: u32,
    /// How long is measured
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(super) seconds: u32,
    #[command(flatten)]
    pub(super) shared: Shared,
}

/// One run.
pub(super) async fn measure(args: &SaturationArgs, stage: &mut Stage) -> Result<Measured, BenchError> {
    stage.ready().await?;
    let next = stage.apply(jobs::periodic(args.jobs, PERIOD, &stage.receiver.url())).await?;
    let expected = Expected::new(next, PERIOD);
    stage.pass(stage.clock.now().plus(WARM_UP)).await;

    let mut measured = Measured::default();
    let busy = Busy::begin(stage).await?;
    let from = stage.clock.now();
    stage.pass(from.plus(Duration::from_secs(args.seconds.into()))).await;
    // What is measured ends when it ends, which on a machine that is full may be later than asked for.
    let until = stage.clock.now();
    busy.end(stage, "cpu", &mut measured)?;

    let mut account = Account::new(expected.clone());
    account.close(until);
    let arrived = stage.receiver.look(0, |all| {
        all.iter().for_each(|arrival| account.note(arrival));
        all.iter().filter(|arrival| (from..until).contains(&arrival.at)).count()
    });
    stage.all_noted()?;
    let seconds = until.since(from).as_secs_f64().max(0.001);
    let late: Sample = account.lateness(from, until).collect();
    let due = expected.due(from, until);
    measured.figure("runs_per_second", "1/s", arrived as f64 / seconds);
    measured.figure("due_per_second", "1/s", due as f64 / seconds);
    measured.figure("share", "%", late.len() as f64 / due.max(1) as f64 * 100.0);
    measured.spans("lateness", &late, &[500, 990]);
    measured.figure("duplicates", "requests", account.tally().duplicates as f64);
    Ok(measured)
}
