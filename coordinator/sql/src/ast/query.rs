//! Queries as a worker runs them, and the relations they read.

use stevedore_common::types::SqlType;

use super::{FileFormatRef, LocationRef, ObjectRef};

/// A query, rendered for a worker. How the text must be run stands in [`crate::render`].
#[derive(Debug, Clone, PartialEq)]
pub struct AnalyzedQuery {
    /// The SQL over generated relation names.
    pub sql: String,
    /// What the names are, in order of their numbers.
    pub relations: Vec<RelationRef>,
    /// How many `?` parameters; in `sql` they are `$1` … `$n`.
    pub parameters: usize,
    /// Whether the query is a bare list of constants (`SELECT 1`, VALUES) that reads nothing.
    pub is_constant: bool,
    /// Whether each of its rows is made of one row of its only relation: shares of that give shares of these.
    pub is_row_by_row: bool,
}

/// A relation of a query.
#[derive(Debug, Clone, PartialEq)]
pub struct RelationRef {
    /// The generated name, as in the SQL, without quotes: `__rel_0`.
    pub name: String,
    /// What it is.
    pub target: RelationTarget,
}

/// What a query reads.
#[derive(Debug, Clone, PartialEq)]
pub enum RelationTarget {
    /// A table, also of `system` and `information_schema`, or a stream.
    Table(ObjectRef),
    /// A stream, read as its options say.
    Stream {
        /// The stream.
        stream: ObjectRef,
        /// What stands in `WITH …` behind it.
        options: StreamOptions,
    },
    /// The table that a DELETE, UPDATE or MERGE INTO changes.
    Target(ObjectRef),
    /// A table as it was.
    TableAt {
        /// The table.
        table: ObjectRef,
        /// When.
        at: TimeTravel,
    },
    /// Files.
    Stage(StageSource),
    /// A table function of the coordinator's.
    Function(TableFunction),
}

/// The point in a table's history that a query reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeTravel {
    /// `AT (SNAPSHOT => '…')`: the id as written.
    Snapshot(String),
    /// `AT (TIMESTAMP => …)`: the expression, rendered: constants, and functions and arithmetic over them.
    Timestamp(String),
}

/// How a query reads a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// CONSUME: once all rows were given, the stream's offset moves behind them.
    pub consume: bool,
    /// MAX_BATCH_SIZE: only the changes of the first commits, up to so many rows; at least one commit.
    pub max_batch_size: Option<u64>,
}

/// Files as a relation.
#[derive(Debug, Clone, PartialEq)]
pub struct StageSource {
    /// Where.
    pub location: LocationRef,
    /// FILE_FORMAT; `None` is the stage's.
    pub file_format: Option<FileFormatRef>,
    /// PATTERN, checked.
    pub pattern: Option<String>,
    /// FILES.
    pub files: Option<Vec<String>>,
    /// CASE_SENSITIVE.
    pub case_sensitive: bool,
    /// The positions `$n` that the query reads of this relation, ascending. A `$n` without an alias
    /// counts for every stage relation of the query.
    pub positions: Vec<u32>,
}

/// A call of a table function.
#[derive(Debug, Clone, PartialEq)]
pub struct TableFunction {
    /// Name, in lower case.
    pub name: String,
    /// Arguments in order, with their names in lower case where given.
    pub arguments: Vec<(Option<String>, FunctionArg)>,
}

impl TableFunction {
    /// The argument of a name.
    pub fn named(&self, name: &str) -> Option<&FunctionArg> {
        self.arguments.iter().find(|(n, _)| n.as_deref() == Some(name)).map(|(_, value)| value)
    }
}

/// A constant argument of a table function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FunctionArg {
    /// A string.
    Text(String),
    /// A number, as written.
    Number(String),
    /// TRUE or FALSE.
    Bool(bool),
    /// NULL.
    Null,
    /// A time that is to be evaluated, rendered.
    Time(String),
}

impl FunctionArg {
    /// The text of a string argument.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value of an argument that is an integer and not negative.
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::Number(number) => number.parse().ok(),
            _ => None,
        }
    }
}

/// The `(SELECT … FROM location [alias] [WHERE …])` of COPY INTO.
#[derive(Debug, Clone, PartialEq)]
pub struct AnalyzedTransform {
    /// The SQL over the one relation.
    pub sql: String,
    /// The relation's generated name.
    pub relation: String,
    /// What it is.
    pub location: LocationRef,
    /// The expressions; `None` is `*`.
    pub items: Option<Vec<TransformItem>>,
    /// The condition, rendered, if there is one.
    pub filter: Option<String>,
    /// The positions `$n` that the expressions and the condition read, ascending.
    pub positions: Vec<u32>,
    /// The columns that they read by name, in lower case where unquoted, in order of appearance.
    pub columns: Vec<String>,
    /// How many `?` parameters.
    pub parameters: usize,
}

impl AnalyzedTransform {
    /// The number of expressions; `None` is `*`.
    pub fn expression_count(&self) -> Option<usize> {
        self.items.as_ref().map(Vec::len)
    }
}

/// One expression of a transform.
#[derive(Debug, Clone, PartialEq)]
pub struct TransformItem {
    /// Set where the expression is just a column, or a cast of one.
    pub source: Option<ColumnRef>,
    /// The cast of such a column.
    pub cast: Option<SqlType>,
    /// The expression, rendered.
    pub sql: String,
    /// The alias as written, if any.
    pub alias: Option<String>,
}

/// A column of a stage relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnRef {
    /// By name, as written (match it exactly first, then in any case).
    Name(String),
    /// `$n`, from 1.
    Position(u32),
}
