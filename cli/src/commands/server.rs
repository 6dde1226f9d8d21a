//! Where statements go: to a server, or to an instance in this process.

use std::path::PathBuf;

use clap::Args;
use stevedore_common::Result;

use crate::client::Client;
use crate::instance::{Instance, InstanceConfig, no_metrics};

#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// The server.
    #[arg(
        long,
        env = "STEVEDORE_ADDR",
        default_value = "grpc://127.0.0.1:8900",
        conflicts_with = "data_dir"
    )]
    addr: String,
    /// Run on this data folder in this process, without a server.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// With --data-dir: a local folder that fs:// stages may name. Repeat it for more.
    #[arg(long = "allow-fs", value_delimiter = ',', requires = "data_dir")]
    allow_fs: Vec<PathBuf>,
    /// With --data-dir: where table data lies.
    #[arg(long, requires = "data_dir")]
    warehouse: Option<String>,
    /// With --data-dir: let URLs name loopback and private network addresses.
    #[arg(long, requires = "data_dir")]
    allow_private_network: bool,
}

impl ServerArgs {
    /// Runs with a client of the server, or of an instance that ends afterwards. In that one `folder` may be
    /// named by stages too.
    pub(super) async fn run(
        &self,
        folder: Option<PathBuf>,
        run: impl AsyncFnOnce(Client) -> Result<()>,
    ) -> Result<()> {
        let Some(data_dir) = self.data_dir.clone() else {
            return run(Client::connect(&self.addr).await?).await;
        };
        let config = InstanceConfig {
            allowed_fs_roots: self.allow_fs.iter().cloned().chain(folder).collect(),
            warehouse: self.warehouse.clone(),
            allow_private_network: self.allow_private_network,
            ..InstanceConfig::new(data_dir)
        };
        let instance = Instance::start(config, no_metrics()).await?;
        let result = match Client::connect(&instance.url()).await {
            Ok(client) => run(client).await,
            Err(error) => Err(error),
        };
        instance.stop().await.and(result)
    }
}
