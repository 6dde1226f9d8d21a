//! `stevedore sql`: statements to a server, or to an instance in this process.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use stevedore_common::{Error, Result};

use crate::client::Client;
use crate::instance::{Instance, InstanceConfig, no_metrics};
use crate::shell::{self, Format, Options};

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatArg {
    Table,
    Csv,
    Json,
}

#[derive(Debug, Args)]
pub(super) struct SqlArgs {
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
    /// With --data-dir: let stages name loopback and private network addresses.
    #[arg(long, requires = "data_dir")]
    allow_private_network: bool,
    /// Statements to run; without -e and -f a shell begins (or standard input is run, where it is no terminal).
    #[arg(short = 'e', long = "execute", conflicts_with = "file")]
    execute: Option<String>,
    /// A file of statements to run.
    #[arg(short = 'f', long = "file")]
    file: Option<PathBuf>,
    /// How rows are printed.
    #[arg(long, value_enum, default_value = "table")]
    format: FormatArg,
}

pub(super) async fn run(args: SqlArgs) -> Result<()> {
    let Some(data_dir) = args.data_dir.clone() else {
        let client = Client::connect(&args.addr).await?;
        return speak(&args, client).await;
    };
    let config = InstanceConfig {
        allowed_fs_roots: args.allow_fs.clone(),
        warehouse: args.warehouse.clone(),
        allow_private_network: args.allow_private_network,
        ..InstanceConfig::new(data_dir)
    };
    let instance = Instance::start(config, no_metrics()).await?;
    let result = match Client::connect(&instance.url()).await {
        Ok(client) => speak(&args, client).await,
        Err(error) => Err(error),
    };
    instance.stop().await.and(result)
}

async fn speak(args: &SqlArgs, client: Client) -> Result<()> {
    let options = Options {
        format: match args.format {
            FormatArg::Table => Format::Table,
            FormatArg::Csv => Format::Csv,
            FormatArg::Json => Format::Json,
        },
        ..Options::default()
    };
    let script = match (&args.execute, &args.file) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(file)) => Some(
            std::fs::read_to_string(file)
                .map_err(|e| Error::from(e).context(format!("file '{}'", file.display())))?,
        ),
        (None, None) if !std::io::IsTerminal::is_terminal(&std::io::stdin()) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            Some(text)
        }
        (None, None) => None,
    };
    match script {
        Some(text) => shell::run_script(&client, &text, &options, &mut std::io::stdout()).await,
        None => shell::prompt(&client, &options).await,
    }
}
