//! A cluster of real processes on loopback: some coordinators, some workers, one warehouse.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stevedore::client::Client;
use stevedore_common::secret::SealingKey;
use stevedore_proto::v1;
use tempfile::TempDir;

use crate::server::Process;

/// How long a cluster may take to answer, whatever was done to it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How a cluster is cut.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// A worker that was not heard for this long has lost its slices, milliseconds.
    pub lease_ms: u64,
    /// Input bytes that a slice is packed to.
    pub slice_bytes: u64,
    /// How much more that is at each coordinator than at the one before, as in the middle of a change of configuration.
    pub slice_bytes_step: u64,
    /// Input bytes that small files are gathered to; 0: as `slice_bytes` has it.
    pub lane_bytes: u64,
    /// Coordinators: 1, 3 or 5.
    pub coordinators: usize,
    /// Workers.
    pub workers: usize,
    /// Their groups, by number; those without one name none.
    pub groups: Vec<&'static str>,
    /// Where table data lies, and the connection keys for it; `None`: a folder of the cluster's own.
    pub warehouse: Option<(String, Vec<(&'static str, String)>)>,
    /// Environment variables of all processes.
    pub environment: Vec<(&'static str, String)>,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            lease_ms: 2_000,
            slice_bytes: 1,
            slice_bytes_step: 0,
            lane_bytes: 0,
            coordinators: 3,
            workers: 2,
            groups: Vec::new(),
            warehouse: None,
            environment: Vec::new(),
        }
    }
}

struct Node {
    config: PathBuf,
    log: PathBuf,
    /// Of workers their Flight service.
    client_url: String,
    /// Of coordinators.
    cluster_url: String,
    process: Option<Process>,
}

/// A running cluster.
pub struct Cluster {
    coordinators: Vec<Node>,
    workers: Vec<Node>,
    files: PathBuf,
    warehouse: PathBuf,
    environment: Vec<(&'static str, String)>,
    _root: TempDir,
}

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

fn toml(path: &Path) -> String {
    format!("'{}'", path.display())
}

impl Cluster {
    /// Founds a cluster and waits until it has a leader and its workers.
    pub async fn start(config: ClusterConfig) -> Self {
        stevedore_common::telemetry::install_crypto_provider();
        let root = tempfile::tempdir().unwrap();
        let base = root.path().canonicalize().unwrap();
        let files = base.join("files");
        std::fs::create_dir_all(&files).unwrap();
        let ports = free_ports(config.coordinators * 2 + config.workers);
        let (client, rest) = ports.split_at(config.coordinators);
        let (cluster, flight) = rest.split_at(config.coordinators);
        let sealing_key = SealingKey::generate_text();
        let local = base.join("warehouse");
        let (warehouse, options) =
            config.warehouse.unwrap_or_else(|| (local.to_str().unwrap().to_owned(), Vec::new()));
        let options: Vec<String> = options.iter().map(|(key, value)| format!("{key} = '{value}'")).collect();
        let mut coordinators = Vec::new();
        for i in 0..config.coordinators {
            let mut text = format!(
                "node_id = {}\ncluster_id = 'test'\ndata_dir = {}\nlisten = '127.0.0.1:{}'\n\
                 cluster_listen = '127.0.0.1:{}'\nwarehouse = '{warehouse}'\nwarehouse_options = {{ {} }}\nallow_fs = [{}]\nsealing_key = '{}'\n\
                 allow_private_network = true\nlease_ms = {}\nslice_bytes = {}\nlane_bytes = {}\n",
                i + 1,
                toml(&base.join(format!("coordinator-{}", i + 1))),
                client[i],
                cluster[i],
                options.join(", "),
                toml(&files),
                sealing_key.expose(),
                config.lease_ms,
                config.slice_bytes + config.slice_bytes_step * i as u64,
                config.lane_bytes,
            );
            for peer in 0..config.coordinators {
                let _ = write!(
                    text,
                    "\n[[peers]]\nid = {}\ncluster_address = 'http://127.0.0.1:{}'\n\
                     client_address = 'http://127.0.0.1:{}'\n",
                    peer + 1,
                    cluster[peer],
                    client[peer],
                );
            }
            let name = format!("coordinator-{}", i + 1);
            coordinators.push(Node::new(&base, &name, &text, client[i], cluster[i]));
        }
        let addresses: Vec<String> =
            cluster.iter().map(|port| format!("'http://127.0.0.1:{port}'")).collect();
        let workers = (0..config.workers)
            .map(|i| {
                let group =
                    config.groups.get(i).map(|group| format!("group = '{group}'\n")).unwrap_or_default();
                let text = format!(
                    "{group}id = 'worker-{}'\ncoordinators = [{}]\nflight_listen = '127.0.0.1:{}'\ncores = 1\nslots = 1\n\
                     memory_budget = 134217728\ndata_dir = {}\n",
                    i + 1,
                    addresses.join(", "),
                    flight[i],
                    toml(&base.join(format!("worker-{}", i + 1))),
                );
                Node::new(&base, &format!("worker-{}", i + 1), &text, flight[i], flight[i])
            })
            .collect();
        let environment = config.environment;
        let mut cluster = Self { coordinators, workers, files, warehouse: local, environment, _root: root };
        for i in 0..cluster.coordinators.len() {
            cluster.start_coordinator(i, true);
        }
        for i in 0..cluster.workers.len() {
            cluster.start_worker(i);
        }
        cluster.ready().await;
        cluster.founded().await;
        cluster
    }

    /// Waits until the first leader has made what a new cluster has.
    async fn founded(&self) {
        let start = Instant::now();
        let (leader, _) = self.leader().await;
        let client = self.client(leader).await;
        while client.query("USE default").await.is_err() {
            assert!(start.elapsed() < PATIENCE, "the cluster has no database within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn start_coordinator(&mut self, i: usize, found: bool) {
        let node = &mut self.coordinators[i];
        let config = node.config.to_str().unwrap();
        let mut arguments = vec!["coordinator", "--config", config];
        if found {
            arguments.push("--bootstrap");
        }
        node.process = Some(Process::start(&arguments, &self.environment, &node.log));
    }

    fn start_worker(&mut self, i: usize) {
        let node = &mut self.workers[i];
        let arguments = ["worker", "--config", node.config.to_str().unwrap()];
        node.process = Some(Process::start(&arguments, &self.environment, &node.log));
    }

    /// Starts a coordinator again on its data.
    pub fn restart_coordinator(&mut self, i: usize) {
        self.start_coordinator(i, false);
    }

    /// Starts a worker again.
    pub fn restart_worker(&mut self, i: usize) {
        self.start_worker(i);
    }

    /// SIGKILL.
    pub fn kill_coordinator(&mut self, i: usize) {
        self.coordinators[i].process = None;
    }

    /// SIGKILL.
    pub fn kill_worker(&mut self, i: usize) {
        self.workers[i].process = None;
    }

    /// SIGKILL to all of them.
    pub fn kill_all(&mut self) {
        for node in self.coordinators.iter_mut().chain(&mut self.workers) {
            node.process = None;
        }
    }

    /// Starts whatever does not run.
    pub fn restart_all(&mut self) {
        for i in 0..self.coordinators.len() {
            if self.coordinators[i].process.is_none() {
                self.start_coordinator(i, false);
            }
        }
        for i in 0..self.workers.len() {
            if self.workers[i].process.is_none() {
                self.start_worker(i);
            }
        }
    }

    /// How many coordinators it has, running or not.
    pub fn coordinators(&self) -> usize {
        self.coordinators.len()
    }

    /// A coordinator's process.
    pub fn coordinator(&self, i: usize) -> &Process {
        self.coordinators[i].process.as_ref().unwrap()
    }

    /// How many workers it has, running or not.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// A worker's process.
    pub fn worker(&self, i: usize) -> &Process {
        self.workers[i].process.as_ref().unwrap()
    }

    /// What a worker has logged.
    pub fn worker_log(&self, i: usize) -> String {
        self.workers[i].logged()
    }

    /// What a coordinator has logged.
    pub fn coordinator_log(&self, i: usize) -> String {
        self.coordinators[i].logged()
    }

    /// The folder that stages may name.
    pub fn files(&self) -> &Path {
        &self.files
    }

    /// The folder of the warehouse, where it is not in a bucket.
    pub fn warehouse(&self) -> &Path {
        &self.warehouse
    }

    /// The client port of a coordinator.
    pub fn url(&self, i: usize) -> &str {
        &self.coordinators[i].client_url
    }

    /// The cluster port of a coordinator, where workers register.
    pub fn cluster_url(&self, i: usize) -> &str {
        &self.coordinators[i].cluster_url
    }

    /// The Flight service of a worker.
    pub fn worker_url(&self, i: usize) -> &str {
        &self.workers[i].client_url
    }

    /// A client of a coordinator that must be up.
    pub async fn client(&self, i: usize) -> Client {
        Client::connect(self.url(i)).await.unwrap()
    }

    /// What a coordinator says of the cluster, if it answers.
    pub async fn status(&self, i: usize) -> Option<v1::ClusterStatusResponse> {
        let ask = async {
            let client = Client::connect(self.url(i)).await.ok()?;
            Some(client.admin().cluster_status(v1::ClusterStatusRequest {}).await.ok()?.into_inner())
        };
        tokio::time::timeout(Duration::from_secs(2), ask).await.ok()?
    }

    /// The leading coordinator, once there is one that says so itself, and what it says.
    pub async fn leader(&self) -> (usize, v1::ClusterStatusResponse) {
        let start = Instant::now();
        loop {
            for i in 0..self.coordinators.len() {
                if self.coordinators[i].process.is_none() {
                    continue;
                }
                if let Some(status) = self.status(i).await
                    && status.leader_id == status.node_id
                    && status.node_id != 0
                {
                    return (i, status);
                }
            }
            assert!(start.elapsed() < PATIENCE, "no leader within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the leader knows every worker that runs.
    pub async fn ready(&self) {
        let start = Instant::now();
        let running = self.workers.iter().filter(|node| node.process.is_some()).count();
        while self.leader().await.1.workers.len() < running {
            assert!(start.elapsed() < PATIENCE, "not all workers came within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until some worker runs a slice; its number.
    pub async fn busy_worker(&self) -> usize {
        let start = Instant::now();
        loop {
            let (_, status) = self.leader().await;
            if let Some(worker) = status.workers.iter().find(|worker| worker.running > 0) {
                let number: usize = worker.worker_id.trim_start_matches("worker-").parse().unwrap();
                return number - 1;
            }
            assert!(start.elapsed() < PATIENCE, "no worker runs a slice");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Node {
    fn new(base: &Path, name: &str, config: &str, client_port: u16, cluster_port: u16) -> Self {
        let path = base.join(format!("{name}.toml"));
        std::fs::write(&path, config).unwrap();
        Self {
            config: path,
            log: base.join(format!("{name}.log")),
            client_url: format!("http://127.0.0.1:{client_port}"),
            cluster_url: format!("http://127.0.0.1:{cluster_port}"),
            process: None,
        }
    }

    fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}
