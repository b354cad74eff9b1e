//! `QueueService`.

use tonic::{Request, Response, Status};

use super::problem::Problems;
use super::spec::{sharing, value};
use super::write::Write as _;
use super::{Api, limits, status};
use crate::pb::v1 as pb;
use crate::pb::v1::queue_service_client::QueueServiceClient;
use crate::pb::v1::queue_service_server::QueueService;
use crate::state::queue::QueueLimits;
use crate::state::{Command, State};
use crate::view;

impl Api {
    async fn set_queue_here(self, mut message: pb::SetQueueRequest) -> Result<pb::Queue, Status> {
        let request = message.request();
        let mut problems = Problems::new();
        value::name("name", &message.name, &mut problems);
        if let Some(concurrency) = message.concurrency {
            value::within("concurrency", concurrency, &(1..=limits::CONCURRENCY), &mut problems);
        }
        if let Some(most) = message.max_waiting {
            value::within("max_waiting", most, &(1..=limits::WAITING), &mut problems);
        }
        let rate = sharing::rate("rate", &message.rate, &mut problems);
        if !problems.is_empty() {
            return Err(status::invalid(&problems));
        }
        let limits = QueueLimits { concurrency: message.concurrency, rate, waiting: message.max_waiting };
        let make = |_: &State, _| {
            let (queue, limits, request) = (message.name.as_str().into(), limits.clone(), request.clone());
            Ok(Command::SetQueue { queue, limits, request })
        };
        self.decide(&request.operation_id, make).await?;
        let (state, name) = (self.shared.raft.state(), message.name.clone());
        let queues = self.look(move |_| Ok(view::queue::all(&state))).await?;
        let found = queues.into_iter().find(|queue| queue.name == name);
        Ok(found.unwrap_or(pb::Queue { name: message.name, ..pb::Queue::default() }))
    }
}

#[tonic::async_trait]
impl QueueService for Api {
    async fn list_queues(
        &self,
        request: Request<pb::ListQueuesRequest>,
    ) -> Result<Response<pb::ListQueuesResponse>, Status> {
        let state = self.state(request.into_inner().stale).await?;
        let applied_index = state.applied_index();
        let queues = self.look(move |_| Ok(view::queue::all(&state))).await?;
        Ok(Response::new(pb::ListQueuesResponse { queues, applied_index }))
    }

    async fn set_queue(&self, request: Request<pb::SetQueueRequest>) -> Result<Response<pb::Queue>, Status> {
        let there = |channel, request| async { QueueServiceClient::new(channel).set_queue(request).await };
        self.write(request, Self::set_queue_here, there).await
    }
}
