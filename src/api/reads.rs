//! Reading: which state, and where blocking is allowed.

use std::sync::Arc;

use tonic::Status;

use super::{Api, status};
use crate::history::{HistoryError, RunLog};
use crate::state::State;
use crate::state::run::{Run, RunId};
use crate::view::cluster::WorkerInfo;

impl Api {
    /// Waits until this node shows all that was acknowledged before.
    pub(super) async fn barrier(&self) -> Result<(), Status> {
        self.shared.raft.read_barrier().await.map_err(|error| status::read(&error))
    }

    /// The state: with all that was acknowledged before, or this node's own as it is.
    pub(super) async fn state(&self, stale: bool) -> Result<Arc<State>, Status> {
        if !stale {
            self.barrier().await?;
        }
        Ok(self.shared.raft.state())
    }

    pub(super) fn log(&self) -> Result<Arc<RunLog>, Status> {
        self.shared.log.get().cloned().ok_or_else(status::pristine)
    }

    /// Reads where blocking is allowed.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&RunLog) -> Result<T, HistoryError> + Send + 'static,
    ) -> Result<T, Status> {
        let log = self.log()?;
        match crate::threads::blocking(move || look(&log)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(status::history(&error)),
            Err(_) => Err(Status::unavailable("the node is ending")),
        }
    }

    /// A run, live or ended.
    pub(super) async fn find_run(&self, state: &State, id: RunId) -> Result<Option<Arc<Run>>, Status> {
        match state.run(id) {
            Some(run) => Ok(Some(Arc::clone(run))),
            None => self.look(move |log| log.get(id)).await,
        }
    }

    /// Who is connected, if this node leads.
    pub(super) fn workers(&self) -> Option<Vec<WorkerInfo>> {
        let leads = self.shared.raft.leadership().borrow().is_leader;
        leads.then(|| (self.shared.workers)())
    }
}
