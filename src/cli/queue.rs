//! `queue`: what runs wait in and workers serve, and its limits.

use clap::{Args, Subcommand};

use super::args::{ReadFlags, WriteFlags};
use super::printer::Printer;
use super::{Context, Failure, tables};
use crate::pb::v1::{ListQueuesRequest, SetQueueRequest};

const EXAMPLES: &str = "\
Examples:
  chronarch queue set reports --concurrency 10 --max-waiting 1000 --reason \"the database is small\"
  chronarch queue set reports --rate 5/m        only this limit from now on
  chronarch queue set reports                   none";

#[derive(Debug, Subcommand)]
pub(super) enum QueueCommand {
    /// Lists queues that have limits, and those that live runs are in
    List {
        #[command(flatten)]
        read: ReadFlags,
    },
    /// Sets the limits of a queue, all at once: what is not given is no limit
    Set(SetArgs),
}

#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct SetArgs {
    /// The queue
    name: String,
    /// Attempts that run at the same time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// How often attempts start: 100/s, 10/m, 5/30s
    #[arg(long, value_name = "RATE", default_value = "", hide_default_value = true)]
    rate: String,
    /// Runs that may wait for a worker; what comes beyond is skipped, with reason `limit`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_waiting: Option<u32>,
    #[command(flatten)]
    write: WriteFlags,
}

pub(super) async fn carry_out(
    command: QueueCommand,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        QueueCommand::List { read } => {
            let found = client.list_queues(ListQueuesRequest { stale: read.stale }).await?;
            printer.list(&found, &found.queues, |wide| tables::queues(&found.queues, wide))
        }
        QueueCommand::Set(args) => {
            let SetArgs { name, concurrency, rate, max_waiting, write: WriteFlags { reason, identity } } =
                args;
            let (actor, operation_id) = (identity.actor(), identity.operation_id);
            let request =
                SetQueueRequest { name, concurrency, rate, max_waiting, operation_id, actor, reason };
            let queue = client.set_queue(request).await?;
            printer.object(&queue, |wide| tables::queues(std::slice::from_ref(&queue), wide))
        }
    }
}
