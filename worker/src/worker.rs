//! A worker as a whole: one engine, one set of threads and memory, the Flight service and the session.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use stevedore_common::storage::Stores;
use stevedore_common::worker_group::WorkerGroup;
use stevedore_common::{Error, Result};
use stevedore_proto::v1::Register;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;

use crate::flight::WorkerFlight;
use crate::flight_token::FlightToken;
use crate::query::{EngineConfig, QueryEngine};
use crate::read::{ReadLimits, WorkerResources};
use crate::session::{SessionConfig, run_session};
use crate::slice::{LaneResources, SliceRunner, StageFiles};
use crate::spare_memory;
use crate::write::Encoders;

/// The most that queries spill to disk.
const SPILL_BYTES: u64 = 64 << 30;

/// How a worker is set up.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Its name, unique in the cluster.
    pub id: String,
    /// Cluster addresses of coordinators, `host:port` or URLs.
    pub coordinators: Vec<String>,
    /// Where the Flight service listens; port 0 takes a free one.
    pub flight_listen: SocketAddr,
    /// The URL under which coordinators reach it (`http://host:port`); by default the address it
    /// listens on.
    pub flight_advertise: Option<String>,
    /// Threads that compute; 0: as many as the machine has cores.
    pub cores: usize,
    /// Bytes of memory that slices and queries share; 0: 2 GiB.
    pub memory_budget: u64,
    /// Slices at a time; 0: as many as cores.
    pub slots: usize,
    /// What one text file may ask for.
    pub limits: ReadLimits,
    /// A folder of its own, for spills.
    pub data_dir: PathBuf,
    /// Its group: it gets the work of statements that name it.
    pub group: WorkerGroup,
}

/// A worker that listens and is not in a session yet.
pub struct Worker {
    listener: TcpListener,
    engine: Arc<QueryEngine>,
    runner: Arc<SliceRunner>,
    session: SessionConfig,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("session", &self.session).finish_non_exhaustive()
    }
}

impl Worker {
    /// Binds the Flight address and starts the threads.
    ///
    /// # Errors
    /// Where the address, the folder or the threads cannot be had.
    pub async fn bind(config: WorkerConfig) -> Result<Self> {
        spare_memory::set_up_allocator();
        let cores = match config.cores {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            cores => cores,
        };
        let memory = if config.memory_budget == 0 { 2 << 30 } else { config.memory_budget };
        let slots = if config.slots == 0 { cores } else { config.slots };
        let listener = TcpListener::bind(config.flight_listen)
            .await
            .map_err(|e| Error::from(e).context(format!("listening on {}", config.flight_listen)))?;
        let flight_address = advertised(&config, listener.local_addr()?)?;
        let stores = Arc::new(Stores::default());
        // A quarter for reading, a half for queries; what is left is for the files being written.
        let mut resources = WorkerResources::new(cores, memory / 4)?;
        resources.settings.limits = config.limits;
        let stages = Arc::new(StageFiles::new(stores.clone(), resources.clone()));
        let engine = Arc::new(QueryEngine::new(EngineConfig {
            cores,
            memory_bytes: usize::try_from(memory / 2).unwrap_or(usize::MAX),
            spill_dir: config.data_dir.join("spill"),
            spill_bytes: SPILL_BYTES,
            stores: stores.clone(),
            stages: stages.clone(),
        })?);
        let encoders = Encoders::new(cores, memory / 4);
        let runner = Arc::new(SliceRunner {
            engine: engine.clone(),
            stores,
            resources,
            encoders,
            stages,
            inbox: Arc::default(),
            lanes: LaneResources::new(cores, config.data_dir.join("spill")),
            token: FlightToken::default(),
        });
        let register = Register {
            worker_id: config.id,
            incarnation: uuid::Uuid::new_v4().to_string(),
            flight_address,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            memory_budget: memory,
            slots: u32::try_from(slots).unwrap_or(u32::MAX),
            group: config.group.to_string(),
        };
        let token = runner.token.clone();
        let session = SessionConfig { register, coordinators: config.coordinators, slots, token };
        Ok(Self { listener, engine, runner, session })
    }

    /// The URL of its Flight service as others are told.
    pub fn flight_address(&self) -> &str {
        &self.session.register.flight_address
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// Where the Flight service ends by itself, or the session cannot begin.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<()> {
        let flight = tonic::transport::Server::builder()
            .add_service(InterceptedService::new(
                WorkerFlight::new(self.engine, self.runner.clone()).into_server(),
                self.runner.token.guard(),
            ))
            .serve_with_incoming_shutdown(
                TcpIncoming::from(self.listener).with_nodelay(Some(true)),
                shutdown.clone().cancelled_owned(),
            );
        let _spare = AbortOnDropHandle::new(tokio::spawn(spare_memory::give_back(
            self.runner.resources.memory.clone(),
        )));
        let session = run_session(self.session, self.runner, shutdown);
        let flight =
            async { flight.await.map_err(|e| Error::internal(format!("the Flight service ended: {e}"))) };
        tokio::try_join!(flight, session).map(|_| ())
    }

    /// Binds and serves until `shutdown`.
    ///
    /// # Errors
    /// As [`Worker::bind`] and [`Worker::serve`].
    pub async fn run(config: WorkerConfig, shutdown: CancellationToken) -> Result<()> {
        Self::bind(config).await?.serve(shutdown).await
    }
}

fn advertised(config: &WorkerConfig, bound: SocketAddr) -> Result<String> {
    match &config.flight_advertise {
        Some(url) if url.contains("://") => Ok(url.clone()),
        Some(address) => Ok(format!("http://{address}")),
        None if bound.ip().is_unspecified() => Err(Error::invalid(format!(
            "a worker that listens on {bound} must say under which address it is reached"
        ))
        .hint("set the advertised Flight address to a host and port that coordinators can reach")),
        None => Ok(format!("http://{bound}")),
    }
}
