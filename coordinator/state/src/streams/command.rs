//! The commands on streams.

use serde::{Deserialize, Serialize};
use stevedore_common::ids::TableId;

use super::{StreamMove, define};
use crate::apply::{Outcome, Transaction};
use crate::result::CommandResult;

/// A change of streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamCommand {
    /// CREATE STREAM.
    Create {
        /// What it is.
        stream: NewStream,
        /// An existing one is no error.
        if_not_exists: bool,
        /// An existing one is dropped.
        or_replace: bool,
    },
    /// DROP STREAM.
    Drop {
        /// The database.
        database: String,
        /// The name.
        name: String,
        /// A missing one is no error.
        if_exists: bool,
    },
    /// Moves the offsets of streams that were read, all or none.
    Consume {
        /// The streams.
        moves: Vec<StreamMove>,
    },
}

/// A stream to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewStream {
    /// The database.
    pub database: String,
    /// The name.
    pub name: String,
    /// The table.
    pub table: TableId,
    /// APPEND_ONLY.
    pub append_only: bool,
    /// Where it begins.
    pub offset: Option<i64>,
    /// COMMENT.
    pub comment: String,
    /// Who creates it.
    pub owner: String,
}

impl StreamCommand {
    /// The name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create_stream",
            Self::Drop { .. } => "drop_stream",
            Self::Consume { .. } => "consume_streams",
        }
    }
}

pub(crate) fn run(txn: &mut Transaction<'_>, command: &StreamCommand) -> Outcome<CommandResult> {
    match command {
        StreamCommand::Create { stream, if_not_exists, or_replace } => {
            define::create(txn, stream, *if_not_exists, *or_replace)
        }
        StreamCommand::Drop { database, name, if_exists } => define::drop(txn, database, name, *if_exists),
        StreamCommand::Consume { moves } => define::consume(txn, moves),
    }
}
