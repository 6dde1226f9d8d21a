//! Streams.

use super::{CreateMode, ObjectRef, TimeTravel};

/// CREATE STREAM.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateStream {
    /// The stream.
    pub stream: ObjectRef,
    /// What to do when it exists.
    pub mode: CreateMode,
    /// The table whose changes it shows.
    pub table: ObjectRef,
    /// Where it begins; `None` is now.
    pub at: Option<StreamStart>,
    /// APPEND_ONLY; on by default.
    pub append_only: bool,
    /// COMMENT.
    pub comment: Option<String>,
}

/// Where a stream begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamStart {
    /// At a point in the table's history.
    Table(TimeTravel),
    /// Where another stream of the table stands.
    Stream(ObjectRef),
}
