//! The plan of a job: what a new leader needs to go on with it, as it stands in the job's record.
//!
//! Secrets in it are sealed. A small plan is inline; a larger one (many FILES, long VALUES) is a durable
//! object in the warehouse that the record names, since replicated commands are small.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stevedore_common::file_format::FileFormat;
use stevedore_common::ids::{JobId, StageId, StreamId, TableId};
use stevedore_common::secret::Sealed;
use stevedore_common::storage::Store;
use stevedore_common::{Error, Result};
use stevedore_state::jobs::OnError;

/// Plans up to this size are inline, bytes.
const MOST_INLINE: usize = 24 * 1024;
/// Larger plans than this are not read back, bytes.
const MOST_STORED: u64 = 256 << 20;

/// Where files are and how to reach them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcePlan {
    /// The location: a URI, or the stage's for internal stages.
    pub place: PlacePlan,
    /// The path after `@stage/` (or nothing for a URI): a folder with its slash, or a raw prefix.
    pub path: String,
    /// FILES, relative to the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<String>>,
    /// PATTERN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
}

/// How a place is reached, resolved again each time it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlacePlan {
    /// An internal stage.
    Internal(StageId),
    /// The own stage of the user of this name.
    User(String),
    /// A URI, by a connection as it stands when it is used.
    Connection {
        /// The URI.
        url: String,
        /// The connection.
        connection: String,
    },
    /// A URI with keys of its own.
    Inline {
        /// The URI.
        url: String,
        /// What the secrets are sealed for.
        owner: String,
        /// Keys that are not secret.
        params: BTreeMap<String, String>,
        /// Keys that are.
        secrets: BTreeMap<String, Sealed>,
    },
}

/// The plan of a COPY INTO table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyPlan {
    /// What is read.
    pub source: SourcePlan,
    /// Its format.
    pub format: FileFormat,
    /// The transform and the relation name that it reads from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<TransformPlan>,
    /// The target's columns that are written, in order, by field id.
    pub field_ids: Vec<i32>,
    /// COLUMN_MATCH_MODE.
    pub case_sensitive: bool,
    /// DISABLE_VARIANT_CHECK.
    pub disable_variant_check: bool,
    /// ON_ERROR.
    pub on_error: OnError,
    /// RETURN_FAILED_ONLY.
    pub return_failed_only: bool,
    /// The session's settings.
    pub settings: BTreeMap<String, String>,
    /// The client's trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The table takes the columns that the files have and it lacks. Then all columns are written, those of
    /// `field_ids` or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evolution: Option<EvolutionPlan>,
}

/// How the columns are found that a load brings. Files that say their columns are all looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvolutionPlan {
    /// The most files of NDJSON and JSON that are looked at.
    pub sample_files: u32,
    /// The most records of each.
    pub sample_records_per_file: u64,
    /// The most records of all together.
    pub sample_total_records: u64,
}

/// A transform as it is sent to workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransformPlan {
    /// Rendered `SELECT … FROM "<relation>" [WHERE …]`.
    pub sql: String,
    /// The relation's name.
    pub relation: String,
}

/// The plan of a statement whose rows a query makes: INSERT and CREATE TABLE AS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryPlan {
    /// Rendered SQL.
    pub sql: String,
    /// What its relation names are.
    pub relations: Vec<RelationPlan>,
    /// The values of `?`, base64 of an Arrow IPC stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<String>,
    /// The target's columns, in order of the query's, by field id.
    pub field_ids: Vec<i32>,
    /// The session's settings.
    pub settings: BTreeMap<String, String>,
    /// The client's trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// CREATE TABLE AS: what is created at the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_table: Option<NewTablePlan>,
    /// INSERT OVERWRITE: the rows replace those that the table has at the commit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overwrite: bool,
    /// What `now()` is, for all slices alike; 0: when it runs.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub started_on_ms: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// A relation of a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationPlan {
    /// The generated name.
    pub name: String,
    /// What it is.
    pub target: RelationTarget,
}

/// What a relation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelationTarget {
    /// A table, pinned to the metadata that was current when the statement was planned.
    Table {
        /// The table.
        table: TableId,
        /// Its metadata.
        metadata_location: String,
        /// Whether it has no snapshot yet.
        empty: bool,
        /// The snapshot that is read; `None`: the current one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot_id: Option<i64>,
    },
    /// What changed in a table between two snapshots.
    Stream {
        /// The stream.
        stream: StreamId,
        /// Its table.
        table: TableId,
        /// The table's metadata.
        metadata_location: String,
        /// Changes behind this snapshot; none: behind the empty table.
        from: Option<i64>,
        /// Up to this one; none: there is none.
        to: Option<i64>,
        /// Insertions only.
        append_only: bool,
        /// WITH CONSUME.
        consume: bool,
    },
    /// Files.
    Stage {
        /// What is read.
        source: SourcePlan,
        /// Its format.
        format: Box<FileFormat>,
    },
    /// What files are like: `infer_schema` and `inspect_parquet`.
    Schema {
        /// The files.
        source: SourcePlan,
        /// Their format.
        format: Box<FileFormat>,
        /// What is asked.
        question: SchemaQuestion,
    },
    /// Rows that the coordinator has (a table function): base64 of an Arrow IPC stream.
    Rows(String),
}

/// A question about files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaQuestion {
    /// Their columns.
    InferSchema {
        /// The most files that are looked at; `None`: what the format needs.
        max_files: Option<u64>,
        /// The most records of a text file that are looked at.
        max_records: Option<u64>,
    },
    /// What the footer of one Parquet file says.
    InspectParquet,
}

/// The table of a CREATE TABLE AS; its empty metadata is written before the job begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTablePlan {
    /// The database.
    pub database: String,
    /// The name.
    pub name: String,
    /// The metadata that the commit builds on.
    pub metadata_location: String,
    /// The comment.
    pub comment: String,
    /// TRANSIENT.
    pub transient: bool,
    /// Table options.
    pub options: BTreeMap<String, String>,
    /// IF NOT EXISTS.
    pub if_not_exists: bool,
    /// OR REPLACE.
    pub or_replace: bool,
}

/// The plan of a COPY INTO location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnloadPlan {
    /// The rows.
    pub query: QueryPlan,
    /// The folder that the files go into, or the path of the only one.
    pub target: SourcePlan,
    /// Their format.
    pub format: FileFormat,
    /// SINGLE.
    pub single: bool,
    /// MAX_FILE_SIZE.
    pub max_file_bytes: u64,
    /// The last column is the path of the row's partition.
    pub partitioned: bool,
    /// INCLUDE_QUERY_ID.
    pub include_query_id: bool,
    /// USE_RAW_PATH: the target is the path of the file.
    pub raw_path: bool,
    /// Slices, each of which unloads its share of the table's data files; 1 for all but whole tables.
    pub parts: u32,
}

impl UnloadPlan {
    /// The folder of the files, of the target's prefix in its store.
    pub fn folder<'a>(&self, prefix: &'a str) -> &'a str {
        prefix.rfind('/').and_then(|slash| prefix.get(..=slash)).unwrap_or_default()
    }
}

/// The plan of a DELETE, UPDATE or MERGE INTO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MutationPlan {
    /// The changes, a row each.
    pub query: QueryPlan,
    /// The relation that changes.
    pub target: String,
    /// The snapshot whose rows the changes are of; none, where there was no row.
    pub base_snapshot: Option<i64>,
    /// Slices, each of which looks at its share of the target's data files.
    pub parts: u32,
    /// The changes that only insert rows, where a further slice makes them, which looks at all of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insertions: Option<String>,
}

impl MutationPlan {
    /// All slices.
    pub fn slices(&self) -> u32 {
        self.parts + u32::from(self.insertions.is_some())
    }
}

/// The plan of a bulk ingestion: a client's rows into a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestPlan {
    /// The target's columns, in order of the rows' columns, by field id.
    pub field_ids: Vec<i32>,
    /// The session's settings.
    pub settings: BTreeMap<String, String>,
    /// The client's trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The table that the commit creates, if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_table: Option<NewTablePlan>,
}

/// A job's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobPlan {
    /// COPY INTO table.
    Copy(Box<CopyPlan>),
    /// INSERT, CREATE TABLE AS.
    Query(Box<QueryPlan>),
    /// COPY INTO a location.
    Unload(Box<UnloadPlan>),
    /// DELETE, UPDATE, MERGE INTO.
    Mutation(Box<MutationPlan>),
    /// Bulk ingestion.
    Ingest(Box<IngestPlan>),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stored {
    Inline(JobPlan),
    Object(String),
}

fn encode<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal(format!("a plan cannot be encoded: {e}")))
}

impl JobPlan {
    /// The text for the job's record; a large plan is written to the warehouse first.
    ///
    /// # Errors
    /// Storage.
    pub async fn store(&self, job: JobId, warehouse: &Store) -> Result<String> {
        let inline = encode(self)?;
        if inline.len() <= MOST_INLINE {
            return encode(&Stored::Inline(self.clone()));
        }
        let path = format!("jobs/{job}/plan.json");
        warehouse
            .put(&path, inline.into())
            .await
            .map_err(|e| e.context(format!("writing the plan of job {job}")))?;
        encode(&Stored::Object(path))
    }

    /// The plan of a job's record.
    ///
    /// # Errors
    /// Storage; internal, if it cannot be read.
    pub async fn load(text: &str, warehouse: &Store) -> Result<Self> {
        let damaged = |e| Error::internal(format!("a job's plan cannot be read: {e}"));
        match serde_json::from_str(text).map_err(damaged)? {
            Stored::Inline(plan) => Ok(plan),
            Stored::Object(path) => {
                let file =
                    warehouse.open_current(&path).await.map_err(|e| e.context("reading a job's plan"))?;
                let bytes = file.read_all(MOST_STORED).await?;
                serde_json::from_slice(&bytes).map_err(damaged)
            }
        }
    }

    /// The session's settings.
    pub fn settings(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Copy(plan) => &plan.settings,
            Self::Query(plan) => &plan.settings,
            Self::Unload(plan) => &plan.query.settings,
            Self::Mutation(plan) => &plan.query.settings,
            Self::Ingest(plan) => &plan.settings,
        }
    }

    /// The table that the commit creates.
    pub fn new_table(&self) -> Option<&NewTablePlan> {
        match self {
            Self::Query(plan) => plan.new_table.as_ref(),
            Self::Ingest(plan) => plan.new_table.as_ref(),
            Self::Copy(_) | Self::Unload(_) | Self::Mutation(_) => None,
        }
    }
}
