//! The command line: what each verb and flag means.

mod coordinator;
mod limits;
mod load;
mod local;
mod server;
mod sql;
mod transfer;
mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use stevedore_common::telemetry::{self, LogFormat, Telemetry, TelemetryConfig};
use stevedore_common::{Error, Result};
use stevedore_coordinator::api::http::Metrics;
use tokio::runtime::Runtime;

/// Loads files from object storage into open tables, exactly once.
#[derive(Debug, Parser)]
#[command(name = "stevedore", version, about)]
pub struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in one process on a data folder.
    Local(local::LocalArgs),
    /// Run a coordinator of a cluster.
    Coordinator(coordinator::CoordinatorArgs),
    /// Run a worker of a cluster.
    Worker(worker::WorkerArgs),
    /// Run SQL: a statement, a file, or a shell.
    Sql(sql::SqlArgs),
    /// Load files into a table, which is created to fit them if need be.
    Load(load::LoadArgs),
    /// Put local files into a stage.
    Put(transfer::PutArgs),
    /// Get files of a stage into a local folder.
    Get(transfer::GetArgs),
    /// Take the tour: generate files, load them, look at the tables.
    Quickstart {
        /// Where to put files, tables and the catalog. A second run starts clean.
        #[arg(long, default_value = "./stevedore-quickstart")]
        data_dir: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormatArg {
    Text,
    Json,
}

#[derive(Debug, Args)]
struct LogArgs {
    /// What to log, as in RUST_LOG.
    #[arg(long, global = true, env = "STEVEDORE_LOG")]
    log: Option<String>,
    /// How log lines look.
    #[arg(long, global = true, env = "STEVEDORE_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormatArg,
    /// The gRPC endpoint of an OTLP collector that spans go to.
    #[arg(long, global = true, env = "STEVEDORE_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
}

impl LogArgs {
    fn init(&self, service: &str, instance: &str, default: &str) -> Result<Telemetry> {
        let from_rust_log = std::env::var_os("RUST_LOG").is_some();
        telemetry::init(&TelemetryConfig {
            service: service.to_owned(),
            instance: instance.to_owned(),
            filter: self.log.clone().or_else(|| (!from_rust_log).then(|| default.to_owned())),
            format: match self.log_format {
                LogFormatArg::Text => LogFormat::Text,
                LogFormatArg::Json => LogFormat::Json,
            },
            otlp_endpoint: self.otlp_endpoint.clone(),
        })
    }
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// What the user should read.
    pub fn run(self) -> Result<()> {
        telemetry::install_crypto_provider();
        let runtime = runtime()?;
        let (service, default) = match &self.command {
            Command::Local(_) => ("stevedore-local", "info"),
            Command::Coordinator(_) => ("stevedore-coordinator", "info"),
            Command::Worker(_) => ("stevedore-worker", "info"),
            // A client's own output is what counts.
            Command::Sql(_)
            | Command::Load(_)
            | Command::Put(_)
            | Command::Get(_)
            | Command::Quickstart { .. } => ("stevedore-sql", "error"),
        };
        let telemetry =
            runtime.block_on(async { self.log.init(service, &std::process::id().to_string(), default) })?;
        let result = runtime.block_on(async {
            match self.command {
                Command::Local(args) => local::run(args).await,
                Command::Coordinator(args) => coordinator::run(args).await,
                Command::Worker(args) => worker::run(args).await,
                Command::Sql(args) => sql::run(args).await,
                Command::Load(args) => load::run(args).await,
                Command::Put(args) => transfer::put(args).await,
                Command::Get(args) => transfer::get(args).await,
                Command::Quickstart { data_dir } => crate::quickstart::run(data_dir).await,
            }
        });
        telemetry.shutdown();
        runtime.shutdown_timeout(Duration::from_secs(5));
        result
    }
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::internal(format!("starting the runtime: {e}")))
}

/// The process' metrics, kept up.
fn metrics() -> Result<Metrics> {
    let handle = telemetry::init_metrics()?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    Ok(Arc::new(move || handle.render()))
}

/// Completes on SIGINT or SIGTERM.
async fn asked_to_stop() {
    let interrupt = tokio::signal::ctrl_c();
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => drop(interrupt.await),
    }
}

fn address(option: &str, text: &str) -> Result<SocketAddr> {
    text.parse().map_err(|_| {
        Error::invalid(format!(
            "{option} is '{text}'; an IP address and a port are expected, as in 127.0.0.1:8900"
        ))
    })
}

fn required<T>(value: Option<T>, option: &str) -> Result<T> {
    value.ok_or_else(|| {
        Error::invalid(format!("{option} is not set"))
            .hint("set it in the configuration file, or by flag or variable")
    })
}
