//! `NamespaceService`.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::problem::Problems;
use super::spec::value;
use super::write::Write as _;
use super::{Api, limits, page, status};
use crate::pb::v1 as pb;
use crate::pb::v1::namespace_service_client::NamespaceServiceClient;
use crate::pb::v1::namespace_service_server::NamespaceService;
use crate::state::namespace::NamespaceLimits;
use crate::state::{Command, State};
use crate::view;

/// What is asked to be kept, or all that is wrong with it.
fn read(message: &pb::SetNamespaceRequest) -> Result<NamespaceLimits, Status> {
    let mut problems = Problems::new();
    value::name("name", &message.name, &mut problems);
    let asked = message.retention.unwrap_or_default();
    if let Some(runs) = asked.runs {
        value::within("retention.runs", runs, &(1..=limits::NAMESPACE_RUNS), &mut problems);
    }
    let ages = Duration::from_secs(60)..=limits::RETENTION_AGE;
    let age = value::span("retention.age", asked.age.as_ref(), ages, &mut problems);
    if asked.runs.is_none() && asked.age.is_none() {
        problems.add("retention", "neither runs nor age is set: nothing would be limited");
    }
    if problems.is_empty() {
        Ok(NamespaceLimits { runs: asked.runs, age })
    } else {
        Err(status::invalid(&problems))
    }
}

impl Api {
    /// All namespaces, with what this node's run log has of them.
    async fn namespaces(&self, state: Arc<State>) -> Result<Vec<pb::Namespace>, Status> {
        let look = move |log: &crate::history::RunLog| {
            let records = if log.gap().is_none() { log.retained()? } else { None };
            Ok(view::namespace::all(&state, &records))
        };
        self.look(look).await
    }

    async fn namespace(&self, state: Arc<State>, name: &str) -> Result<pb::Namespace, Status> {
        let found = self.namespaces(state).await?;
        found.into_iter().find(|namespace| namespace.name == name).ok_or_else(|| status::no_namespace(name))
    }

    async fn set_namespace_here(self, mut message: pb::SetNamespaceRequest) -> Result<pb::Namespace, Status> {
        let request = message.request();
        let limits = read(&message)?;
        let make = |_: &State, _| {
            let (namespace, request) = (message.name.as_str().into(), request.clone());
            Ok(Command::SetNamespace { namespace, limits, request })
        };
        self.decide(&request.operation_id, make).await?;
        // A repeat may come when somebody has taken the limits away again.
        let found = self.namespaces(self.shared.raft.state()).await?;
        let found = found.into_iter().find(|namespace| namespace.name == message.name);
        Ok(found.unwrap_or(pb::Namespace { name: message.name, ..pb::Namespace::default() }))
    }

    async fn delete_namespace_here(
        self,
        mut message: pb::DeleteNamespaceRequest,
    ) -> Result<pb::DeleteNamespaceResponse, Status> {
        let request = message.request();
        let mut problems = Problems::new();
        value::name("name", &message.name, &mut problems);
        if !problems.is_empty() {
            return Err(status::invalid(&problems));
        }
        let make = |_: &State, _| {
            let (namespace, limits) = (message.name.as_str().into(), NamespaceLimits::default());
            Ok(Command::SetNamespace { namespace, limits, request: request.clone() })
        };
        self.decide(&request.operation_id, make).await?;
        let state = self.shared.raft.state();
        let jobs = state.jobs_after(Some((&message.name, "")));
        let jobs = jobs.take_while(|job| job.spec.namespace == message.name).count();
        Ok(pb::DeleteNamespaceResponse { jobs: jobs as u64 })
    }
}

#[tonic::async_trait]
impl NamespaceService for Api {
    async fn list_namespaces(
        &self,
        request: Request<pb::ListNamespacesRequest>,
    ) -> Result<Response<pb::ListNamespacesResponse>, Status> {
        let message = request.into_inner();
        let limit = page::page_size(message.page_size)?;
        let after = page::name(&message.page_token)?.map(|(namespace, _)| namespace);
        let state = self.state(message.stale).await?;
        let applied_index = state.applied_index();
        let mut namespaces = self.namespaces(state).await?;
        namespaces.retain(|namespace| after.as_ref().is_none_or(|after| namespace.name > *after));
        let more = namespaces.len() > limit;
        namespaces.truncate(limit);
        let last = namespaces.last().filter(|_| more).map(|last| (last.name.clone(), String::new()));
        let next_page_token = page::after_name(last.as_ref());
        Ok(Response::new(pb::ListNamespacesResponse { namespaces, next_page_token, applied_index }))
    }

    async fn get_namespace(
        &self,
        request: Request<pb::GetNamespaceRequest>,
    ) -> Result<Response<pb::Namespace>, Status> {
        let message = request.into_inner();
        let state = self.state(message.stale).await?;
        self.namespace(state, &message.name).await.map(Response::new)
    }

    async fn set_namespace(
        &self,
        request: Request<pb::SetNamespaceRequest>,
    ) -> Result<Response<pb::Namespace>, Status> {
        let there =
            |channel, request| async { NamespaceServiceClient::new(channel).set_namespace(request).await };
        self.write(request, Self::set_namespace_here, there).await
    }

    async fn delete_namespace(
        &self,
        request: Request<pb::DeleteNamespaceRequest>,
    ) -> Result<Response<pb::DeleteNamespaceResponse>, Status> {
        let there =
            |channel, request| async { NamespaceServiceClient::new(channel).delete_namespace(request).await };
        self.write(request, Self::delete_namespace_here, there).await
    }
}
