//! `ClusterService`.

use tonic::{Request, Response, Status};

use super::{Api, forward, status};
use crate::pb::v1 as pb;
use crate::pb::v1::cluster_service_client::ClusterServiceClient;
use crate::pb::v1::cluster_service_server::ClusterService;
use crate::raft::RaftStatus;
use crate::view::cluster::{self, Build, ClusterSeen, NodeSeen, Role};

/// What this binary is.
fn build() -> Build {
    Build { version: env!("CARGO_PKG_VERSION"), tzdata: crate::scheduler::zone::tzdb_release() }
}

/// What consensus says, in the words of the view.
fn seen(status: &RaftStatus) -> ClusterSeen {
    let leader_id = status.leader.as_ref().map(|(id, _)| *id);
    let node = |(id, address): (&u64, &crate::raft::NodeAddress)| {
        let peer = status.peers.iter().find(|peer| peer.id == *id);
        let leads_here = *id == status.node_id && leader_id == Some(*id);
        NodeSeen {
            node_id: *id,
            address: address.address.clone(),
            peer_address: address.peer_address.clone(),
            role: if leader_id == Some(*id) {
                Role::Leader
            } else if status.voters.contains(id) {
                Role::Voter
            } else {
                Role::Learner
            },
            matched_index: if leads_here {
                status.last_index
            } else {
                peer.and_then(|peer| peer.matched_index)
            },
            silent: peer.and_then(|peer| peer.silent_for),
        }
    };
    ClusterSeen {
        cluster_id: status.cluster_id.map(|id| id.to_string()).unwrap_or_default(),
        node_id: status.node_id,
        leader_id,
        term: status.term,
        last_index: status.last_index.unwrap_or(0),
        committed_index: status.committed_index.unwrap_or(0),
        applied_index: status.applied_index.unwrap_or(0),
        snapshot_index: status.snapshot_index.unwrap_or(0),
        nodes: status.nodes.iter().map(node).collect(),
    }
}

impl Api {
    async fn transfer_here(
        self,
        message: pb::TransferLeaderRequest,
    ) -> Result<pb::TransferLeaderResponse, Status> {
        let to = Some(message.to).filter(|to| *to > 0);
        let moved = self.shared.raft.transfer_leader(to).await;
        let leader_id = moved.map_err(|error| status::transfer(&error))?;
        Ok(pb::TransferLeaderResponse { leader_id })
    }
}

#[tonic::async_trait]
impl ClusterService for Api {
    async fn get_status(
        &self,
        request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::ClusterStatus>, Status> {
        let may_forward = forward::may_forward(&request);
        let ask = |channel, request| async { ClusterServiceClient::new(channel).get_status(request).await };
        let leader = self.ask_leader(may_forward, pb::GetStatusRequest {}, ask).await;
        let seen = seen(&self.shared.raft.status());
        let workers = self.workers();
        let mut own = cluster::to_pb(&self.shared.raft.state(), &seen, build(), workers.as_deref());
        if let Some(leader) = leader {
            own.workers = leader.workers;
            for node in &mut own.nodes {
                if let Some(known) = leader.nodes.iter().find(|known| known.node_id == node.node_id) {
                    node.matched_index = known.matched_index;
                    node.silent_ms = known.silent_ms;
                }
            }
        }
        Ok(Response::new(own))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let there =
            |channel, request| async { ClusterServiceClient::new(channel).transfer_leader(request).await };
        self.write(request, Self::transfer_here, there).await
    }
}
