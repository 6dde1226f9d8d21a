//! The nouns that coordinator, worker and client share: identifiers, types, schemas, file formats,
//! locations, storage, secrets, errors.
//!
//! Owns: the meaning of a SQL type in Arrow and Iceberg, the options of a file format, the parsing
//! and joining of locations, the building of object stores, the sealing of secrets.
//! Imports no crate of this workspace. Must never hold policy of the coordinator or the worker.

pub mod buffers;
pub mod clock;
pub mod error;
pub mod file_format;
pub mod file_identity;
pub mod ids;
pub mod location;
pub mod merged_type;
pub mod row_lineage;
pub mod schema;
pub mod secret;
pub mod storage;
pub mod telemetry;
pub mod types;
pub mod unloaded_file;
pub mod worker_group;

pub use error::{Error, ErrorKind, Result};
