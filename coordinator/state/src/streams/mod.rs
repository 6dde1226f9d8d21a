//! Streams: where each of them stands in the history of its table.
//!
//! Owns: their definitions and offsets. An offset moves by one command that names the offset it rests on: that of
//! the statement's commit, in which its rows and the offset become true together, or [`StreamCommand::Consume`].
//! Of two who read a stream from the same offset, one moves it. Must never know what changed: that is in the
//! table's metadata.

pub(crate) mod command;
pub(crate) mod define;
mod read;

use serde::{Deserialize, Serialize};
use stevedore_common::clock::UnixMillis;
use stevedore_common::ids::{DatabaseId, StreamId, TableId};

pub use command::{NewStream, StreamCommand};
pub use read::*;

/// A stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Its id; OR REPLACE makes another stream.
    pub id: StreamId,
    /// Its database.
    pub database: DatabaseId,
    /// Its name; no table of the database has it.
    pub name: String,
    /// The table whose changes it shows. A table that is dropped or replaced leaves it without one.
    pub table: TableId,
    /// Shows insertions only.
    pub append_only: bool,
    /// What was consumed last: the changes behind this snapshot are shown. None: the table was empty.
    pub offset: Option<i64>,
    /// When it was created.
    pub created_on_ms: UnixMillis,
    /// When it was consumed last, or created.
    pub updated_on_ms: UnixMillis,
    /// Its comment.
    pub comment: String,
    /// Who created it.
    pub owner: String,
}

/// A consumption: the changes between two snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamMove {
    /// The stream.
    pub stream: StreamId,
    /// The offset that it rests on.
    pub from: Option<i64>,
    /// The offset afterwards.
    pub to: Option<i64>,
}
