//! AdminService on the client port: what the cluster is doing.

use std::sync::Arc;
use std::time::Duration;

use stevedore_common::ids::NodeId;
use stevedore_proto::v1;
use stevedore_proto::v1::admin_service_server::AdminService;
use tonic::{Request, Response, Status};

use crate::config::CoordinatorConfig;
use crate::replica::Replica;
use crate::scheduler::workers::Workers;
use stevedore_status::status_of;

/// How long a transfer of leadership is waited for.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(10);

/// The service.
#[derive(Clone)]
pub struct Admin {
    replica: Replica,
    workers: Arc<Workers>,
    config: Arc<CoordinatorConfig>,
}

impl Admin {
    /// For this node.
    pub fn new(replica: Replica, workers: Arc<Workers>, config: Arc<CoordinatorConfig>) -> Self {
        Self { replica, workers, config }
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn cluster_status(
        &self,
        _request: Request<v1::ClusterStatusRequest>,
    ) -> std::result::Result<Response<v1::ClusterStatusResponse>, Status> {
        let status = self.replica.status().borrow().clone();
        let coordinators = self
            .config
            .peers
            .iter()
            .map(|peer| v1::CoordinatorStatus {
                node_id: peer.id.0,
                cluster_address: peer.cluster_address.clone(),
                client_address: peer.client_address.clone(),
            })
            .collect();
        Ok(Response::new(v1::ClusterStatusResponse {
            cluster_id: self.config.cluster_id.clone(),
            node_id: self.replica.id().0,
            leader_id: status.leader.map_or(0, |leader| leader.0),
            term: status.term,
            commit_index: status.commit,
            applied_index: status.applied,
            coordinators,
            workers: self.workers.statuses(),
        }))
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferLeadershipRequest>,
    ) -> std::result::Result<Response<v1::TransferLeadershipResponse>, Status> {
        let to = match request.into_inner().to {
            0 => None,
            id => Some(NodeId(id)),
        };
        let transfer = self.replica.handle().transfer_leadership(to);
        match tokio::time::timeout(TRANSFER_TIMEOUT, transfer).await {
            Ok(result) => result.map_err(status_of)?,
            Err(_) => return Err(Status::deadline_exceeded("leadership was not taken over in time")),
        }
        Ok(Response::new(v1::TransferLeadershipResponse {
            leader_id: self.replica.leader().map_or(0, |leader| leader.0),
        }))
    }
}
