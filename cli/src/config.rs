//! Configuration files of the servers. Flags and `STEVEDORE_*` variables override what a file says.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use stevedore_common::{Error, Result};

/// Reads a TOML file. Unknown keys are errors that name the key and the line.
///
/// # Errors
/// Not found; invalid input.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::from(e).context(format!("configuration file '{}'", path.display())))?;
    toml::from_str(&text).map_err(|e| Error::invalid(format!("configuration file '{}': {e}", path.display())))
}

/// A coordinator of the group, in the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerFile {
    /// Its id.
    pub id: u64,
    /// `http://host:8901`.
    pub cluster_address: String,
    /// `http://host:8900`.
    pub client_address: String,
}

/// The file of a coordinator.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CoordinatorFile {
    /// This node's id, from 1.
    pub node_id: Option<u64>,
    /// The cluster's name.
    pub cluster_id: Option<String>,
    /// The data folder.
    pub data_dir: Option<PathBuf>,
    /// Client port.
    pub listen: Option<String>,
    /// Cluster port.
    pub cluster_listen: Option<String>,
    /// HTTP port.
    pub http: Option<String>,
    /// All coordinators of the group.
    pub peers: Vec<PeerFile>,
    /// Where table data lies.
    pub warehouse: Option<String>,
    /// Connection keys of the warehouse.
    pub warehouse_options: std::collections::BTreeMap<String, String>,
    /// Local folders that stages may name.
    pub allow_fs: Vec<PathBuf>,
    /// Whether stages may name private addresses.
    pub allow_private_network: Option<bool>,
    /// Whether S3 connections without keys use the identity of the machine.
    pub allow_ambient_credentials: Option<bool>,
    /// base64 of 32 bytes.
    pub sealing_key: Option<String>,
    /// Listen on other addresses than loopback.
    pub insecure: Option<bool>,
    /// What of the replicated state is kept in memory, bytes as on disk.
    pub state_cache_bytes: Option<u64>,
    /// A worker that was not heard for this long has lost its slices, milliseconds.
    pub lease_ms: Option<i64>,
    /// Input bytes that a slice is packed to.
    pub slice_bytes: Option<u64>,
    /// Input bytes that small files are gathered to, so that their data files are of a good size.
    pub lane_bytes: Option<u64>,
    /// Size that written data files aim at, bytes.
    pub target_file_bytes: Option<u64>,
    /// The records of jobs that ended this many days ago are trimmed.
    pub job_history_days: Option<u32>,
    /// Runs of scheduled tasks that ended this many days ago are forgotten.
    pub task_history_days: Option<u32>,
}

/// The file of a worker.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerFile {
    /// Its name, unique in the cluster.
    pub id: Option<String>,
    /// Cluster addresses of the coordinators.
    pub coordinators: Vec<String>,
    /// Where its Flight service listens.
    pub flight_listen: Option<String>,
    /// Under which URL coordinators reach it.
    pub flight_advertise: Option<String>,
    /// Threads that compute.
    pub cores: Option<usize>,
    /// Bytes of memory for slices and queries.
    pub memory_budget: Option<u64>,
    /// The largest record of a text file, bytes.
    pub max_record_bytes: Option<usize>,
    /// The largest page of a Parquet file or block of an Avro file, decompressed, bytes.
    pub max_block_bytes: Option<usize>,
    /// Bytes that a compressed text file may become.
    pub max_decompressed_bytes: Option<u64>,
    /// Bytes that it may become for each of its own.
    pub max_decompression_ratio: Option<u64>,
    /// Slices at a time.
    pub slots: Option<usize>,
    /// A folder of its own, for spills.
    pub data_dir: Option<PathBuf>,
    /// Its group: it gets the work of statements that name it as their warehouse.
    pub group: Option<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn repository() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
    }

    #[test]
    fn the_example_configurations_are_read_and_stand_in_the_operators_guide() {
        let folder = repository().join("deploy/config");
        let coordinator: CoordinatorFile = read(&folder.join("coordinator.toml")).unwrap();
        assert_eq!(coordinator.peers.len(), 3);
        let worker: WorkerFile = read(&folder.join("worker.toml")).unwrap();
        assert_eq!(worker.coordinators.len(), 3);
        let guide = std::fs::read_to_string(repository().join("docs/operator/README.md")).unwrap();
        for file in ["coordinator.toml", "worker.toml"] {
            let text = std::fs::read_to_string(folder.join(file)).unwrap();
            // The guide explains around the file, the file begins with a comment of its own.
            let (_, settings) = text.split_once("\n\n").unwrap();
            assert!(guide.contains(settings), "the guide does not show {file} as it is");
        }
    }

    #[test]
    fn a_wrong_key_is_named_with_its_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker.toml");
        std::fs::write(&path, "id = 'a'\nslotz = 3\n").unwrap();
        let error = read::<WorkerFile>(&path).unwrap_err().to_string();
        assert!(
            error.contains("worker.toml") && error.contains("line 2") && error.contains("slotz"),
            "{error}"
        );
    }
}
