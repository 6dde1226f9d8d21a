//! What a worker says of a file that it has written for COPY INTO a location, as it stands in its report.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A file; paths are relative to the folder of the unload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnloadedFile {
    /// Where it is until the commit.
    pub hidden: String,
    /// The name that it gets then.
    pub name: String,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
}

impl UnloadedFile {
    /// Of a worker's report.
    ///
    /// # Errors
    /// Internal, if it cannot be read.
    pub fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json)
            .map_err(|e| Error::internal(format!("a reported file of an unload cannot be read: {e}")))
    }
}
