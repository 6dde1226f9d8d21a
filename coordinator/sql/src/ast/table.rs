//! Tables and INSERT.

use std::fmt;

use serde::{Deserialize, Serialize};
use stevedore_common::schema::Column;

use super::{AnalyzedQuery, CreateMode, ObjectRef};

/// CREATE TABLE.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateTable {
    /// The table.
    pub table: ObjectRef,
    /// What to do when it exists.
    pub mode: CreateMode,
    /// TRANSIENT.
    pub transient: bool,
    /// The columns, with ids 0; empty where AS SELECT gives them.
    pub columns: Vec<Column>,
    /// PARTITION BY.
    pub partition_by: Vec<PartitionField>,
    /// CLUSTER BY: expressions, as written.
    pub cluster_by: Vec<String>,
    /// Names in lower case, in the statement's order, without the comment.
    pub options: Vec<(String, String)>,
    /// COMMENT.
    pub comment: Option<String>,
    /// AS SELECT.
    pub as_query: Option<AnalyzedQuery>,
    /// LIKE: the table whose columns, partitions and options it takes; then the statement has none.
    pub like: Option<ObjectRef>,
}

/// One field of PARTITION BY.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PartitionField {
    /// The column, as it is named in the table.
    pub column: String,
    /// The transform.
    pub transform: PartitionTransform,
}

/// A partition transform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionTransform {
    /// The value itself.
    Identity,
    /// year(col).
    Year,
    /// month(col).
    Month,
    /// day(col).
    Day,
    /// hour(col).
    Hour,
    /// bucket(n, col).
    Bucket(u32),
    /// truncate(n, col).
    Truncate(u32),
}

impl PartitionTransform {
    /// Whether it takes a part of a time.
    pub fn is_time(self) -> bool {
        matches!(self, Self::Year | Self::Month | Self::Day | Self::Hour)
    }
}

impl fmt::Display for PartitionField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = &self.column;
        match self.transform {
            PartitionTransform::Identity => f.write_str(column),
            PartitionTransform::Year => write!(f, "year({column})"),
            PartitionTransform::Month => write!(f, "month({column})"),
            PartitionTransform::Day => write!(f, "day({column})"),
            PartitionTransform::Hour => write!(f, "hour({column})"),
            PartitionTransform::Bucket(n) => write!(f, "bucket({n}, {column})"),
            PartitionTransform::Truncate(n) => write!(f, "truncate({n}, {column})"),
        }
    }
}

/// INSERT.
#[derive(Debug, Clone, PartialEq)]
pub struct Insert {
    /// The table.
    pub table: ObjectRef,
    /// The columns as written; `None` is all of them.
    pub columns: Option<Vec<String>>,
    /// The rows.
    pub source: InsertSource,
    /// INSERT OVERWRITE.
    pub overwrite: bool,
}

/// Where an INSERT's rows come from. Both are queries for a worker.
#[derive(Debug, Clone, PartialEq)]
pub enum InsertSource {
    /// VALUES: every row has this many values.
    Values {
        /// `VALUES (…), …`.
        query: AnalyzedQuery,
        /// Values in a row.
        width: usize,
        /// Rows.
        rows: usize,
    },
    /// SELECT.
    Select(AnalyzedQuery),
}

impl InsertSource {
    /// The query.
    pub fn query(&self) -> &AnalyzedQuery {
        match self {
            Self::Values { query, .. } | Self::Select(query) => query,
        }
    }
}
