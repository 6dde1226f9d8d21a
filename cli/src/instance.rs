//! An embedded instance: one coordinator and one worker in this process, on loopback ports.
//!
//! It runs the very code of a cluster; only the ports are chosen here. One process at a time may use a data
//! folder.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stevedore_common::ids::NodeId;
use stevedore_common::worker_group::WorkerGroup;
use stevedore_common::{Error, Result};
use stevedore_coordinator::Coordinator;
use stevedore_coordinator::api::http::Metrics;
use stevedore_coordinator::config::{CoordinatorConfig, Limits, Peer, Scheduling};
use stevedore_worker::read::ReadLimits;
use stevedore_worker::worker::{Worker, WorkerConfig};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Memory that the worker's slices and queries share by default, bytes.
pub const DEFAULT_MEMORY: u64 = 512 << 20;
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What an embedded instance is told.
#[derive(Debug, Clone)]
pub struct InstanceConfig {
    /// The data folder.
    pub data_dir: PathBuf,
    /// Client port.
    pub listen: SocketAddr,
    /// HTTP port.
    pub http: Option<SocketAddr>,
    /// Local folders that stages may name.
    pub allowed_fs_roots: Vec<PathBuf>,
    /// Whether stages may name private addresses.
    pub allow_private_network: bool,
    /// Whether S3 connections without keys use the identity of the machine.
    pub allow_ambient_credentials: bool,
    /// Where table data lies.
    pub warehouse: Option<String>,
    /// Listen on other addresses than loopback.
    pub insecure: bool,
    /// Bytes of memory for slices and queries.
    pub memory_budget: u64,
    /// What one text file may ask for.
    pub limits: ReadLimits,
    /// Sizes and times.
    pub scheduling: Scheduling,
}

impl InstanceConfig {
    /// The defaults, on ports that the system chooses.
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            http: None,
            allowed_fs_roots: Vec::new(),
            allow_private_network: false,
            allow_ambient_credentials: false,
            warehouse: None,
            insecure: false,
            memory_budget: DEFAULT_MEMORY,
            limits: ReadLimits::default(),
            scheduling: Scheduling::default(),
        }
    }
}

/// A running instance.
pub struct Instance {
    /// Where the client port answers.
    pub client_address: SocketAddr,
    /// Where HTTP answers.
    pub http_address: Option<SocketAddr>,
    shutdown: CancellationToken,
    coordinator: JoinHandle<Result<()>>,
    worker: JoinHandle<Result<()>>,
}

impl Instance {
    /// Starts an instance and waits until it can serve.
    ///
    /// # Errors
    /// Whatever is wrong with the folder or the ports.
    pub async fn start(config: InstanceConfig, metrics: Metrics) -> Result<Self> {
        let shutdown = CancellationToken::new();
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let node_id = NodeId(1);
        let roots = config
            .allowed_fs_roots
            .iter()
            .map(|root| {
                root.canonicalize()
                    .map_err(|e| Error::from(e).context(format!("allowed folder '{}'", root.display())))
            })
            .collect::<Result<Vec<_>>>()?;
        let coordinator = Coordinator::start(
            CoordinatorConfig {
                node_id,
                cluster_id: "local".to_owned(),
                data_dir: config.data_dir.clone(),
                listen: config.listen,
                cluster_listen: loopback,
                http_listen: config.http,
                peers: vec![Peer {
                    id: node_id,
                    cluster_address: format!("http://{loopback}"),
                    client_address: format!("http://{}", config.listen),
                }],
                bootstrap: true,
                warehouse: config.warehouse,
                warehouse_options: Vec::new(),
                allowed_fs_roots: roots,
                allow_private_network: config.allow_private_network,
                allow_ambient_credentials: config.allow_ambient_credentials,
                sealing_key: None,
                insecure: config.insecure,
                state_cache_bytes: None,
                limits: Limits::default(),
                scheduling: config.scheduling,
            },
            metrics,
            shutdown.clone(),
        )
        .await?;
        coordinator.ready(READY_WITHIN).await?;
        let worker = Worker::bind(WorkerConfig {
            id: "local".to_owned(),
            coordinators: vec![format!("http://{}", coordinator.cluster_address)],
            flight_listen: loopback,
            flight_advertise: None,
            cores: 0,
            memory_budget: config.memory_budget,
            limits: config.limits,
            slots: 0,
            data_dir: config.data_dir.join("worker"),
            group: WorkerGroup::default(),
        })
        .await?;
        let (client_address, http_address) = (coordinator.client_address, coordinator.http_address);
        let worker = tokio::spawn(worker.serve(shutdown.clone()));
        let coordinator = tokio::spawn(coordinator.wait());
        Ok(Self { client_address, http_address, shutdown, coordinator, worker })
    }

    /// The client port as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.client_address)
    }

    /// Runs until a part of it ends by itself.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn ended(&mut self) -> Result<()> {
        let result = tokio::select! {
            ended = &mut self.coordinator => ended,
            ended = &mut self.worker => ended,
        };
        result.map_err(|e| Error::internal(format!("the instance panicked: {e}")))?
    }

    /// Stops it.
    ///
    /// # Errors
    /// What failed on the way.
    pub async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        let _ = self.worker.await;
        self.coordinator.await.map_err(|e| Error::internal(format!("the coordinator panicked: {e}")))?
    }
}

/// Metrics that are not collected.
pub fn no_metrics() -> Metrics {
    Arc::new(String::new)
}
