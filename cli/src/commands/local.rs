//! `stevedore local`: everything in one process.

use std::path::PathBuf;

use clap::Args;
use stevedore_common::Result;
use stevedore_coordinator::config::Scheduling;

use super::limits::LimitArgs;
use super::{address, asked_to_stop, metrics};
use crate::config::WorkerFile;
use crate::instance::{DEFAULT_MEMORY, Instance, InstanceConfig};

#[derive(Debug, Args)]
pub(super) struct LocalArgs {
    /// Where the catalog, the log and (unless --warehouse says otherwise) the tables lie.
    #[arg(long, env = "STEVEDORE_DATA_DIR")]
    data_dir: PathBuf,
    /// Client port: Flight SQL, jobs, health, reflection.
    #[arg(long, env = "STEVEDORE_LISTEN", default_value = "127.0.0.1:8900")]
    listen: String,
    /// HTTP port: /health, /ready, /metrics.
    #[arg(long, env = "STEVEDORE_HTTP", default_value = "127.0.0.1:8902")]
    http: String,
    /// A local folder that fs:// stages may name. Repeat it for more.
    #[arg(long = "allow-fs", env = "STEVEDORE_ALLOW_FS", value_delimiter = ',')]
    allow_fs: Vec<PathBuf>,
    /// Where table data lies: a folder, or s3://bucket/path/ with credentials from the environment.
    #[arg(long, env = "STEVEDORE_WAREHOUSE")]
    warehouse: Option<String>,
    /// Let stages name loopback and private network addresses.
    #[arg(long, env = "STEVEDORE_ALLOW_PRIVATE_NETWORK")]
    allow_private_network: bool,
    /// Let S3 connections without keys use the identity of the machine (environment, web identity, instance).
    #[arg(long, env = "STEVEDORE_ALLOW_AMBIENT_CREDENTIALS")]
    allow_ambient_credentials: bool,
    /// Listen on other addresses than loopback although there are no accounts yet.
    #[arg(long, env = "STEVEDORE_INSECURE")]
    insecure: bool,
    /// Bytes of memory that slices and queries share.
    #[arg(long, env = "STEVEDORE_MEMORY_BUDGET", default_value_t = DEFAULT_MEMORY)]
    memory_budget: u64,
    #[command(flatten)]
    limits: LimitArgs,
}

pub(super) async fn run(args: LocalArgs) -> Result<()> {
    let config = InstanceConfig {
        data_dir: args.data_dir,
        listen: address("--listen", &args.listen)?,
        http: Some(address("--http", &args.http)?),
        allowed_fs_roots: args.allow_fs,
        allow_private_network: args.allow_private_network,
        allow_ambient_credentials: args.allow_ambient_credentials,
        warehouse: args.warehouse,
        insecure: args.insecure,
        memory_budget: args.memory_budget,
        limits: args.limits.or(&WorkerFile::default()),
        scheduling: Scheduling::default(),
    };
    let mut instance = Instance::start(config, metrics()?).await?;
    println!("Stevedore is ready: grpc://{}", instance.client_address);
    tokio::select! {
        () = asked_to_stop() => instance.stop().await,
        ended = instance.ended() => ended,
    }
}
