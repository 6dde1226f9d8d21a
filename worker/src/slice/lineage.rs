//! The columns of rewritten files that say which row each row is (`stevedore_common::row_lineage`).
//!
//! Comes in: the numbers that a numbered table gave its rows. Goes out: batches with the four columns after those of
//! the table.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, StringBuilder,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use stevedore_common::{Error, Result, row_lineage};

use crate::query::origins::Origins;

/// Which rows those of a batch are. NULL: new ones.
pub(super) struct Lineage {
    /// The files that they were first written to, by number.
    pub(super) origins: Int64Array,
    /// Their positions there.
    pub(super) positions: Int64Array,
    pub(super) added: Int64Array,
    /// NULL: they change now.
    pub(super) updated: Int64Array,
}

impl Lineage {
    /// From columns of a batch, as they are numbered: origin, position, added and, unless they change now, updated.
    pub(super) fn of(columns: &[ArrayRef]) -> Result<Self> {
        let column = |index: usize| -> Result<Int64Array> {
            let column = columns.get(index).ok_or_else(|| super::missing("the lineage of its rows"))?;
            Ok(arrow::compute::cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
        };
        let (origins, positions, added) = (column(0)?, column(1)?, column(2)?);
        let updated = if columns.len() > 3 { column(3)? } else { Int64Array::new_null(origins.len()) };
        Ok(Self { origins, positions, added, updated })
    }

    /// The same, where the rows of `new` are new ones.
    pub(super) fn but_new(self, new: &BooleanArray) -> Self {
        let old = NullBuffer::new(!new.values());
        let only = |column: Int64Array| {
            let nulls = NullBuffer::union(column.nulls(), Some(&old));
            Int64Array::new(column.values().clone(), nulls)
        };
        Self {
            origins: only(self.origins),
            positions: only(self.positions),
            added: only(self.added),
            updated: only(self.updated),
        }
    }

    /// The rows that a filter keeps.
    pub(super) fn filter(&self, keep: &BooleanArray) -> Result<Self> {
        let only = |column: &Int64Array| -> Result<Int64Array> {
            Ok(arrow::compute::filter(column, keep)?.as_primitive::<Int64Type>().clone())
        };
        Ok(Self {
            origins: only(&self.origins)?,
            positions: only(&self.positions)?,
            added: only(&self.added)?,
            updated: only(&self.updated)?,
        })
    }

    /// Rows of the table with these columns.
    pub(super) fn append_to(self, rows: &RecordBatch, origins: &Origins) -> Result<RecordBatch> {
        let mut names = StringBuilder::with_capacity(self.origins.len(), 0);
        // Rows that came from one file mostly stand together.
        let mut last: Option<(i64, Arc<str>)> = None;
        for origin in &self.origins {
            let Some(origin) = origin else {
                names.append_null();
                continue;
            };
            if last.as_ref().is_none_or(|(known, _)| *known != origin) {
                let name = origins.name(origin);
                let name =
                    name.ok_or_else(|| Error::internal("a row comes from a file that was not read"))?;
                last = Some((origin, name));
            }
            names.append_value(last.as_ref().map_or("", |(_, name)| name));
        }
        let columns: [ArrayRef; 4] = [
            Arc::new(names.finish()),
            Arc::new(self.positions),
            Arc::new(self.added),
            Arc::new(self.updated),
        ];
        with_columns(rows, columns)
    }
}

fn with_columns(rows: &RecordBatch, lineage: [ArrayRef; 4]) -> Result<RecordBatch> {
    let schema = rows.schema();
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    for ((name, ..), column) in row_lineage::COLUMNS.iter().zip(&lineage) {
        fields.push(Arc::new(Field::new(*name, column.data_type().clone(), true)));
    }
    let columns = rows.columns().iter().cloned().chain(lineage).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
        .map_err(|e| Error::internal(format!("rows and their lineage: {e}")))
}
