//! Queries: what a coordinator rendered, planned and run by DataFusion on this worker.
//!
//! Owns: the session (functions, limits, the threads that compute), the relations of a query (Iceberg
//! tables, stage files, rows sent along), the agreement on names and types with the renderer.
//! Comes in: a `QuerySpec`. Goes out: a schema, and a bounded stream of batches in the dialect's types.
//! Must never: run DDL or DML, reach for an object that the spec does not name, block the I/O threads.
//! Fails with errors of the statement (unknown column, bad cast) as invalid input, of files as bad data.

mod error;
pub mod functions;
pub(crate) mod names;
pub(crate) mod numbered_scan;
pub(crate) mod origins;
mod relations;
pub(crate) mod row_set;
pub(crate) mod schema_scan;
pub mod session;
pub(crate) mod spelling;
pub mod stage_scan;
mod storage_types;
mod stream_scan;
mod table_files;
pub mod table_scan;
mod variant_coercion;

mod batch_rows;
mod compared_scan;
mod deletes;
mod field_ids;
mod manifests;
pub(crate) mod normalize;
pub(crate) mod row_filter;
mod runtime;
mod scalar_subqueries;
mod single_value;
#[cfg(test)]
pub(crate) mod test_history;
#[cfg(test)]
pub(crate) mod test_support;

pub use error::{from_datafusion, to_datafusion};
pub use session::{EngineConfig, PlannedQuery, QueryEngine, ResultStream};
