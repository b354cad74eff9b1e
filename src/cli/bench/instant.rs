//! `bench instant`: many jobs are due at one and the same instant.

use std::time::Duration;

use clap::Args;

use super::account::{Account, Expected};
use super::error::BenchError;
use super::lateness::Busy;
use super::load::settle;
use super::report::Measured;
use super::stage::Stage;
use super::stats::Sample;
use super::{Shared, jobs};
use crate::cli::args::positive_span;
use crate::client::paging;
use crate::pb::instant;
use crate::pb::v1::ListRunsRequest;
use crate::state::time::Timestamp;

/// How long all requests may take; what is missing then is counted as lost.
const SETTLE: Duration = Duration::from_secs(300);
/// The default lead: this, and so many jobs a second.
const LEAD_MIN: Duration = Duration::from_secs(20);
const LEAD_JOBS_PER_SECOND: u32 = 2_500;
/// A period that no second instant of a job falls into.
const NEVER: Duration = Duration::from_secs(86_400 * 365);

pub(super) const HELP: &str = "\
Figures, all from the common instant on:
  fired            until the runs had been made, as the run log says: p50, p99, and the last (max)
  arrived          until their requests arrived
  cpu              from the registration to the last arrival, in percent of one core; bench: this
                   process, which receives

Account, over all runs, counted where the requests arrive: instants due, received, repeats (a further
attempt of a run), duplicates (a second run of an instant, or the same attempt twice), lost. Exit code
1 when one was lost or a duplicate.";

/// Arguments of `bench instant`.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct InstantArgs {
    /// Jobs that are due at one instant
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=900_000))]
    pub(super) jobs: u32,
    /// How long before their instant the registration of the jobs begins. Default: 20s, and a second
    /// for each 2,500 jobs
    #[arg(long, value_name = "DURATION", value_parser = positive_span)]
    pub(super) lead: Option<Duration>,
    #[command(flatten)]
    pub(super) shared: Shared,
}

/// One run.
pub(super) async fn measure(args: &InstantArgs, stage: &mut Stage) -> Result<Measured, BenchError> {
    stage.ready().await?;
    let default = LEAD_MIN + Duration::from_secs((args.jobs / LEAD_JOBS_PER_SECOND).into());
    let lead = args.lead.unwrap_or(default);
    let at = stage.clock.now().plus(lead);
    let too_late = |_: BenchError| BenchError::Lead { jobs: args.jobs, lead };
    let applied = stage.apply(jobs::once(args.jobs, at, &stage.receiver.url())).await;
    let next = match applied {
        // A job whose only instant has passed is refused, or has none.
        Err(error) if stage.clock.now() >= at => return Err(too_late(error)),
        applied => applied?,
    };
    stage.ready().await?;
    if stage.clock.now() >= at {
        return Err(BenchError::Lead { jobs: args.jobs, lead });
    }
    let mut measured = Measured::default();
    let mut account = Account::new(Expected::new(next, NEVER));
    account.close(at);
    let busy = Busy::begin(stage).await?;
    settle(stage, &mut account, lead + SETTLE).await;
    busy.end(stage, "cpu", &mut measured)?;
    stage.all_noted()?;

    measured.spans("fired", &fired(stage, at, args.jobs).await?, &[500, 990]);
    let end = at.plus(Duration::from_millis(1));
    measured.spans("arrived", &account.lateness(at, end).collect(), &[500, 990]);
    measured.tally = Some(account.tally());
    Ok(measured)
}

/// When the runs were made, in milliseconds after their instant.
async fn fired(stage: &Stage, at: Timestamp, jobs: u32) -> Result<Sample, BenchError> {
    let request = ListRunsRequest {
        from: Some(instant::write(at)),
        to: Some(instant::write(at.plus(Duration::from_millis(1)))),
        ..ListRunsRequest::default()
    };
    let runs = paging::runs(&stage.client, request, jobs as usize).await?.runs;
    let fired = runs.iter().filter_map(|run| run.fired_at.as_ref());
    Ok(fired.map(|fired| instant::read(fired).millis() - at.millis()).collect())
}
