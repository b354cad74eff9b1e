//! From a follower to the leader, once.

use std::sync::PoisonError;

use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::{Api, limits};

/// Metadata key of a request: how many nodes have handed it on.
pub(super) const HOPS: &str = "chronarch-hops";
/// A request is handed on at most so often.
const HOPS_MAX: u32 = 1;

/// Whether a request may be handed on; one with a strange count may not.
pub(super) fn may_forward<T>(request: &Request<T>) -> bool {
    match request.metadata().get(HOPS) {
        None => true,
        Some(hops) => {
            hops.to_str().ok().and_then(|hops| hops.parse().ok()).is_some_and(|hops: u32| hops < HOPS_MAX)
        }
    }
}

/// A request as it is handed on.
pub(super) fn handed_on<T>(message: T) -> Request<T> {
    let mut request = handed_on_open(message);
    request.set_timeout(limits::FORWARD_TIMEOUT);
    request
}

/// A request that is handed on and may take as long as it takes.
pub(super) fn handed_on_open<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(HOPS, AsciiMetadataValue::from_static("1"));
    request
}

impl Api {
    /// Where the leader is, unless this node leads or knows none.
    fn leader_address(&self) -> Option<String> {
        let leader = {
            let leadership = self.shared.raft.leadership();
            let leadership = leadership.borrow();
            leadership.leader.clone()
        };
        let (id, node) = leader?;
        (id != self.shared.raft.node_id() && !node.address.is_empty()).then_some(node.address)
    }

    /// A connection to the leader for one stream alone: what is not taken of it must not stand in the way of others.
    pub(super) fn leader_line(&self) -> Option<Channel> {
        let address = self.leader_address()?;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let endpoint = endpoint
            .connect_timeout(limits::LEADER_PART_WAIT)
            .initial_stream_window_size(limits::OUTPUT_WINDOW_BYTES)
            .initial_connection_window_size(limits::OUTPUT_WINDOW_BYTES)
            .http2_keep_alive_interval(limits::LEADER_PART_WAIT)
            .keep_alive_timeout(limits::LEADER_PART_WAIT)
            .keep_alive_while_idle(true);
        Some(self.shared.dialer.channel(&endpoint, &address))
    }

    /// The connection to the leader, unless this node leads or knows none.
    pub(super) fn leader_channel(&self) -> Option<Channel> {
        let leader = self.leader_address()?;
        let mut last = self.shared.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((address, channel)) = &*last
            && *address == leader
        {
            return Some(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{leader}")).ok()?;
        let endpoint = endpoint.connect_timeout(limits::LEADER_PART_WAIT);
        let channel = self.shared.dialer.channel(&endpoint, &leader);
        *last = Some((leader, channel.clone()));
        Some(channel)
    }

    /// What only the leader knows, asked of it; `None` when this node leads, when the request was
    /// handed on already, or when the leader does not answer in time.
    pub(super) async fn ask_leader<M, R, F>(
        &self,
        may_forward: bool,
        message: M,
        ask: impl FnOnce(Channel, Request<M>) -> F,
    ) -> Option<R>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let channel = self.leader_channel().filter(|_| may_forward)?;
        let asked = tokio::time::timeout(limits::LEADER_PART_WAIT, ask(channel, handed_on(message))).await;
        asked.ok()?.ok().map(Response::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_handed_on_once() {
        let mut request = Request::new(());
        assert!(may_forward(&request));
        for hops in ["1", "2", "-1", "x", ""] {
            request.metadata_mut().insert(HOPS, hops.parse().expect("ASCII"));
            assert!(!may_forward(&request), "{hops}");
        }
        assert!(!may_forward(&handed_on(())));
    }
}
