//! `stevedore worker`: one worker of a cluster.

use std::path::PathBuf;

use clap::Args;
use stevedore_common::Result;
use stevedore_common::worker_group::WorkerGroup;
use stevedore_worker::worker::{Worker, WorkerConfig};
use tokio_util::sync::CancellationToken;

use super::limits::LimitArgs;
use super::{address, asked_to_stop, required};
use crate::config::{WorkerFile, read};
use crate::instance::DEFAULT_MEMORY;

#[derive(Debug, Args)]
pub(super) struct WorkerArgs {
    /// The configuration file (TOML).
    #[arg(long, env = "STEVEDORE_CONFIG")]
    config: Option<PathBuf>,
    /// Its name, unique in the cluster.
    #[arg(long, env = "STEVEDORE_WORKER_ID")]
    id: Option<String>,
    /// Cluster address of a coordinator (http://host:8901). Repeat it for all of them.
    #[arg(long = "coordinator", env = "STEVEDORE_COORDINATORS", value_delimiter = ',')]
    coordinators: Vec<String>,
    /// Where its Flight service listens.
    #[arg(long, env = "STEVEDORE_FLIGHT_LISTEN")]
    flight_listen: Option<String>,
    /// Under which URL coordinators reach it.
    #[arg(long, env = "STEVEDORE_FLIGHT_ADVERTISE")]
    flight_advertise: Option<String>,
    /// Bytes of memory for slices and queries.
    #[arg(long, env = "STEVEDORE_MEMORY_BUDGET")]
    memory_budget: Option<u64>,
    /// Threads that compute.
    #[arg(long, env = "STEVEDORE_CORES")]
    cores: Option<usize>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Slices at a time.
    #[arg(long, env = "STEVEDORE_SLOTS")]
    slots: Option<usize>,
    /// A folder of its own, for spills.
    #[arg(long, env = "STEVEDORE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Its group: it gets the work of statements that name it as their warehouse, and no other.
    #[arg(long, env = "STEVEDORE_WORKER_GROUP")]
    group: Option<String>,
}

fn assemble(args: WorkerArgs) -> Result<WorkerConfig> {
    let file: WorkerFile = args.config.as_deref().map(read).transpose()?.unwrap_or_default();
    let limits = args.limits.or(&file);
    let coordinators = if args.coordinators.is_empty() { file.coordinators } else { args.coordinators };
    let listen = args.flight_listen.or(file.flight_listen).unwrap_or_else(|| "127.0.0.1:8903".to_owned());
    Ok(WorkerConfig {
        id: required(args.id.or(file.id), "id")?,
        coordinators: required((!coordinators.is_empty()).then_some(coordinators), "coordinators")?,
        flight_listen: address("flight_listen", &listen)?,
        flight_advertise: args.flight_advertise.or(file.flight_advertise),
        cores: args.cores.or(file.cores).unwrap_or(0),
        memory_budget: args.memory_budget.or(file.memory_budget).unwrap_or(DEFAULT_MEMORY),
        limits,
        slots: args.slots.or(file.slots).unwrap_or(0),
        data_dir: required(args.data_dir.or(file.data_dir), "data_dir")?,
        group: WorkerGroup::of_message(&args.group.or(file.group).unwrap_or_default())?,
    })
}

pub(super) async fn run(args: WorkerArgs) -> Result<()> {
    let worker = Worker::bind(assemble(args)?).await?;
    println!("Stevedore worker: {}", worker.flight_address());
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        asked_to_stop().await;
        stop.cancel();
    });
    worker.serve(shutdown).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::FromArgMatches;

    use super::*;

    fn group(config: &std::path::Path, arguments: &[&str]) -> Result<WorkerGroup> {
        let fixed = ["worker", "--config", config.to_str().unwrap()];
        let command = WorkerArgs::augment_args(clap::Command::new("worker"));
        let matches = command.get_matches_from(fixed.iter().chain(arguments));
        assemble(WorkerArgs::from_arg_matches(&matches).unwrap()).map(|config| config.group)
    }

    #[test]
    fn a_worker_is_in_the_group_that_the_flag_names_else_the_file_else_in_the_default_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker.toml");
        let keys = "id = 'w'\ncoordinators = ['http://127.0.0.1:8901']\ndata_dir = '/tmp'\n";
        std::fs::write(&path, keys).unwrap();
        assert!(group(&path, &[]).unwrap().is_default());
        std::fs::write(&path, format!("{keys}group = 'ETL'\n")).unwrap();
        assert_eq!(group(&path, &[]).unwrap().as_str(), "etl");
        assert_eq!(group(&path, &["--group", "ml"]).unwrap().as_str(), "ml");
        let error = group(&path, &["--group", "a b"]).unwrap_err().to_string();
        assert!(error.contains("'a b' is not the name of a worker group"), "{error}");
    }
}
