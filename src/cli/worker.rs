//! `worker`: runs one, or asks about those that the cluster knows.

use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::Table;
use tokio::time::Instant;

use super::args::{IdentityFlags, Output, positive_span};
use super::printer::Printer;
use super::serve::{Label, WorkerArgs};
use super::{Context, Failure, tables};
use crate::client::{Client, Error, paging};
use crate::pb::v1::{
    DrainWorkerRequest, ListWorkersRequest, ListWorkersResponse, ResumeWorkerRequest, Worker, WorkerState,
};

/// How long `drain --wait` waits, unless it is told otherwise: longer than most attempts take.
const WAIT_DEFAULT: &str = "1h";
/// How long one that stands alone may have nothing left and still be there, until it counts as one that stays: those of
/// users may.
const LEAVES_WITHIN: Duration = Duration::from_secs(10);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Workers of one place that a person can have meant.
const NAMED_MAX: usize = 100_000;

/// `worker` and what follows it.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct WorkerLine {
    /// Runs one.
    #[command(flatten)]
    pub(super) run: WorkerArgs,
    #[command(subcommand)]
    pub(super) command: Option<WorkerCommand>,
}

#[derive(Clone, Debug, Subcommand)]
pub(super) enum WorkerCommand {
    /// Lists the workers that the leader knows: those of the nodes, those that stand alone, and those that vanished
    /// with attempts that are not lost yet
    List {
        /// Only those that serve this queue
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        queue: String,
        /// Only those that have all of these labels; may be given several times
        #[arg(short = 'l', long = "label", value_name = "KEY=VALUE")]
        labels: Vec<Label>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Has a worker take nothing new and finish what it holds; a `chronarch worker` that stands alone then ends with
    /// exit code 0, one of a node stays until `resume` or the node's next start, and one of your own may do either
    Drain {
        /// Its name in full, `place/life`, or the place alone where one worker is there
        name: String,
        /// Wait until it has nothing left, and if it stands alone, has gone, or is still there 10s later
        #[arg(long)]
        wait: bool,
        /// How long to wait
        #[arg(long, value_name = "DURATION", default_value = WAIT_DEFAULT, value_parser = positive_span, requires = "wait")]
        wait_max: Duration,
        #[command(flatten)]
        change: ChangeFlags,
    },
    /// Has a worker that was asked to drain take orders again
    Resume {
        /// Its name in full, `place/life`, or the place alone where one worker is there
        name: String,
        #[command(flatten)]
        change: ChangeFlags,
    },
}

/// Who asks, and why.
#[derive(Clone, Debug, Args)]
pub(super) struct ChangeFlags {
    /// Why; shown in the worker's log and in `worker list -o json`
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Who asks. Default: the user name, or the address that the node sees
    #[arg(long, env = "CHRONARCH_ACTOR", value_name = "NAME", hide_env_values = true)]
    actor: Option<String>,
}

pub(super) async fn carry_out(
    command: WorkerCommand,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        WorkerCommand::List { queue, labels, limit } => {
            let labels = labels.into_iter().map(|label| (label.key, label.value)).collect();
            let request = ListWorkersRequest { queue, labels, ..ListWorkersRequest::default() };
            let found = paging::workers(&client, request, limit as usize).await?;
            printer.list(&found, &found.workers, |wide| table(&found.workers, wide))?;
            if !found.next_page_token.is_empty() {
                printer.note(&format!("there are more than {limit} workers; --limit shows more"));
            }
            Ok(())
        }
        WorkerCommand::Drain { name, wait, wait_max, change } => {
            let (actor, reason) = (IdentityFlags::actor_or_user(change.actor), change.reason);
            let asked = client.drain_worker(DrainWorkerRequest { worker: name, actor, reason }).await?;
            if !wait {
                return print(&asked, printer);
            }
            let last = drained(&client, asked, wait_max).await?;
            print(&last, printer)
        }
        WorkerCommand::Resume { name, change } => {
            let (actor, reason) = (IdentityFlags::actor_or_user(change.actor), change.reason);
            let resumed = client.resume_worker(ResumeWorkerRequest { worker: name, actor, reason }).await?;
            print(&resumed, printer)
        }
    }
}

/// Waits until the worker has nothing left and, where it stands alone, has gone or shows that it stays; what was last
/// seen of it.
async fn drained(client: &Client, asked: Worker, wait_max: Duration) -> Result<Worker, Failure> {
    let deadline = Instant::now() + wait_max;
    let mut last = asked;
    let mut idle_since = None;
    loop {
        let all = paging::workers(client, ListWorkersRequest::default(), NAMED_MAX).await?;
        match find(&all, &last.worker) {
            None => return Ok(Worker { running: 0, free: 0, ..last }),
            Some(seen) => last = seen.clone(),
        }
        if last.running == 0 && last.draining {
            let idle_since = *idle_since.get_or_insert_with(Instant::now);
            if last.node_id > 0 || idle_since.elapsed() >= LEAVES_WITHIN {
                return Ok(last);
            }
        } else {
            idle_since = None;
        }
        if Instant::now() >= deadline {
            let message = format!("worker {} still has {} attempts", last.worker, last.running);
            let hint = Some("it goes on draining; `chronarch worker list` shows it".to_owned());
            return Err(Failure::Call(Error::Refused { message, hint }));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn find<'a>(all: &'a ListWorkersResponse, worker: &str) -> Option<&'a Worker> {
    all.workers.iter().find(|seen| seen.worker == worker)
}

fn print(worker: &Worker, printer: &mut Printer) -> Result<(), Failure> {
    printer.object(worker, |_| table(std::slice::from_ref(worker), true))?;
    if let (Output::Table | Output::Wide, Some(drain)) = (printer.output(), &worker.drain) {
        let by = if drain.actor.is_empty() { "its process" } else { &drain.actor };
        let why = if drain.reason.is_empty() { String::new() } else { format!(": {}", drain.reason) };
        printer.line(&format!("drained by {by}{why}"))?;
    }
    Ok(())
}

/// Workers, one a line.
fn table(workers: &[Worker], wide: bool) -> Table {
    let narrow = ["WORKER", "STATE", "QUEUES", "RUNNING", "FREE", "SLOTS", "NODE"];
    let mut table = if wide {
        let more = [
            "LABELS",
            "KINDS",
            "VERSION",
            "PROTOCOL",
            "PART OF",
            "ADDRESS",
            "CONNECTED",
            "LAST HEARD",
            "DRAINED BY",
        ];
        tables::columns(&[&narrow[..], &more].concat())
    } else {
        tables::columns(&narrow)
    };
    let node = |node: u64| if node == 0 { "-".to_owned() } else { node.to_string() };
    for worker in workers {
        let mut row = vec![
            worker.worker.clone(),
            tables::word::<WorkerState>(worker.state),
            tables::or_dash(&worker.queues.join(",")).to_owned(),
            worker.running.to_string(),
            worker.free.to_string(),
            worker.slots.to_string(),
            node(worker.connected_to),
        ];
        if wide {
            let labels: Vec<String> =
                worker.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let drained_by = worker.drain.as_ref().map_or("-", |drain| tables::or_dash(&drain.actor));
            row.extend([
                tables::or_dash(&labels.join(",")).to_owned(),
                tables::or_dash(&worker.kinds.join(",")).to_owned(),
                tables::or_dash(&worker.version).to_owned(),
                worker.protocol.to_string(),
                node(worker.node_id),
                tables::or_dash(&worker.address).to_owned(),
                tables::at(worker.connected_at.as_ref()),
                tables::at(worker.last_heard_at.as_ref()),
                drained_by.to_owned(),
            ]);
        }
        table.add_row(row);
    }
    table
}
