//! `bench handover`: leadership is handed over, by a clean stop of the leader and by asking for it, while
//! a job is due every 10 ms.

use std::time::Duration;

use clap::Args;

use super::Shared;
use super::error::BenchError;
use super::load::Load;
use super::report::Measured;
use super::stage::Stage;
use super::stats::Sample;
use crate::cli::printer::Printer;
use crate::pb::v1::TransferLeaderRequest;
use crate::state::time::Timestamp;

/// Instants that are due so long after the signal are judged.
const WINDOW: Duration = Duration::from_secs(2);

pub(super) const HELP: &str = "\
Figures, each once for a SIGTERM of the leader (stop_) and once for `cluster transfer-leader` (transfer_):
  worst        the latest first request, behind its instant, of the 200 instants that were due within
               2 s after the signal: one number a round
  took         from the signal to the end of the process; from the call to its answer

Account, over all runs, counted where the requests arrive: instants due, received, repeats (a further
attempt of a run), duplicates (a second run of an instant, or the same attempt twice), lost. Exit code
1 when one was lost or a duplicate.";

/// Arguments of `bench handover`.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct HandoverArgs {
    /// How often leadership is handed over in each of both ways in each run
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) times: u32,
    #[command(flatten)]
    pub(super) shared: Shared,
}

/// How leadership is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Stop,
    Transfer,
}

/// One hand-over.
struct Round {
    way: Way,
    at: Timestamp,
    took_ms: i64,
}

/// One run.
pub(super) async fn measure(
    args: &HandoverArgs,
    stage: &mut Stage,
    printer: &mut Printer,
) -> Result<Measured, BenchError> {
    stage.ready().await?;
    let mut load = Load::begin(stage).await?;
    let mut rounds = Vec::new();
    for way in [Way::Stop, Way::Transfer] {
        for _ in 0..args.times {
            rounds.push(round(stage, way).await?);
        }
        printer.note(&format!("{} hand-overs", rounds.len()));
    }
    load.end(stage).await?;

    let mut measured = Measured::default();
    for (name, way) in [("stop", Way::Stop), ("transfer", Way::Transfer)] {
        let of_way = || rounds.iter().filter(|round| round.way == way);
        let worst: Sample =
            of_way().filter_map(|round| load.lateness_in(round.at, round.at.plus(WINDOW)).max()).collect();
        measured.spans(&format!("{name}_worst"), &worst, &[500, 990]);
        measured.spans(&format!("{name}_took"), &of_way().map(|round| round.took_ms).collect(), &[500]);
    }
    measured.tally = Some(load.tally());
    Ok(measured)
}

async fn round(stage: &mut Stage, way: Way) -> Result<Round, BenchError> {
    let leader = stage.leader().await?;
    let at = stage.clock.now();
    match way {
        Way::Stop => stage.stop(leader.node).await.map(drop)?,
        Way::Transfer => {
            stage.client.transfer_leader(TransferLeaderRequest { to: 0 }).await?;
        }
    }
    let took_ms = stage.clock.now().millis() - at.millis();
    // The load has gone on beyond the window before anything else is changed.
    stage.reach(at.plus(WINDOW)).await?;
    if way == Way::Stop {
        stage.start(leader.node)?;
    }
    stage.ready().await?;
    Ok(Round { way, at, took_ms })
}
