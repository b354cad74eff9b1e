//! `job apply --prune`: what is in no file is deleted.

use std::collections::BTreeSet;

use super::PRUNE_MAX;
use crate::cli::printer::Printer;
use crate::cli::{Context, Failure};
use crate::client::paging;
use crate::pb::v1::{ApplyJobsRequest, DeleteJobRequest, JobSpec, ListJobsRequest};

/// Deletes the jobs of the namespaces that the files name which are in none of the files, and have these labels.
/// With `dry_run` they are only told.
pub(in crate::cli) async fn prune(
    applied: &[JobSpec],
    labels: &[(String, String)],
    request: &ApplyJobsRequest,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let client = context.client()?;
    let kept: BTreeSet<(&str, &str)> =
        applied.iter().map(|job| (job.namespace.as_str(), job.name.as_str())).collect();
    let namespaces: BTreeSet<&str> = kept.iter().map(|(namespace, _)| *namespace).collect();
    for namespace in namespaces {
        let list = ListJobsRequest {
            namespace: namespace.to_owned(),
            labels: labels.iter().cloned().collect(),
            ..ListJobsRequest::default()
        };
        let found = paging::jobs(&client, list, PRUNE_MAX).await?;
        if !found.next_page_token.is_empty() {
            let message =
                format!("namespace {namespace} has more than {PRUNE_MAX} jobs; narrow it with --prune-label");
            return Err(Failure::Usage { message });
        }
        let names = found.jobs.into_iter().filter_map(|job| job.spec).map(|spec| spec.name);
        for name in names.filter(|name| !kept.contains(&(namespace, name.as_str()))) {
            let told = format!("{namespace}/{name}");
            if !request.dry_run {
                let delete = DeleteJobRequest {
                    namespace: namespace.to_owned(),
                    name,
                    cancel_runs: false,
                    operation_id: request.operation_id.clone(),
                    actor: request.actor.clone(),
                    reason: "it is in no job file (apply --prune)".to_owned(),
                };
                client.delete_job(delete).await?;
            }
            let verb = if request.dry_run { "would be deleted" } else { "is deleted" };
            printer.note(&format!("job {told} {verb}: it is in no file"));
        }
    }
    Ok(())
}
