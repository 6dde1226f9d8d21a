//! COPY INTO a location: what is unloaded, where to, how.

use super::{AnalyzedQuery, FileFormatRef, LocationRef};

/// COPY INTO a stage or a URI.
#[derive(Debug, Clone, PartialEq)]
pub struct Unload {
    /// Where the files go.
    pub location: LocationRef,
    /// The rows; the last column is the path of the row's partition, where there is PARTITION BY.
    pub query: AnalyzedQuery,
    /// PARTITION BY was given.
    pub partitioned: bool,
    /// FILE_FORMAT; `None` is the stage's.
    pub file_format: Option<FileFormatRef>,
    /// SINGLE.
    pub single: bool,
    /// MAX_FILE_SIZE, bytes.
    pub max_file_size: u64,
    /// OVERWRITE.
    pub overwrite: bool,
    /// INCLUDE_QUERY_ID.
    pub include_query_id: bool,
    /// USE_RAW_PATH.
    pub use_raw_path: bool,
    /// DETAILED_OUTPUT.
    pub detailed_output: bool,
}
