//! `bench records`: what many finished runs cost, and how a node that was away gets them.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::account::Expected;
use super::error::BenchError;
use super::report::Measured;
use super::stage::Stage;
use super::stats::median;
use super::{Shared, jobs};
use crate::cli::printer::Printer;
use crate::client::Client;
use crate::pb::v1::{GetRunRequest, JobSpec, ListRunsRequest, ListRunsResponse, PauseJobsRequest, Retention};

const PERIOD: Duration = Duration::from_secs(1);
/// How often each question is asked; the median is told.
const ASKED: usize = 21;
/// How long a node may take to fetch the records that it lacks.
const CATCH_UP_MAX: Duration = Duration::from_secs(3_600);
/// Between two looks at it.
const POLL: Duration = Duration::from_millis(100);
const MIB: f64 = 1_048_576.0;

pub(super) const HELP: &str = "\
One of three nodes is killed, `--rate` jobs run each second until there are `--records` records, and the node is started
again.

Figures:
  records          that there are: runs and skips
  rate             of them a second, while two nodes are up
  disk             of the leader's run log, and of its write-ahead log and snapshots; record: bytes of the former by each
  memory           of the leader, before and after
  newest           asking for the newest 100 runs of all jobs, newest_of_job: of one, get: for one run,
                   filtered: for those that a filter without a hit leaves of a page; medians of 21
  catch_up         from the start of the third node until it has every record; and how many of them a second

The nodes, their workers and the receiver share the cores of this machine.";

/// Arguments of `bench records`.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct RecordsArgs {
    /// Records to make
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    pub(super) records: u32,
    /// Jobs `every: 1s`, so that as many records are made each second
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub(super) rate: u32,
    #[command(flatten)]
    pub(super) shared: Shared,
}

/// One run.
pub(super) async fn measure(
    args: &RecordsArgs,
    stage: &mut Stage,
    printer: &mut Printer,
) -> Result<Measured, BenchError> {
    let mut measured = Measured::default();
    let leader = stage.ready().await?.node;
    let away = if leader == 1 { 2 } else { 1 };
    stage.kill(away).await?;
    let before = stage.usage(leader)?;
    let keep = |job: JobSpec| JobSpec {
        labels: [("bench".to_owned(), "records".to_owned())].into(),
        retention: Some(Retention { runs: Some(100_000), age: None }),
        ..job
    };
    let load = jobs::periodic(args.rate, PERIOD, &stage.receiver.url()).into_iter().map(keep).collect();
    let next = stage.apply(load).await?;
    let first = next.iter().min().copied().unwrap_or_default();
    let expected = Expected::new(next, PERIOD);
    let begun = Instant::now();
    let seconds = u64::from(args.records.div_ceil(args.rate));
    for passed in (0..seconds).step_by(60) {
        if passed > 0 {
            printer.note(&format!("{passed} of {seconds} s"));
        }
        let rest = Duration::from_secs((seconds - passed).min(60));
        stage.pass(stage.clock.now().plus(rest)).await;
    }
    let request = PauseJobsRequest {
        labels: [("bench".to_owned(), "records".to_owned())].into(),
        actor: "bench".to_owned(),
        ..PauseJobsRequest::default()
    };
    stage.client.pause_jobs(request).await?;
    let took = begun.elapsed().as_secs_f64();
    // Each instant has one record, of a run or of a skip.
    let records = expected.due(first, stage.clock.now());
    stage.quiet().await?;
    measured.figure("records", "records", records as f64);
    measured.figure("rate", "1/s", records as f64 / took.max(0.001));

    let data = stage.data_dir(leader);
    let history = size(&data.join("history"))?;
    measured.figure("disk_run_log", "MiB", history as f64 / MIB);
    measured.figure("disk_record", "bytes", history as f64 / records.max(1) as f64);
    measured.figure("disk_log_and_snapshots", "MiB", (size(&data)? - history) as f64 / MIB);
    let after = stage.usage(leader)?;
    measured.figure("memory_before", "MiB", before.memory_bytes as f64 / MIB);
    measured.figure("memory_after", "MiB", after.memory_bytes as f64 / MIB);
    ask(&stage.client, &mut measured).await?;

    let begun = Instant::now();
    stage.start(away)?;
    let node = stage.client_of(away)?;
    loop {
        // A node that lacks a part of the run log says so.
        match node.list_runs(ListRunsRequest { page_size: 1, ..ListRunsRequest::default() }).await {
            Ok(_) => break,
            Err(_) if begun.elapsed() < CATCH_UP_MAX => tokio::time::sleep(POLL).await,
            Err(error) => return Err(error.into()),
        }
    }
    let took = begun.elapsed().as_secs_f64();
    measured.figure("catch_up", "s", took);
    measured.figure("catch_up_rate", "1/s", records as f64 / took.max(0.001));
    Ok(measured)
}

/// How long answers take.
async fn ask(client: &Client, measured: &mut Measured) -> Result<(), BenchError> {
    let all = ListRunsRequest { page_size: 100, ..ListRunsRequest::default() };
    let newest = list(client, "newest", &all, measured).await?;
    let Some(run) = newest.runs.into_iter().next() else { return Ok(()) };
    let of_job = ListRunsRequest { namespace: run.namespace.clone(), job: run.job.clone(), ..all.clone() };
    list(client, "newest_of_job", &of_job, measured).await?;
    let filtered = ListRunsRequest { reason: "timeout".to_owned(), ..all };
    list(client, "filtered", &filtered, measured).await?;
    let mut spans = Vec::with_capacity(ASKED);
    for _ in 0..ASKED {
        let begun = Instant::now();
        client.get_run(GetRunRequest { run_id: run.run_id.clone(), stale: false }).await?;
        spans.push(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    measured.figure("get", "ms", median(&spans));
    Ok(())
}

async fn list(
    client: &Client,
    name: &str,
    request: &ListRunsRequest,
    measured: &mut Measured,
) -> Result<ListRunsResponse, BenchError> {
    let mut spans = Vec::with_capacity(ASKED);
    let mut answer = ListRunsResponse::default();
    for _ in 0..ASKED {
        let begun = Instant::now();
        answer = client.list_runs(request.clone()).await?;
        spans.push(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    measured.figure(name, "ms", median(&spans));
    Ok(answer)
}

/// Bytes of the files below a folder.
fn size(folder: &Path) -> Result<u64, BenchError> {
    let failed = |source| BenchError::File { path: folder.to_path_buf(), source };
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // A file that has gone meanwhile has no size.
        let Ok(about) = entry.metadata() else { continue };
        bytes += if about.is_dir() { size(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}
