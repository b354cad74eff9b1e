//! `ClusterService`.

use tonic::{Request, Response, Status};

use super::{Api, export, forward, limits, status};
use crate::client::{Endpoint, EndpointError};
use crate::pb::v1 as pb;
use crate::pb::v1::cluster_service_client::ClusterServiceClient;
use crate::pb::v1::cluster_service_server::ClusterService;
use crate::raft::Raft;
use crate::scheduler::zone::Zones;
use crate::view::cluster::{self, Build, ClusterSeen, NodeSeen, Role};

/// A leader that no majority has answered for so long is not shown as one.
const QUORUM_SILENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// What this binary is.
fn build() -> Build {
    Build { version: env!("CARGO_PKG_VERSION"), tzdata: Zones::bundled() }
}

/// What consensus says, in the words of the view.
fn seen(raft: &Raft) -> ClusterSeen {
    let status = raft.status();
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
            said: raft.said_by(*id),
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
        state_hashes: status.state_hashes.clone(),
        level_holds: raft.level_holds(),
    }
}

fn check_node_id(node_id: u64) -> Result<(), Status> {
    if node_id > 0 { Ok(()) } else { Err(status::invalid_field("node_id", "expected an integer from 1")) }
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

    async fn add_here(self, message: pb::AddNodeRequest) -> Result<pb::AddNodeResponse, Status> {
        check_node_id(message.node_id)?;
        // Parsed for its form alone: the members dial what was given.
        let address: Endpoint = message
            .peer_address
            .parse()
            .map_err(|error: EndpointError| status::invalid_field("peer_address", &error.to_string()))?;
        let address = address.to_string();
        if address.len() > limits::PEER_ADDRESS_BYTES {
            let reason = format!("is too long, at most {} bytes are allowed", limits::PEER_ADDRESS_BYTES);
            return Err(status::invalid_field("peer_address", &reason));
        }
        let added = self.shared.raft.add_learner(message.node_id, &address).await;
        added.map_err(|error| status::membership(&error))?;
        Ok(pb::AddNodeResponse {})
    }

    async fn promote_here(self, message: pb::PromoteNodeRequest) -> Result<pb::PromoteNodeResponse, Status> {
        check_node_id(message.node_id)?;
        let promoted = self.shared.raft.promote(message.node_id).await;
        promoted.map_err(|error| status::membership(&error))?;
        Ok(pb::PromoteNodeResponse {})
    }

    async fn remove_here(self, message: pb::RemoveNodeRequest) -> Result<pb::RemoveNodeResponse, Status> {
        check_node_id(message.node_id)?;
        let removed = self.shared.raft.remove(message.node_id).await;
        removed.map_err(|error| status::membership(&error))?;
        Ok(pb::RemoveNodeResponse {})
    }
}

#[tonic::async_trait]
impl ClusterService for Api {
    type ExportLogStream = export::Pieces;

    async fn export_log(
        &self,
        request: Request<pb::ExportLogRequest>,
    ) -> Result<Response<Self::ExportLogStream>, Status> {
        self.export_here(request).await
    }

    async fn get_status(
        &self,
        request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::ClusterStatus>, Status> {
        let may_forward = forward::may_forward(&request);
        let ask = |channel, request| async { ClusterServiceClient::new(channel).get_status(request).await };
        let leader = self.ask_leader(may_forward, pb::GetStatusRequest {}, ask).await;
        let seen = seen(&self.shared.raft);
        let workers = self.workers();
        let mut own = cluster::to_pb(&self.shared.raft.state(), &seen, &build(), workers.as_deref());
        // One that leads only in its own belief, cut off from the majority, leads nobody.
        if own.leader_id == own.node_id && !self.shared.raft.quorum_acked_within(QUORUM_SILENCE) {
            own.leader_id = 0;
        }
        if let Some(leader) = leader {
            own.workers = leader.workers;
            own.feature_level_holds = leader.feature_level_holds;
            for node in &mut own.nodes {
                if let Some(known) = leader.nodes.iter().find(|known| known.node_id == node.node_id) {
                    node.matched_index = known.matched_index;
                    node.silent_ms = known.silent_ms;
                    if known.feature_levels.is_some() {
                        node.version.clone_from(&known.version);
                        node.feature_levels = known.feature_levels;
                    }
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

    async fn add_node(
        &self,
        request: Request<pb::AddNodeRequest>,
    ) -> Result<Response<pb::AddNodeResponse>, Status> {
        let there = |channel, request| async { ClusterServiceClient::new(channel).add_node(request).await };
        self.write(request, Self::add_here, there).await
    }

    async fn promote_node(
        &self,
        request: Request<pb::PromoteNodeRequest>,
    ) -> Result<Response<pb::PromoteNodeResponse>, Status> {
        let there =
            |channel, request| async { ClusterServiceClient::new(channel).promote_node(request).await };
        self.write(request, Self::promote_here, there).await
    }

    async fn remove_node(
        &self,
        request: Request<pb::RemoveNodeRequest>,
    ) -> Result<Response<pb::RemoveNodeResponse>, Status> {
        let there =
            |channel, request| async { ClusterServiceClient::new(channel).remove_node(request).await };
        self.write(request, Self::remove_here, there).await
    }

    async fn set_tzdata(
        &self,
        request: Request<pb::SetTzdataRequest>,
    ) -> Result<Response<pb::SetTzdataResponse>, Status> {
        let there = |channel, request| async { ClusterServiceClient::new(channel).set_tzdata(request).await };
        self.write(request, Self::set_tzdata_here, there).await
    }
}
