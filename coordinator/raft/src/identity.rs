//! Who a member is: its node id, and a random incarnation made with its disk.
//!
//! A wiped disk gets a new incarnation and so can never pass for the member that voted before it.

use serde::{Deserialize, Serialize};
use stevedore_common::{Error, Result};
use uuid::Uuid;

/// Written once, when a store is bootstrapped; never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster that this member belongs to.
    pub cluster_id: String,
    /// Its number within the cluster.
    pub node_id: u64,
    /// Made with the disk.
    pub incarnation: String,
    /// The voters that the cluster was bootstrapped with; empty for a member that joined later.
    pub bootstrap_voters: Vec<u64>,
}

impl Identity {
    /// A new identity with a new incarnation.
    pub fn generate(cluster_id: &str, node_id: u64, bootstrap_voters: Vec<u64>) -> Self {
        Self {
            cluster_id: cluster_id.to_owned(),
            node_id,
            incarnation: Uuid::new_v4().simple().to_string(),
            bootstrap_voters,
        }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|e| Error::internal(format!("encoding the member's identity failed: {e}")))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| Error::bad_data(e.to_string()))
    }
}
