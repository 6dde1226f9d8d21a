//! `stevedore coordinator`: one coordinator of a group of 1, 3 or 5.

use std::path::PathBuf;

use clap::Args;
use stevedore_common::Result;
use stevedore_common::ids::NodeId;
use stevedore_coordinator::Coordinator;
use stevedore_coordinator::config::{CoordinatorConfig, Limits, Peer, Scheduling};
use tokio_util::sync::CancellationToken;

use super::{address, asked_to_stop, metrics, required};
use crate::config::{CoordinatorFile, read};

#[derive(Debug, Args)]
pub(super) struct CoordinatorArgs {
    /// The configuration file (TOML).
    #[arg(long, env = "STEVEDORE_CONFIG")]
    config: Option<PathBuf>,
    /// This node's id, from 1.
    #[arg(long, env = "STEVEDORE_NODE_ID")]
    node_id: Option<u64>,
    /// Where the log and the catalog lie.
    #[arg(long, env = "STEVEDORE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Client port.
    #[arg(long, env = "STEVEDORE_LISTEN")]
    listen: Option<String>,
    /// Cluster port: Raft and worker sessions.
    #[arg(long, env = "STEVEDORE_CLUSTER_LISTEN")]
    cluster_listen: Option<String>,
    /// HTTP port.
    #[arg(long, env = "STEVEDORE_HTTP")]
    http: Option<String>,
    /// Where table data lies.
    #[arg(long, env = "STEVEDORE_WAREHOUSE")]
    warehouse: Option<String>,
    /// A local folder that fs:// stages may name. Repeat it for more.
    #[arg(long = "allow-fs", env = "STEVEDORE_ALLOW_FS", value_delimiter = ',')]
    allow_fs: Vec<PathBuf>,
    /// Let stages name loopback and private network addresses.
    #[arg(long, env = "STEVEDORE_ALLOW_PRIVATE_NETWORK")]
    allow_private_network: bool,
    /// Let S3 connections without keys use the identity of the machine (environment, web identity, instance).
    #[arg(long, env = "STEVEDORE_ALLOW_AMBIENT_CREDENTIALS")]
    allow_ambient_credentials: bool,
    /// The key that seals secrets: base64 of 32 bytes, the same on all coordinators.
    #[arg(long, env = "STEVEDORE_SEALING_KEY", hide_env_values = true)]
    sealing_key: Option<String>,
    /// Found a new group: once, on each of its first members, with empty data folders.
    #[arg(long, env = "STEVEDORE_BOOTSTRAP")]
    bootstrap: bool,
    /// Listen on other addresses than loopback although there are no accounts yet.
    #[arg(long, env = "STEVEDORE_INSECURE")]
    insecure: bool,
}

fn assemble(args: CoordinatorArgs) -> Result<CoordinatorConfig> {
    let file: CoordinatorFile = args.config.as_deref().map(read).transpose()?.unwrap_or_default();
    let node_id = NodeId(args.node_id.or(file.node_id).unwrap_or(1));
    let listen = args.listen.or(file.listen).unwrap_or_else(|| "127.0.0.1:8900".to_owned());
    let cluster_listen =
        args.cluster_listen.or(file.cluster_listen).unwrap_or_else(|| "127.0.0.1:8901".to_owned());
    let mut peers: Vec<Peer> = file
        .peers
        .into_iter()
        .map(|peer| Peer {
            id: NodeId(peer.id),
            cluster_address: peer.cluster_address,
            client_address: peer.client_address,
        })
        .collect();
    if peers.is_empty() {
        peers.push(Peer {
            id: node_id,
            cluster_address: format!("http://{cluster_listen}"),
            client_address: format!("http://{listen}"),
        });
    }
    let defaults = Scheduling::default();
    Ok(CoordinatorConfig {
        node_id,
        cluster_id: file.cluster_id.unwrap_or_else(|| "stevedore".to_owned()),
        data_dir: required(args.data_dir.or(file.data_dir), "data_dir")?,
        listen: address("listen", &listen)?,
        cluster_listen: address("cluster_listen", &cluster_listen)?,
        http_listen: args.http.or(file.http).map(|text| address("http", &text)).transpose()?,
        bootstrap: args.bootstrap,
        peers,
        warehouse: args.warehouse.or(file.warehouse),
        warehouse_options: file.warehouse_options.into_iter().collect(),
        allowed_fs_roots: if args.allow_fs.is_empty() { file.allow_fs } else { args.allow_fs },
        allow_private_network: args.allow_private_network || file.allow_private_network.unwrap_or(false),
        allow_ambient_credentials: args.allow_ambient_credentials
            || file.allow_ambient_credentials.unwrap_or(false),
        sealing_key: args.sealing_key.or(file.sealing_key),
        insecure: args.insecure || file.insecure.unwrap_or(false),
        state_cache_bytes: file.state_cache_bytes,
        limits: Limits::default(),
        scheduling: Scheduling {
            lease_ms: file.lease_ms.unwrap_or(defaults.lease_ms),
            slice_bytes: file.slice_bytes.unwrap_or(defaults.slice_bytes),
            lane_bytes: file.lane_bytes.unwrap_or(defaults.lane_bytes),
            target_file_bytes: file.target_file_bytes.unwrap_or(defaults.target_file_bytes),
            job_history_days: file.job_history_days.map_or(defaults.job_history_days, i64::from),
            task_history_days: file.task_history_days.map_or(defaults.task_history_days, i64::from),
            ..defaults
        },
    })
}

pub(super) async fn run(args: CoordinatorArgs) -> Result<()> {
    let config = assemble(args)?;
    let shutdown = CancellationToken::new();
    let coordinator = Coordinator::start(config, metrics()?, shutdown.clone()).await?;
    println!("Stevedore coordinator: grpc://{}", coordinator.client_address);
    tokio::spawn(async move {
        asked_to_stop().await;
        shutdown.cancel();
    });
    coordinator.wait().await
}
