//! `namespace`: how much of what the jobs of a namespace did is kept.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::args::{Output, ReadFlags, WriteFlags, positive_span};
use super::printer::Printer;
use super::{Context, Failure, tables};
use crate::client::paging;
use crate::pb::span::write;
use crate::pb::v1::{
    DeleteNamespaceRequest, GetNamespaceRequest, ListNamespacesRequest, Namespace, NamespaceRetention,
    SetNamespaceRequest,
};

const EXAMPLES: &str = "\
Examples:
  chronarch namespace set staging --keep 10000 --keep-for 7d --reason \"disks are small\"
  chronarch namespace set staging --keep-for 30d        only this limit from now on
  chronarch namespace delete staging                    none";

#[derive(Debug, Subcommand)]
pub(super) enum NamespaceCommand {
    /// Lists namespaces that have jobs, records or limits
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        #[command(flatten)]
        read: ReadFlags,
    },
    /// Shows the limits of a namespace, and how many records of it the asked node keeps
    Get {
        /// The namespace
        name: String,
        #[command(flatten)]
        read: ReadFlags,
    },
    /// Sets the limits of a namespace, all at once: what is not given is no limit. They hold beside the `retention` of
    /// each job: the stricter one wins
    Set(SetArgs),
    /// Takes the limits of a namespace away; its jobs and their records stay
    Delete {
        /// The namespace
        name: String,
        #[command(flatten)]
        write: WriteFlags,
    },
}

#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct SetArgs {
    /// The namespace
    name: String,
    /// Records that are kept of all its jobs together, up to 100,000,000: the last that ended
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), required_unless_present = "keep_for")]
    keep: Option<u32>,
    /// How long a record is kept after its run has ended, such as 30d; 1m to 3660d
    #[arg(long, value_name = "DURATION", value_parser = positive_span)]
    keep_for: Option<Duration>,
    #[command(flatten)]
    write: WriteFlags,
}

pub(super) async fn carry_out(
    command: NamespaceCommand,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        NamespaceCommand::List { limit, read } => {
            let request = ListNamespacesRequest { stale: read.stale, ..ListNamespacesRequest::default() };
            let found = paging::namespaces(&client, request, limit as usize).await?;
            printer.list(&found, &found.namespaces, |wide| tables::namespaces(&found.namespaces, wide))?;
            if !found.next_page_token.is_empty() {
                printer.note(&format!("there are more than {limit} namespaces; --limit shows more"));
            }
            Ok(())
        }
        NamespaceCommand::Get { name, read } => {
            let request = GetNamespaceRequest { name, stale: read.stale };
            print(&client.get_namespace(request).await?, printer)
        }
        NamespaceCommand::Set(args) => {
            let SetArgs { name, keep, keep_for, write: WriteFlags { reason, identity } } = args;
            let (actor, operation_id) = (identity.actor(), identity.operation_id);
            let retention = Some(NamespaceRetention { runs: keep, age: keep_for.map(write) });
            let request = SetNamespaceRequest { name, retention, operation_id, actor, reason };
            print(&client.set_namespace(request).await?, printer)
        }
        NamespaceCommand::Delete { name, write: WriteFlags { reason, identity } } => {
            let (actor, operation_id) = (identity.actor(), identity.operation_id);
            let told = name.clone();
            let request = DeleteNamespaceRequest { name, operation_id, actor, reason };
            let answer = client.delete_namespace(request).await?;
            match printer.output() {
                Output::Table | Output::Wide => {
                    printer.note(&format!(
                        "namespace {told} has no limits any more; its {} jobs stay",
                        answer.jobs
                    ));
                }
                Output::Json | Output::Jsonl => printer.json_line(&answer)?,
                Output::Yaml => printer.yaml(&answer)?,
            }
            Ok(())
        }
    }
}

fn print(namespace: &Namespace, printer: &mut Printer) -> Result<(), Failure> {
    printer.object(namespace, |_| tables::namespaces(std::slice::from_ref(namespace), true))
}
