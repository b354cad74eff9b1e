//! Who changes the membership, through the shipped client, from a machine of their own: one change at a time, asked
//! for again and again until it is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chronarch::client::{Client, Error};
use chronarch::pb::v1;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::net;
use crate::truth::Truth;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(200);
/// How often a removed node asks to be let in before it is left alone: it may not be reached.
const RETURNS_MAX: u32 = 20;

/// What is to become of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is added, and perhaps gets a vote.
    Join { node: u64, votes: bool },
    /// It is removed.
    Remove { node: u64 },
    /// It was removed, and is to be a member again: that is refused.
    Return { node: u64 },
}

/// How the operator is reached.
pub(crate) struct Operator {
    asked: mpsc::Sender<Change>,
    is_busy: Arc<AtomicBool>,
}

impl Operator {
    /// The operator, and their life.
    pub(crate) fn new(truth: Truth) -> (Self, impl Future<Output = turmoil::Result>) {
        let (asked, mut changes) = mpsc::channel(1);
        let is_busy = Arc::<AtomicBool>::default();
        let busy = Arc::clone(&is_busy);
        let life = async move {
            let endpoints: Vec<_> =
                net::endpoints().map(|endpoint| endpoint.parse().expect("an endpoint")).collect();
            let client =
                Client::over(&net::dialer(), &endpoints, PATIENCE, || unreachable!("no ids are used"))
                    .expect("endpoints");
            let work = Work { client, truth };
            while let Some(change) = changes.recv().await {
                work.carry_out(change).await;
                busy.store(false, Ordering::Relaxed);
            }
            Ok(())
        };
        (Self { asked, is_busy }, life)
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Relaxed)
    }

    pub(crate) fn ask(&self, change: Change) {
        assert!(!self.is_busy.swap(true, Ordering::Relaxed), "one change at a time");
        self.asked.try_send(change).expect("there is room for one");
    }
}

struct Work {
    client: Client,
    truth: Truth,
}

impl Work {
    async fn carry_out(&self, change: Change) {
        match change {
            Change::Join { node, votes } => {
                self.add(node).await;
                if votes {
                    self.promote(node).await;
                }
            }
            Change::Remove { node } => self.remove(node).await,
            Change::Return { node } => self.ask_to_return(node).await,
        }
    }

    async fn add_once(&self, node: u64) -> Result<(), Error> {
        let peer_address = format!("n{node}:{}", net::PEER_PORT);
        let request = v1::AddNodeRequest { node_id: node, peer_address };
        self.client.add_node(request).await.map(drop)
    }

    async fn add(&self, node: u64) {
        let is_member = || self.truth.members().members.contains(&node);
        while !is_member() {
            match self.add_once(node).await {
                Ok(()) => assert!(is_member(), "node {node} is said to be added, and is no member"),
                Err(error) => self.again(&error).await,
            }
        }
    }

    async fn promote(&self, node: u64) {
        let is_voter = || self.truth.members().voters.contains(&node);
        while !is_voter() || self.truth.members().is_joint {
            let request = v1::PromoteNodeRequest { node_id: node };
            match self.client.promote_node(request).await {
                Ok(_) => assert!(is_voter(), "node {node} is said to have a vote, and has none"),
                Err(error) => self.again(&error).await,
            }
        }
    }

    async fn remove(&self, node: u64) {
        let is_member = || self.truth.members().members.contains(&node);
        while is_member() || self.truth.members().is_joint {
            let request = v1::RemoveNodeRequest { node_id: node };
            match self.client.remove_node(request).await {
                Ok(_) => assert!(!is_member(), "node {node} is said to be removed, and is a member"),
                Err(error) => self.again(&error).await,
            }
        }
    }

    async fn ask_to_return(&self, node: u64) {
        for _ in 0..RETURNS_MAX {
            match self.add_once(node).await {
                Ok(()) => panic!("node {node} was removed, and is let in again"),
                Err(Error::Refused { message, .. }) if message.contains("belongs to cluster") => {
                    return self.truth.count(|figures| figures.returns_refused += 1);
                }
                Err(error) => self.again(&error).await,
            }
        }
    }

    /// Whoever cannot be helped by asking again has found a mistake.
    async fn again(&self, error: &Error) {
        match error {
            Error::Refused { .. }
            | Error::NotFound { .. }
            | Error::Unreachable { .. }
            | Error::UnknownResult { .. } => sleep(PAUSE).await,
            Error::InvalidArgument { .. } | Error::PermissionDenied { .. } | Error::Unexpected { .. } => {
                panic!("a change of the membership: {error:?}")
            }
        }
    }
}
