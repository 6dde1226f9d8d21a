//! One coordinator, assembled: the Raft node, the engine, the driver, the services on their ports.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use stevedore_common::clock::{Clock, SystemClock};
use stevedore_common::secret::SealingKey;
use stevedore_common::storage::{StoragePolicy, Warehouse};
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_proto::v1::admin_service_server::AdminServiceServer;
use stevedore_proto::v1::job_service_server::JobServiceServer;
use stevedore_proto::v1::raft_service_server::RaftServiceServer;
use stevedore_proto::v1::stage_service_server::StageServiceServer;
use stevedore_proto::v1::worker_service_server::WorkerServiceServer;
use stevedore_raft::{NodeConfig, RaftNode, Start};
use stevedore_sql::connection::{ConnectionOptions, StorageType};
use stevedore_state::catalog;
use stevedore_state::command::Command;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::api::admin_service::Admin;
use crate::api::flight_sql::{FlightSql, FlightSqlServer};
use crate::api::http;
use crate::api::job_service::Jobs;
use crate::api::raft_service::RaftMessages;
use crate::api::sessions::Sessions;
use crate::api::stage_service::StageFiles;
use crate::api::worker_service::WorkerSessions;
use crate::committer::Committer;
use crate::config::CoordinatorConfig;
use crate::cron::driver::CronDriver;
use crate::engine::Engine;
use crate::peers::{MAX_CLUSTER_MESSAGE, PeerTransport, Peers};
use crate::replica::Replica;
use crate::scheduler::driver::Driver;
use crate::scheduler::phases::Context;
use crate::scheduler::progress::{LiveProgress, ProgressBoard};
use crate::scheduler::workers::Workers;
use crate::state_machine::CommandMachine;
use crate::stores::Stores;
use crate::worker_directory::WorkerDirectory;

/// How long shutdown waits for another node to take leadership over.
const HANDOVER: Duration = Duration::from_secs(5);
const SEALING_KEY_FILE: &str = "sealing.key";

/// A running coordinator.
pub struct Coordinator {
    /// Where the client port answers.
    pub client_address: SocketAddr,
    /// Where the cluster port answers.
    pub cluster_address: SocketAddr,
    /// Where HTTP answers, if it was asked for.
    pub http_address: Option<SocketAddr>,
    /// The statements' engine, for whoever runs in the same process.
    pub engine: Arc<Engine>,
    replica: Replica,
    tasks: JoinSet<Result<()>>,
    shutdown: CancellationToken,
}

async fn bind(address: SocketAddr, what: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| {
        Error::unavailable(format!("cannot listen on {address} for the {what} port: {e}"))
            .hint("another instance may be running; stop it or choose another address")
    })
}

/// Small messages go out at once: without this each call waits for a delayed acknowledgement.
fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

fn sealing_key(config: &CoordinatorConfig) -> Result<SealingKey> {
    if let Some(text) = &config.sealing_key {
        return SealingKey::from_text(text);
    }
    let path = config.data_dir.join(SEALING_KEY_FILE);
    let failed = |e: std::io::Error| Error::from(e).context(format!("sealing key '{}'", path.display()));
    match std::fs::read_to_string(&path) {
        Ok(text) => SealingKey::from_text(&text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let text = SealingKey::generate_text();
            write_private(&path, text.expose()).map_err(failed)?;
            SealingKey::from_text(text.expose())
        }
        Err(e) => Err(failed(e)),
    }
}

/// Writes a file that only its owner may read, durably.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn warehouse(config: &CoordinatorConfig) -> Result<Warehouse> {
    let root = match &config.warehouse {
        Some(root) => root.clone(),
        None => {
            let folder = std::path::absolute(config.data_dir.join("warehouse"))?;
            folder
                .to_str()
                .map(str::to_owned)
                .ok_or_else(|| Error::invalid(format!("the path '{}' is not UTF-8", folder.display())))?
        }
    };
    let pairs = config
        .warehouse_options
        .iter()
        .map(|(key, value)| (key.clone(), stevedore_common::secret::Secret::new(value.clone())));
    let (params, secrets) = if config.warehouse_options.is_empty() {
        Default::default()
    } else {
        let options = ConnectionOptions::from_pairs(StorageType::of_uri(&root)?, pairs)
            .map_err(|e| e.context("warehouse options"))?;
        (options.params, options.secrets)
    };
    Warehouse::open(&root, params, secrets).map_err(|e| e.context("opening the warehouse"))
}

impl Coordinator {
    /// Opens the stores, starts the node and its services. Answers once the ports are open; the group may
    /// still be without a leader.
    ///
    /// # Errors
    /// Whatever is wrong with the configuration, the data folder or the ports.
    pub async fn start(
        config: CoordinatorConfig,
        metrics: http::Metrics,
        shutdown: CancellationToken,
    ) -> Result<Self> {
        config.validate()?;
        std::fs::create_dir_all(&config.data_dir)
            .map_err(|e| Error::from(e).context(format!("data folder '{}'", config.data_dir.display())))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let client_listener = bind(config.listen, "client").await?;
        let cluster_listener = bind(config.cluster_listen, "cluster").await?;
        let client_address = client_listener.local_addr()?;
        let cluster_address = cluster_listener.local_addr()?;

        let sealing_key = sealing_key(&config)?;
        // The same on all coordinators, which have the same key, and known to none but them and those they tell.
        let flight_token = sealing_key.derive("the workers' Flight services");
        let stores = Stores::new(
            warehouse(&config)?,
            sealing_key,
            StoragePolicy {
                allow_private_network: config.allow_private_network,
                allowed_fs_roots: config.allowed_fs_roots.clone(),
                allow_ambient_credentials: config.allow_ambient_credentials,
            },
        );
        let committer = Committer::new(stores.warehouse().file_io());
        let peers = Peers::new(&config.cluster_id, config.node_id, &config.peers)?;
        let replica = Self::start_raft(&config, &peers, clock.clone()).await?;

        let config = Arc::new(config);
        let workers = Arc::new(Workers::default());
        let progress = Arc::new(ProgressBoard::default());
        let directory = WorkerDirectory::new(replica.clone(), peers.clone(), workers.clone(), &flight_token)?;
        let live = LiveProgress::new(progress.clone(), replica.clone());
        let scheduling = config.scheduling.clone();
        let engine = Engine::new(
            replica.clone(),
            stores.clone(),
            committer.clone(),
            directory.clone(),
            live,
            scheduling,
        );
        let engine = Arc::new(engine);
        let cron = CronDriver::new(engine.clone(), stores.clone(), config.scheduling.task_history_days);
        let scheduling = config.scheduling.clone();
        let context = Context { replica: replica.clone(), stores, directory, committer, scheduling };
        let driver = Driver::new(context, workers.clone());

        let mut tasks = JoinSet::new();
        let driving = driver.clone().run(shutdown.clone());
        tasks.spawn(async move {
            driving.await;
            Ok(())
        });
        let scheduled = cron.run(shutdown.clone());
        tasks.spawn(async move {
            scheduled.await;
            Ok(())
        });
        tasks.spawn(found_cluster(replica.clone(), config.cluster_id.clone(), shutdown.clone()));

        let cluster_server = Server::builder()
            .add_service(
                RaftServiceServer::new(RaftMessages::new(
                    replica.clone(),
                    progress.clone(),
                    config.cluster_id.clone(),
                ))
                .max_decoding_message_size(MAX_CLUSTER_MESSAGE),
            )
            .add_service(
                WorkerServiceServer::new(WorkerSessions::new(
                    replica.clone(),
                    workers.clone(),
                    driver,
                    progress,
                    config.scheduling.clone(),
                    flight_token,
                    clock.clone(),
                ))
                .max_encoding_message_size(MAX_CLUSTER_MESSAGE)
                .max_decoding_message_size(MAX_CLUSTER_MESSAGE),
            )
            .serve_with_incoming_shutdown(incoming(cluster_listener), shutdown.clone().cancelled_owned());
        tasks.spawn(async move {
            cluster_server.await.map_err(|e| Error::internal(format!("the cluster port: {e}")))
        });

        let sessions = Arc::new(Sessions::new(clock, config.limits.sessions, config.limits.session_idle_ms));
        let flight = FlightSqlServer(FlightSql::new(engine.clone(), sessions.clone())?);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<FlightServiceServer<FlightSqlServer>>().await;
        health.set_serving::<JobServiceServer<Jobs>>().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(stevedore_proto::DESCRIPTOR_SET)
            .build_v1()
            .map_err(|e| Error::internal(format!("gRPC reflection: {e}")))?;
        let client_server = Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .add_service(health_service)
            .add_service(reflection)
            .add_service(
                FlightServiceServer::new(flight)
                    .max_decoding_message_size(config.limits.batch_bytes)
                    .max_encoding_message_size(usize::MAX),
            )
            .add_service(
                JobServiceServer::new(Jobs::new(engine.clone()))
                    .max_decoding_message_size(config.limits.message_bytes),
            )
            .add_service(
                StageServiceServer::new(StageFiles::new(engine.clone(), sessions))
                    .max_decoding_message_size(config.limits.message_bytes),
            )
            .add_service(AdminServiceServer::new(Admin::new(replica.clone(), workers, config.clone())))
            .serve_with_incoming_shutdown(incoming(client_listener), shutdown.clone().cancelled_owned());
        tasks.spawn(async move {
            client_server.await.map_err(|e| Error::internal(format!("the client port: {e}")))
        });

        let http_address = match config.http_listen {
            Some(listen) => {
                let of = replica.clone();
                let ready: http::Readiness = Arc::new(move || readiness(&of));
                Some(http::serve(listen, ready, metrics, shutdown.clone()).await?)
            }
            None => None,
        };
        tracing::info!(%client_address, %cluster_address, ?http_address, "the coordinator is up");
        Ok(Self { client_address, cluster_address, http_address, engine, replica, tasks, shutdown })
    }

    async fn start_raft(
        config: &CoordinatorConfig,
        peers: &Arc<Peers>,
        clock: Arc<dyn Clock>,
    ) -> Result<Replica> {
        let voters = config.peers.iter().map(|peer| peer.id).collect();
        let mut node = NodeConfig::new(config.node_id, config.cluster_id.clone(), voters);
        node.data_dir = Some(config.data_dir.join("raft"));
        node.state_cache_bytes = config.state_cache_bytes.unwrap_or(node.state_cache_bytes);
        let start = match (config.bootstrap, config.peers.len()) {
            (true, 1) => Start::OpenOrBootstrap,
            (true, _) => Start::Bootstrap,
            (false, _) => Start::Open,
        };
        let transport =
            Arc::new(PeerTransport { peers: peers.clone(), runtime: tokio::runtime::Handle::current() });
        // Opening the stores reads from disk.
        let handle =
            tokio::task::spawn_blocking(move || RaftNode::start(node, start, CommandMachine, transport))
                .await
                .map_err(|e| Error::internal(format!("starting the Raft node: {e}")))??;
        peers.attach(handle.clone());
        Ok(Replica::new(handle, peers.clone(), clock))
    }

    /// Waits until the group has a leader and the catalog is there.
    ///
    /// # Errors
    /// Unavailable, if that takes longer than `patience`.
    pub async fn ready(&self, patience: Duration) -> Result<()> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            match readiness(&self.replica) {
                Ok(()) => return Ok(()),
                Err(reason) if tokio::time::Instant::now() >= until => {
                    return Err(Error::unavailable(reason));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Runs until shutdown is asked for or the node fails; then hands leadership over and stops.
    ///
    /// # Errors
    /// Why the node failed.
    pub async fn wait(mut self) -> Result<()> {
        let handle = self.replica.handle().clone();
        let result = tokio::select! {
            () = self.shutdown.cancelled() => Ok(()),
            ended = handle.ended() => ended.map_err(|e| e.context("the Raft node ended")),
            Some(ended) = self.tasks.join_next() => match ended {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error),
                Err(panic) => Err(Error::internal(format!("a task of the coordinator panicked: {panic}"))),
            },
        };
        if self.replica.is_leader() {
            let _ = tokio::time::timeout(HANDOVER, handle.transfer_leadership(None)).await;
        }
        self.shutdown.cancel();
        let stop = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(HANDOVER, stop).await;
        handle.shutdown(true).await?;
        result
    }
}

fn readiness(replica: &Replica) -> std::result::Result<(), String> {
    if replica.leader().is_none() {
        return Err("the group has no leader".to_owned());
    }
    match catalog::cluster(&*replica.local()) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err("the catalog is not founded yet".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Founds the catalog once: whichever node comes first, the others are refused, and all go on.
async fn found_cluster(replica: Replica, cluster_id: String, shutdown: CancellationToken) -> Result<()> {
    let found = async {
        loop {
            if let Ok(view) = replica.read().await {
                if catalog::cluster(&*view)?.is_some() {
                    return Ok::<(), Error>(());
                }
                let command = Command::Bootstrap { cluster_id: cluster_id.clone() };
                match replica.propose(command).await {
                    Ok(_) => return Ok(()),
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
                    Err(error) => tracing::debug!(%error, "the catalog is not founded yet"),
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        result = found => {
            result?;
            shutdown.cancelled().await;
            Ok(())
        }
    }
}
