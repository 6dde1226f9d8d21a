//! INSERT … VALUES | SELECT and CREATE TABLE AS: the rows of a query into the table.
//!
//! Columns go by position to the target's columns and are cast to their types; the others get their
//! defaults. The first row that does not fit fails the statement.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use stevedore_common::schema::{Column, TableSchema};
use stevedore_common::{Error, Result};
use stevedore_decode::cast::{CastContext, check_field};
use stevedore_decode::errors::null_value;
use stevedore_decode::spec::CastOptions;
use stevedore_proto::v1::{QuerySpec, TableTarget};

use super::{SliceCounters, SliceFailure, SliceRunner};
use crate::query::QueryEngine;
use crate::query::functions::{self, kernel};
use crate::transform::DefaultValue;
use crate::write::BatchSink;

impl SliceRunner {
    /// Runs the query and gives its rows to the sink.
    pub(super) async fn insert(
        &self,
        query: &QuerySpec,
        target: &TableTarget,
        table: &TableSchema,
        sink: &mut dyn BatchSink,
        counters: &SliceCounters,
    ) -> Result<(), SliceFailure> {
        let planned = self.engine.plan(query).await?;
        let rows_of = "the query";
        let insert =
            Insert::compile(&self.engine, &query.settings, target, table, planned.schema(), rows_of)?;
        let insert = Arc::new(insert);
        let mut rows = self.engine.execute(planned).await?;
        let mut first = 0;
        while let Some(batch) = rows.next().await {
            self.write_cast(&insert, batch?, &mut first, sink, counters).await?;
        }
        Ok(())
    }

    /// Gives a batch to the sink as rows of its table. `first` is the number of its first row, then of the next one.
    pub(super) async fn write_cast(
        &self,
        insert: &Arc<Insert>,
        batch: RecordBatch,
        first: &mut u64,
        sink: &mut dyn BatchSink,
        counters: &SliceCounters,
    ) -> Result<()> {
        let (insert, before) = (insert.clone(), *first);
        *first += batch.num_rows() as u64;
        let batch = self.resources.cpu.run(move || insert.apply(&batch, before)).await?;
        let count = batch.num_rows() as u64;
        sink.write(batch).await?;
        SliceCounters::add(&counters.rows, count);
        Ok(())
    }
}

/// How rows that came from elsewhere, as the result of a query, become rows of a table.
pub(super) struct Insert {
    columns: Vec<(Column, Source)>,
    result: SchemaRef,
    schema: SchemaRef,
    cast: CastOptions,
    /// What errors say that a row is of.
    rows_of: &'static str,
}

enum Source {
    /// This column of the result.
    Result(usize),
    Default(Option<Box<DefaultValue>>),
}

impl Insert {
    /// The target's columns by position to those of the result, which are `rows_of` something.
    pub(super) fn compile(
        engine: &QueryEngine,
        settings: &HashMap<String, String>,
        target: &TableTarget,
        table: &TableSchema,
        result: &SchemaRef,
        rows_of: &'static str,
    ) -> Result<Self> {
        let cast = functions::cast_options(settings)?;
        let all: Vec<i32> = table.columns.iter().map(|column| column.id).collect();
        let targets = if target.field_ids.is_empty() { &all } else { &target.field_ids };
        if targets.len() != result.fields().len() {
            return Err(Error::invalid(format!(
                "{rows_of} gives {} columns for {} columns of table '{}'",
                result.fields().len(),
                targets.len(),
                target.name
            )));
        }
        let session = engine.session(settings)?;
        let now = chrono::Utc::now();
        let mut columns = Vec::with_capacity(table.columns.len());
        for (index, column) in table.columns.iter().enumerate() {
            let source = match targets.iter().position(|id| *id == column.id) {
                Some(position) => {
                    let from = result.field(position);
                    if !from.data_type().is_null() {
                        check_field(from, &column.ty)
                            .map_err(|e| e.context(format!("column '{}'", column.name)))?;
                    }
                    Source::Result(position)
                }
                None => {
                    let default = DefaultValue::compile(&session, column, index + 1, &cast, now)?;
                    Source::Default(default.map(Box::new))
                }
            };
            columns.push((column.clone(), source));
        }
        Ok(Self { columns, result: result.clone(), schema: table.to_arrow(), cast, rows_of })
    }

    /// `first` is the number of the first row within the result.
    pub(super) fn apply(&self, batch: &RecordBatch, first: u64) -> Result<RecordBatch> {
        let columns = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, (column, source))| self.column(batch, first, index, column, source))
            .collect::<Result<Vec<ArrayRef>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|e| Error::internal(format!("rows do not fit their table: {e}")))
    }

    fn column(
        &self,
        batch: &RecordBatch,
        first: u64,
        index: usize,
        column: &Column,
        source: &Source,
    ) -> Result<ArrayRef> {
        let bad_row = |row: usize, message: String| {
            Error::bad_data(message).context(format!("row {} of {}", first + row as u64 + 1, self.rows_of))
        };
        let (number, values) = match source {
            Source::Default(None) => (index + 1, new_null_array(&column.ty.to_arrow(), batch.num_rows())),
            Source::Default(Some(default)) => (index + 1, default.values(batch.num_rows())?),
            Source::Result(position) => {
                let context = CastContext { column_number: position + 1, column_name: column.name.clone() };
                let values = batch.column(*position);
                let cast = kernel::cast_column(
                    values,
                    self.result.field(*position),
                    &column.ty,
                    &self.cast,
                    &context,
                )?;
                if let Some((row, message)) = cast.rejects.into_iter().next() {
                    return Err(bad_row(row, message));
                }
                (position + 1, cast.values)
            }
        };
        if !column.nullable
            && let Some(row) = (0..values.len()).find(|row| values.is_null(*row))
        {
            return Err(bad_row(row, null_value(number, &column.name, &column.ty)));
        }
        Ok(values)
    }
}
