//! A table's columns in its files.
//!
//! Comes in: an expression over the table's columns and the schema of one file. Goes out: the same over the
//! file's columns, found by field id (columns may have been renamed, added, dropped since), in the SQL
//! types. Pruning sees through what is a plain cast.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column as ColumnExpr, lit};
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};
use stevedore_common::schema::FIELD_ID;

use super::error::to_datafusion;
use super::storage_types;

/// The column of a field id in a file's schema.
pub(crate) fn field_of_id(schema: &Schema, id: i32) -> Option<usize> {
    schema.fields().iter().position(|field| field_id(field) == Some(id))
}

fn field_id(field: &Field) -> Option<i32> {
    field.metadata().get(FIELD_ID)?.parse().ok()
}

/// Finds a table's columns in a file by field id (by name in files that have none) and turns storage
/// types into SQL types. Columns that the file lacks are NULL.
#[derive(Debug)]
pub(crate) struct FieldIdAdapterFactory {
    /// By planned name: field id, and the name in the table, if it has one.
    pub(crate) columns: HashMap<String, (i32, Option<String>)>,
}

impl PhysicalExprAdapterFactory for FieldIdAdapterFactory {
    fn create(
        &self,
        logical_file_schema: SchemaRef,
        physical_file_schema: SchemaRef,
    ) -> DfResult<Arc<dyn PhysicalExprAdapter>> {
        let has_ids = physical_file_schema.fields().iter().any(|field| field_id(field).is_some());
        let columns = logical_file_schema
            .fields()
            .iter()
            .map(|field| {
                let index = match self.columns.get(field.name()) {
                    Some((id, _)) if has_ids => field_of_id(&physical_file_schema, *id),
                    Some((_, name)) => {
                        name.as_ref().and_then(|name| physical_file_schema.index_of(name).ok())
                    }
                    None => None,
                };
                (field.name().clone(), (Arc::clone(field), index))
            })
            .collect();
        Ok(Arc::new(FieldIdAdapter { columns, physical: physical_file_schema }))
    }
}

#[derive(Debug)]
struct FieldIdAdapter {
    columns: HashMap<String, (FieldRef, Option<usize>)>,
    physical: SchemaRef,
}

impl PhysicalExprAdapter for FieldIdAdapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> DfResult<Arc<dyn PhysicalExpr>> {
        // Down, and never into what was put in: a file's column may have the name of another column.
        expr.transform_down(|expr| {
            let Some(column) = expr.as_any().downcast_ref::<ColumnExpr>() else {
                return Ok(Transformed::no(expr));
            };
            let Some((field, index)) = self.columns.get(column.name()) else {
                return Ok(Transformed::no(expr));
            };
            let Some(index) = *index else {
                let null = ScalarValue::try_from(field.data_type())?;
                return Ok(Transformed::new(lit(null), true, TreeNodeRecursion::Jump));
            };
            let source = self.physical.field(index);
            let column: Arc<dyn PhysicalExpr> = Arc::new(ColumnExpr::new(source.name(), index));
            let adapted: Arc<dyn PhysicalExpr> = if source.data_type() == field.data_type() {
                column
            } else if storage_types::is_plain_cast(source.data_type(), field.data_type()) {
                Arc::new(CastExpr::new(column, field.data_type().clone(), None))
            } else {
                Arc::new(StorageCast { input: column, field: Arc::clone(field) })
            };
            Ok(Transformed::new(adapted, true, TreeNodeRecursion::Jump))
        })
        .data()
    }
}

/// A conversion that Arrow's cast does not do as we need it (vectors, structs by name).
#[derive(Debug)]
struct StorageCast {
    input: Arc<dyn PhysicalExpr>,
    field: FieldRef,
}

// Written out: deriving moves the trait object.
impl PartialEq for StorageCast {
    fn eq(&self, other: &Self) -> bool {
        self.input.eq(&other.input) && self.field == other.field
    }
}

impl Eq for StorageCast {}

impl Hash for StorageCast {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.field.hash(state);
    }
}

impl fmt::Display for StorageCast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stored({})", self.input)
    }
}

impl PhysicalExpr for StorageCast {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn data_type(&self, _: &Schema) -> DfResult<DataType> {
        Ok(self.field.data_type().clone())
    }

    fn nullable(&self, _: &Schema) -> DfResult<bool> {
        Ok(true)
    }

    fn return_field(&self, _: &Schema) -> DfResult<FieldRef> {
        Ok(Arc::clone(&self.field))
    }

    fn evaluate(&self, batch: &RecordBatch) -> DfResult<ColumnarValue> {
        let array = self.input.evaluate(batch)?.into_array(batch.num_rows())?;
        let converted = storage_types::convert(&array, self.field.data_type()).map_err(to_datafusion)?;
        Ok(ColumnarValue::Array(converted))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> DfResult<Arc<dyn PhysicalExpr>> {
        match children.pop() {
            Some(input) => Ok(Arc::new(Self { input, field: Arc::clone(&self.field) })),
            None => Err(DataFusionError::Internal("a stored column has one input".into())),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
