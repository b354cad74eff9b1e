//! `BreakerService`.

use std::time::Duration;

use tonic::{Request, Response, Status};

use super::problem::Problems;
use super::spec::value;
use super::write::Write as _;
use super::{Api, limits, page, status};
use crate::pb::v1 as pb;
use crate::pb::v1::breaker_service_client::BreakerServiceClient;
use crate::pb::v1::breaker_service_server::BreakerService;
use crate::state::{BreakerKey, Command, State};
use crate::view::breaker;

pub(super) fn find(state: &State, namespace: &str, name: &str) -> Result<BreakerKey, Status> {
    let namespace = value::namespace(namespace);
    breaker::find(state, namespace, name).map_err(|error| status::no_breaker(namespace, name, &error))
}

fn shown(state: &State, namespace: &str, name: &str) -> Result<pb::Breaker, Status> {
    let key = find(state, namespace, name)?;
    breaker::to_pb(state, &key).ok_or_else(status::unexpected)
}

impl Api {
    async fn trip_here(self, mut message: pb::TripBreakerRequest) -> Result<pb::Breaker, Status> {
        let request = message.request();
        let mut problems = Problems::new();
        let range = Duration::from_millis(1)..=limits::OPEN_FOR;
        let open_for = value::span("open_for", message.open_for.as_ref(), range, &mut problems);
        if !problems.is_empty() {
            return Err(status::invalid(&problems));
        }
        let make = |state: &State, _| {
            let breaker = find(state, &message.namespace, &message.name)?;
            Ok(Command::TripBreaker { breaker, open_for, request: request.clone() })
        };
        self.decide(&request.operation_id, make).await?;
        shown(&self.shared.raft.state(), &message.namespace, &message.name)
    }

    async fn reset_here(self, mut message: pb::ResetBreakerRequest) -> Result<pb::Breaker, Status> {
        let request = message.request();
        let make = |state: &State, _| {
            let breaker = find(state, &message.namespace, &message.name)?;
            Ok(Command::ResetBreaker { breaker, request: request.clone() })
        };
        self.decide(&request.operation_id, make).await?;
        shown(&self.shared.raft.state(), &message.namespace, &message.name)
    }
}

#[tonic::async_trait]
impl BreakerService for Api {
    async fn list_breakers(
        &self,
        request: Request<pb::ListBreakersRequest>,
    ) -> Result<Response<pb::ListBreakersResponse>, Status> {
        let message = request.into_inner();
        let limit = page::page_size(message.page_size)?;
        let after = page::name(&message.page_token)?;
        let namespace = Some(message.namespace.as_str()).filter(|namespace| !namespace.is_empty());
        let state = self.state(message.stale).await?;
        let (breakers, more) = breaker::page(&state, namespace, after.as_ref(), limit);
        let last = breakers.last().filter(|_| more);
        let last = last.map(|breaker| (breaker.namespace.clone(), breaker.name.clone()));
        let next_page_token = page::after_name(last.as_ref());
        Ok(Response::new(pb::ListBreakersResponse {
            breakers,
            next_page_token,
            applied_index: state.applied_index(),
        }))
    }

    async fn get_breaker(
        &self,
        request: Request<pb::GetBreakerRequest>,
    ) -> Result<Response<pb::Breaker>, Status> {
        let message = request.into_inner();
        let state = self.state(message.stale).await?;
        shown(&state, &message.namespace, &message.name).map(Response::new)
    }

    async fn trip_breaker(
        &self,
        request: Request<pb::TripBreakerRequest>,
    ) -> Result<Response<pb::Breaker>, Status> {
        let there =
            |channel, request| async { BreakerServiceClient::new(channel).trip_breaker(request).await };
        self.write(request, Self::trip_here, there).await
    }

    async fn reset_breaker(
        &self,
        request: Request<pb::ResetBreakerRequest>,
    ) -> Result<Response<pb::Breaker>, Status> {
        let there =
            |channel, request| async { BreakerServiceClient::new(channel).reset_breaker(request).await };
        self.write(request, Self::reset_here, there).await
    }
}
