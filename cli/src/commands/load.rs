//! `stevedore load`: files into a table in one command.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use stevedore_common::Result;
use stevedore_common::file_format::FormatKind;

use crate::client::Client;
use crate::instance::{Instance, InstanceConfig, no_metrics};
use crate::load::{self, Header, Load};
use crate::shell::Options;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatArg {
    Csv,
    Tsv,
    Ndjson,
    Parquet,
    Orc,
    Avro,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum HeaderArg {
    Auto,
    Yes,
    No,
}

#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// A local file, folder or glob in quotes ('orders/*.csv'), or a URL (s3://bucket/path/*.parquet).
    source: String,
    /// The table, created to fit the files if it does not exist.
    #[arg(long, value_name = "TABLE")]
    into: String,
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
    /// With --data-dir: a local folder that fs:// stages may name, besides the one of the files.
    #[arg(long = "allow-fs", value_delimiter = ',', requires = "data_dir")]
    allow_fs: Vec<PathBuf>,
    /// With --data-dir: where table data lies.
    #[arg(long, requires = "data_dir")]
    warehouse: Option<String>,
    /// With --data-dir: let URLs name loopback and private network addresses.
    #[arg(long, requires = "data_dir")]
    allow_private_network: bool,
    /// The format of the files; by default that of their extension.
    #[arg(long, value_enum)]
    format: Option<FormatArg>,
    /// Whether the first line of CSV and TSV files names the columns.
    #[arg(long, value_enum, default_value = "auto", num_args = 0..=1, default_missing_value = "yes")]
    header: HeaderArg,
    /// Create the table if it does not exist (the default).
    #[arg(long, overrides_with = "no_create")]
    create: bool,
    /// Fail if the table does not exist.
    #[arg(long, overrides_with = "create")]
    no_create: bool,
    /// What a bad row does: abort, abort_N, continue.
    #[arg(long, value_name = "MODE")]
    on_error: Option<String>,
    /// The connection (CREATE CONNECTION) that the URL is reached by.
    #[arg(long, value_name = "NAME")]
    connection: Option<String>,
}

impl LoadArgs {
    fn load(&self) -> Load {
        Load {
            source: self.source.clone(),
            table: self.into.clone(),
            format: self.format.map(|format| match format {
                FormatArg::Csv => FormatKind::Csv,
                FormatArg::Tsv => FormatKind::Tsv,
                FormatArg::Ndjson => FormatKind::Ndjson,
                FormatArg::Parquet => FormatKind::Parquet,
                FormatArg::Orc => FormatKind::Orc,
                FormatArg::Avro => FormatKind::Avro,
            }),
            header: match self.header {
                HeaderArg::Auto => Header::Auto,
                HeaderArg::Yes => Header::Yes,
                HeaderArg::No => Header::No,
            },
            create: self.create || !self.no_create,
            on_error: self.on_error.clone(),
            connection: self.connection.clone(),
        }
    }
}

pub(super) async fn run(args: LoadArgs) -> Result<()> {
    let load = args.load();
    let Some(data_dir) = args.data_dir.clone() else {
        let client = Client::connect(&args.addr).await?;
        return speak(&load, client).await;
    };
    let mut allowed_fs_roots = args.allow_fs.clone();
    // Who names files on the command line allows them.
    allowed_fs_roots.extend(load::local_folder(&load.source, &std::env::current_dir()?)?);
    let config = InstanceConfig {
        allowed_fs_roots,
        warehouse: args.warehouse.clone(),
        allow_private_network: args.allow_private_network,
        ..InstanceConfig::new(data_dir)
    };
    let instance = Instance::start(config, no_metrics()).await?;
    let result = match Client::connect(&instance.url()).await {
        Ok(client) => speak(&load, client).await,
        Err(error) => Err(error),
    };
    instance.stop().await.and(result)
}

async fn speak(load: &Load, client: Client) -> Result<()> {
    load::run(&client, load, &Options::default(), &mut std::io::stdout()).await
}
