//! RaftService on the cluster port: messages, snapshots, proposals and questions from the other coordinators.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use stevedore_common::ids::NodeId;
use stevedore_common::{Error, Result};
use stevedore_proto::v1;
use stevedore_proto::v1::raft_service_server::RaftService;
use tonic::{Request, Response, Status, Streaming};

use crate::replica::Replica;
use crate::scheduler::progress::{Progress, ProgressBoard};
use stevedore_status::{error_info, status_of};

/// The service.
#[derive(Clone)]
pub struct RaftMessages {
    replica: Replica,
    progress: Arc<ProgressBoard>,
    cluster_id: String,
}

impl RaftMessages {
    /// For the group of this cluster.
    pub fn new(replica: Replica, progress: Arc<ProgressBoard>, cluster_id: String) -> Self {
        Self { replica, progress, cluster_id }
    }

    fn check_cluster(&self, cluster_id: &str) -> Result<()> {
        if cluster_id == self.cluster_id {
            return Ok(());
        }
        Err(Error::denied(format!(
            "this is cluster '{}', the message is for '{cluster_id}'",
            self.cluster_id
        )))
    }

    async fn admit(&self, cluster_id: &str, from: u64, incarnation: &str, to: u64) -> Result<()> {
        self.check_cluster(cluster_id)?;
        if to != self.replica.id().0 {
            return Err(Error::denied(format!(
                "this is coordinator {}, the message is for {to}",
                self.replica.id()
            )));
        }
        self.replica.handle().admit_peer(cluster_id, NodeId(from), incarnation).await
    }

    async fn receive_snapshot(&self, mut chunks: Streaming<v1::SnapshotChunk>) -> Result<u64> {
        let mut receiver = None;
        let mut bytes = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk =
                chunk.map_err(|s| Error::unavailable(format!("a snapshot broke off: {}", s.message())))?;
            let mut open = match receiver.take() {
                Some(open) => open,
                None => {
                    self.admit(&chunk.cluster_id, chunk.from, &chunk.from_incarnation, chunk.to).await?;
                    self.replica.handle().begin_snapshot(&Bytes::from(chunk.message.clone()))?
                }
            };
            let last = chunk.last;
            bytes += chunk.data.len() as u64;
            // The piece is written to disk, off the runtime's own threads.
            open = tokio::task::spawn_blocking(move || {
                open.write(chunk.offset, &chunk.data, chunk.crc32)?;
                Ok::<_, Error>(open)
            })
            .await
            .map_err(|e| Error::internal(format!("writing a snapshot: {e}")))??;
            if last {
                tokio::task::spawn_blocking(move || open.finish())
                    .await
                    .map_err(|e| Error::internal(format!("finishing a snapshot: {e}")))??;
                return Ok(bytes);
            }
            receiver = Some(open);
        }
        Err(Error::bad_data("a snapshot ended before its last piece"))
    }
}

#[tonic::async_trait]
impl RaftService for RaftMessages {
    async fn send(
        &self,
        request: Request<Streaming<v1::RaftEnvelope>>,
    ) -> std::result::Result<Response<v1::RaftSendSummary>, Status> {
        let mut envelopes = request.into_inner();
        let mut received = 0;
        while let Some(envelope) = envelopes.next().await {
            let envelope = envelope?;
            self.admit(&envelope.cluster_id, envelope.from, &envelope.from_incarnation, envelope.to)
                .await
                .map_err(status_of)?;
            let messages: Vec<Bytes> = envelope.messages.into_iter().map(Bytes::from).collect();
            received += messages.len() as u64;
            self.replica.handle().step(&messages).map_err(status_of)?;
        }
        Ok(Response::new(v1::RaftSendSummary { received }))
    }

    async fn send_snapshot(
        &self,
        request: Request<Streaming<v1::SnapshotChunk>>,
    ) -> std::result::Result<Response<v1::SnapshotReceipt>, Status> {
        let bytes = self.receive_snapshot(request.into_inner()).await.map_err(status_of)?;
        Ok(Response::new(v1::SnapshotReceipt { bytes }))
    }

    async fn propose(
        &self,
        request: Request<v1::ProposeRequest>,
    ) -> std::result::Result<Response<v1::ProposeResponse>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id).map_err(status_of)?;
        let response = match self.replica.propose_locally(request.command.into()).await {
            Ok((result, index)) => v1::ProposeResponse { result: result.into(), index, error: None },
            Err(error) => v1::ProposeResponse { error: Some(error_info(&error)), ..Default::default() },
        };
        Ok(Response::new(response))
    }

    async fn job_progress(
        &self,
        request: Request<v1::JobProgressRequest>,
    ) -> std::result::Result<Response<v1::JobProgressResponse>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id).map_err(status_of)?;
        let Progress { files, rows, bytes, errors } =
            self.progress.of_job(request.job_id.parse().map_err(status_of)?);
        Ok(Response::new(v1::JobProgressResponse { files, rows, bytes, errors }))
    }

    async fn hello(
        &self,
        request: Request<v1::HelloRequest>,
    ) -> std::result::Result<Response<v1::HelloResponse>, Status> {
        self.check_cluster(&request.into_inner().cluster_id).map_err(status_of)?;
        Ok(Response::new(v1::HelloResponse {
            node_id: self.replica.id().0,
            incarnation: self.replica.handle().incarnation().to_owned(),
            leader_id: self.replica.leader().map_or(0, |leader| leader.0),
            leader_client_address: String::new(),
        }))
    }
}
