//! `breaker`: circuit breakers, looked at and moved by hand.

use std::time::Duration;

use clap::Subcommand;

use super::args::{ListFlags, Output, ReadFlags, WriteFlags, positive_span};
use super::printer::Printer;
use super::{Context, Failure, tables};
use crate::client::paging;
use crate::pb::span::write;
use crate::pb::v1::{
    Breaker, GetBreakerRequest, ListBreakersRequest, ResetBreakerRequest, TripBreakerRequest,
};

#[derive(Debug, Subcommand)]
pub(super) enum BreakerCommand {
    /// Lists breakers
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        #[command(flatten)]
        list: ListFlags,
    },
    /// Shows one breaker with its last changes
    Get {
        /// The shared name, or `job:NAME` for a job's own breaker
        name: String,
        #[command(flatten)]
        read: ReadFlags,
    },
    /// Opens a breaker by hand
    Trip {
        /// The shared name, or `job:NAME` for a job's own breaker
        name: String,
        /// How long it stays open, such as 10m. Default: the policy's `open_for`
        #[arg(long, value_name = "DURATION", value_parser = positive_span)]
        open_for: Option<Duration>,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// Closes a breaker by hand and forgets its counts
    Reset {
        /// The shared name, or `job:NAME` for a job's own breaker
        name: String,
        #[command(flatten)]
        write: WriteFlags,
    },
}

pub(super) async fn carry_out(
    command: BreakerCommand,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let client = context.client()?;
    let namespace = context.global.namespace.clone();
    match command {
        BreakerCommand::List { limit, list: ListFlags { all_namespaces, read } } => {
            let namespace = context.namespace_or_all(all_namespaces);
            let request =
                ListBreakersRequest { namespace, stale: read.stale, ..ListBreakersRequest::default() };
            let found = paging::breakers(&client, request, limit as usize).await?;
            printer.list(&found, &found.breakers, |wide| tables::breakers(&found.breakers, wide))?;
            if !found.next_page_token.is_empty() {
                printer.note(&format!("there are more than {limit} breakers; --limit shows more"));
            }
            Ok(())
        }
        BreakerCommand::Get { name, read } => {
            let request = GetBreakerRequest { namespace, name, stale: read.stale };
            print(&client.get_breaker(request).await?, printer)
        }
        BreakerCommand::Trip { name, open_for, write: WriteFlags { reason, identity } } => {
            let (actor, operation_id) = (identity.actor(), identity.operation_id);
            let open_for = open_for.map(write);
            let request = TripBreakerRequest { namespace, name, open_for, operation_id, actor, reason };
            print(&client.trip_breaker(request).await?, printer)
        }
        BreakerCommand::Reset { name, write: WriteFlags { reason, identity } } => {
            let (actor, operation_id) = (identity.actor(), identity.operation_id);
            let request = ResetBreakerRequest { namespace, name, operation_id, actor, reason };
            print(&client.reset_breaker(request).await?, printer)
        }
    }
}

fn print(breaker: &Breaker, printer: &mut Printer) -> Result<(), Failure> {
    printer.object(breaker, |_| tables::breakers(std::slice::from_ref(breaker), true))?;
    if matches!(printer.output(), Output::Table | Output::Wide) && !breaker.transitions.is_empty() {
        printer.line("")?;
        printer.table(tables::transitions(breaker))?;
    }
    Ok(())
}
