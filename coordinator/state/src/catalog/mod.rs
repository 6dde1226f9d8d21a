//! The catalog: databases, tables, connections, stages, file formats.
//!
//! Owns: their records, the DDL commands on them, the reads. A table's record names its current
//! metadata file: flipping that name is what a commit is. Must never hold a secret in the clear.

pub(crate) mod objects;
mod read;
pub(crate) mod tables;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stevedore_common::clock::UnixMillis;
use stevedore_common::file_format::{FileFormat, OptionValue};
use stevedore_common::ids::{ConnectionId, DatabaseId, FileFormatId, StageId, TableId};
use stevedore_common::secret::Sealed;
use uuid::Uuid;

pub use read::*;

/// A name as it is written in a statement: in quotes where it needs them.
pub fn quoted_name(name: &str) -> String {
    let plain = !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain && !name.is_empty() { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// The cluster, as Bootstrap made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its id.
    pub id: String,
    /// When it was bootstrapped.
    pub created_on_ms: UnixMillis,
}

/// A database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its id.
    pub id: DatabaseId,
    /// Its name.
    pub name: String,
    /// Its comment.
    pub comment: String,
    /// When it was created.
    pub created_on_ms: UnixMillis,
}

/// A table. The metadata file holds its schema; this record says which file that is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its id.
    pub id: TableId,
    /// Its database.
    pub database: DatabaseId,
    /// Its name.
    pub name: String,
    /// The UUID in its metadata.
    pub uuid: Uuid,
    /// Its current metadata file.
    pub metadata_location: String,
    /// The metadata's current schema.
    pub schema_id: i32,
    /// The metadata's default partition spec.
    pub spec_id: i32,
    /// The last field id that was reserved for a load, or handed out since. Ids are never handed out twice,
    /// whether or not their column came to be. 0: none but those of the metadata.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub last_field_id: i32,
    /// Counts TRUNCATE, DROP and INSERT OVERWRITE: a load rests on one epoch.
    pub epoch: u64,
    /// Counts TRUNCATE: the ledger entries that count are those of this generation.
    pub ledger_generation: u64,
    /// When it was created.
    pub created_on_ms: UnixMillis,
    /// The last change.
    pub updated_on_ms: UnixMillis,
    /// Its comment.
    pub comment: String,
    /// CREATE TRANSIENT TABLE.
    pub transient: bool,
    /// Table options.
    pub options: BTreeMap<String, String>,
    /// Rows at the current snapshot.
    pub num_rows: u64,
    /// Bytes of data files at the current snapshot.
    pub data_size: u64,
    /// The current snapshot.
    pub snapshot_id: Option<i64>,
    /// When it was dropped; the record stays for UNDROP.
    pub dropped_on_ms: Option<UnixMillis>,
}

fn is_zero(id: &i32) -> bool {
    *id == 0
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Its id; OR REPLACE keeps it.
    pub id: ConnectionId,
    /// Its name.
    pub name: String,
    /// STORAGE_TYPE.
    pub storage_type: String,
    /// Keys that are not secret.
    pub params: BTreeMap<String, String>,
    /// Keys that are.
    pub secrets: BTreeMap<String, Sealed>,
    /// When it was created.
    pub created_on_ms: UnixMillis,
    /// Counts OR REPLACE, from 1.
    pub version: u64,
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Its id.
    pub id: StageId,
    /// Its name.
    pub name: String,
    /// Where its files are.
    pub kind: StageKind,
    /// FILE_FORMAT.
    pub file_format: Option<StageFormat>,
    /// COPY_OPTIONS, as written.
    pub copy_options: Vec<(String, OptionValue)>,
    /// Its comment.
    pub comment: String,
    /// Who created it.
    pub creator: String,
    /// When it was created.
    pub created_on_ms: UnixMillis,
}

impl Stage {
    /// The connection that it names, if it names one.
    pub fn connection(&self) -> Option<&str> {
        match &self.kind {
            StageKind::External { source: StageSource::Named(name), .. } => Some(name),
            _ => None,
        }
    }
}

/// Where a stage's files are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageKind {
    /// In the cluster's own storage.
    Internal,
    /// Under a URL.
    External {
        /// The URL.
        url: String,
        /// How to reach it.
        source: StageSource,
    },
}

/// How an external stage is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageSource {
    /// By a connection, as it stands when the stage is used.
    Named(String),
    /// By keys of its own.
    Inline {
        /// The type, from the URL's scheme.
        storage_type: String,
        /// Keys that are not secret.
        params: BTreeMap<String, String>,
        /// Keys that are.
        secrets: BTreeMap<String, Sealed>,
    },
}

/// A stage's file format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageFormat {
    /// By name.
    Named(String),
    /// By options of its own.
    Inline(Box<FileFormat>),
}

/// A named file format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedFileFormat {
    /// Its id.
    pub id: FileFormatId,
    /// Its name.
    pub name: String,
    /// The format.
    pub format: FileFormat,
    /// When it was created.
    pub created_on_ms: UnixMillis,
}
