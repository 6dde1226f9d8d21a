//! DELETE, UPDATE and MERGE INTO: changes of the rows that a table has.
//!
//! All of them are one query over the target and, where there is one, the source; its pieces are rendered
//! here, and put together by who knows the target's columns.

use super::{ObjectRef, RelationRef};

/// A change of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Mutation {
    /// The table whose rows change.
    pub table: ObjectRef,
    /// Its relation in the pieces below; other mentions of the same table are relations of their own.
    pub target: String,
    /// What qualifies the target's columns, rendered.
    pub alias: String,
    /// What the query reads, the target too.
    pub relations: Vec<RelationRef>,
    /// How many `?` parameters.
    pub parameters: usize,
    /// Whether the sources give the same rows each time they are read: else only one may read them.
    pub repeatable: bool,
    /// What happens to the rows.
    pub change: Change,
}

impl Mutation {
    /// Whether it may insert rows.
    pub fn inserts(&self) -> bool {
        match &self.change {
            Change::Merge { clauses, .. } => clauses.iter().any(|clause| clause.action.inserts()),
            Change::Delete { .. } | Change::Update { .. } => false,
        }
    }
}

/// What happens to the rows of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// DELETE.
    Delete {
        /// FROM, rendered.
        from: String,
        /// WHERE, rendered.
        filter: Option<String>,
    },
    /// UPDATE.
    Update {
        /// FROM with the target and the statement's FROM, rendered.
        from: String,
        /// WHERE, rendered.
        filter: Option<String>,
        /// SET, at least one.
        set: Vec<Assignment>,
    },
    /// MERGE INTO.
    Merge {
        /// The source, rendered with its alias.
        source: String,
        /// What qualifies the source's columns, rendered.
        source_alias: String,
        /// ON, rendered.
        on: String,
        /// WHEN …, in the statement's order.
        clauses: Vec<MergeClause>,
    },
}

/// `column = value`.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// The column, as written.
    pub column: String,
    /// The value, rendered; `None` is DEFAULT.
    pub value: Option<String>,
}

/// `WHEN [NOT] MATCHED [AND condition] THEN action`.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeClause {
    /// AND, rendered.
    pub condition: Option<String>,
    /// What it does; an insertion is for source rows that match nothing, the others for pairs.
    pub action: MergeAction,
}

/// What a clause of MERGE does.
#[derive(Debug, Clone, PartialEq)]
pub enum MergeAction {
    /// DELETE.
    Delete,
    /// UPDATE SET.
    Update(Vec<Assignment>),
    /// `UPDATE *`: every column from the source's of the same name.
    UpdateAll,
    /// INSERT.
    Insert {
        /// The columns as written; `None` is all of them.
        columns: Option<Vec<String>>,
        /// Their values, rendered; `None` is DEFAULT.
        values: Vec<Option<String>>,
    },
    /// `INSERT *`.
    InsertAll,
}

impl MergeAction {
    /// Whether it is for rows of the source that match nothing.
    pub fn inserts(&self) -> bool {
        matches!(self, Self::Insert { .. } | Self::InsertAll)
    }
}
