//! DEFAULT expressions of columns.
//!
//! Comes in: the SQL text of a default and its column. Goes out: values of the column's type for any
//! number of rows. What varies by row (`uuid()`) is evaluated for each, `now()` is the start of the
//! statement.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema};
use chrono::{DateTime, Utc};
use datafusion::common::DFSchema;
use datafusion::execution::session_state::SessionState;
use datafusion::physical_expr::PhysicalExpr;
use stevedore_common::error::ResultExt;
use stevedore_common::schema::Column;
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::cast::CastContext;
use stevedore_decode::spec::CastOptions;

use super::compile::physical;
use crate::query::from_datafusion;
use crate::query::functions::kernel;

/// A compiled DEFAULT.
#[derive(Debug, Clone)]
pub struct DefaultValue {
    expr: Arc<dyn PhysicalExpr>,
    field: Field,
    ty: SqlType,
    context: CastContext,
    cast: CastOptions,
}

impl DefaultValue {
    /// Compiles the default of a column; `None` where it has none.
    ///
    /// # Errors
    /// Invalid input that names the column.
    pub(crate) fn compile(
        state: &SessionState,
        column: &Column,
        number: usize,
        cast: &CastOptions,
        now: DateTime<Utc>,
    ) -> Result<Option<Self>> {
        let Some(text) = &column.default else { return Ok(None) };
        let compile = || -> Result<(Arc<dyn PhysicalExpr>, Field)> {
            let schema = DFSchema::empty();
            let expr = state.create_logical_expr(text, &schema).map_err(|e| from_datafusion(&e))?;
            physical(state, expr, &schema, now)
        };
        let (expr, field) =
            compile().context(|| format!("the default {text} of column '{}'", column.name))?;
        let context = CastContext { column_number: number, column_name: column.name.clone() };
        Ok(Some(Self { expr, field, ty: column.ty.clone(), context, cast: cast.clone() }))
    }

    /// The values for some rows.
    ///
    /// # Errors
    /// Invalid input where the value does not fit the column.
    pub fn values(&self, rows: usize) -> Result<ArrayRef> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)?;
        let values = self.expr.evaluate(&batch).and_then(|value| value.into_array(rows)).map_err(|e| {
            from_datafusion(&e).context(format!("the default of '{}'", self.context.column_name))
        })?;
        let cast = kernel::cast_column(&values, &self.field, &self.ty, &self.cast, &self.context)?;
        match cast.rejects.into_iter().next() {
            None => Ok(cast.values),
            Some((_, message)) => {
                Err(Error::invalid(message).context(format!("the default of '{}'", self.context.column_name)))
            }
        }
    }
}
