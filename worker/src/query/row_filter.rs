//! The WHERE of a statement over files, as their decoder takes it: row groups that cannot match are not
//! read, and rows that do not match are dropped before their other columns are decoded.
//!
//! Comes in: a condition over decoded columns and those that say where a row comes from. Goes out: a
//! [`RowFilter`] for the part of it that looks at decoded columns alone. The statement still evaluates its
//! whole WHERE on what is left. Must never drop a row that the WHERE lets pass, nor one for which it fails:
//! only conditions that cannot fail are taken.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{
    BinaryExpr, CastExpr, Column as PhysicalColumn, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal,
    NotExpr,
};
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr::{PhysicalExpr, conjunction, split_conjunction};
use datafusion::physical_optimizer::pruning::PruningPredicate;
use stevedore_common::{Error, Result};
use stevedore_decode::parquet::{PartBounds, RowFilter};

use super::from_datafusion;

/// The filter that a condition makes; `None` where none of it can be taken. `decoded` says for each column
/// of `input` which wanted column it is, if it is one.
pub(crate) fn row_filter(
    condition: &Arc<dyn PhysicalExpr>,
    input: &SchemaRef,
    decoded: &[Option<usize>],
) -> Option<Arc<dyn RowFilter>> {
    if !cannot_fail(condition, input) {
        return None;
    }
    let wanted = |column: &PhysicalColumn| decoded.get(column.index()).copied().flatten();
    let parts: Vec<Arc<dyn PhysicalExpr>> = split_conjunction(condition)
        .into_iter()
        .filter(|part| {
            let columns = collect_columns(part);
            !columns.is_empty() && columns.iter().all(|column| wanted(column).is_some())
        })
        .cloned()
        .collect();
    if parts.is_empty() {
        return None;
    }
    let condition = conjunction(parts);
    let mut places: Vec<usize> = collect_columns(&condition).iter().map(PhysicalColumn::index).collect();
    places.sort_unstable();
    let schema = Arc::new(input.project(&places).ok()?);
    let columns =
        places.iter().map(|place| decoded.get(*place).copied().flatten()).collect::<Option<Vec<_>>>()?;
    let condition = reassign_expr_columns(condition, &schema).ok()?;
    let pruning = PruningPredicate::try_new(Arc::clone(&condition), Arc::clone(&schema)).ok();
    Some(Arc::new(Condition { condition, schema, columns, pruning: pruning.map(Arc::new) }))
}

/// A condition over decoded columns.
#[derive(Debug)]
struct Condition {
    condition: Arc<dyn PhysicalExpr>,
    /// What it looks at.
    schema: SchemaRef,
    /// The wanted column that each of these is.
    columns: Vec<usize>,
    pruning: Option<Arc<PruningPredicate>>,
}

impl RowFilter for Condition {
    fn columns(&self) -> &[usize] {
        &self.columns
    }

    fn passes(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let mask = self.condition.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()));
        let mask = mask.map_err(|e| from_datafusion(&e))?;
        mask.as_boolean_opt().cloned().ok_or_else(|| Error::internal("a filter gave no truth values"))
    }

    fn may_pass(&self, bounds: &dyn PartBounds) -> Vec<bool> {
        let all = || vec![true; bounds.len()];
        let Some(pruning) = &self.pruning else { return all() };
        pruning.prune(&Bounds { condition: self, bounds }).unwrap_or_else(|error| {
            tracing::debug!(%error, "a filter does not prune row groups");
            all()
        })
    }
}

struct Bounds<'a> {
    condition: &'a Condition,
    bounds: &'a dyn PartBounds,
}

impl Bounds<'_> {
    fn of(&self, column: &Column) -> Option<stevedore_decode::parquet::ColumnBounds> {
        let place = self.condition.schema.index_of(column.name()).ok()?;
        let bounds = self.bounds.of(*self.condition.columns.get(place)?)?;
        // The decoder's types are those of the statement, but for the names within nested ones.
        (bounds.least.data_type() == self.condition.schema.field(place).data_type()).then_some(bounds)
    }
}

impl PruningStatistics for Bounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        Some(self.of(column)?.least)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        Some(self.of(column)?.greatest)
    }

    fn num_containers(&self) -> usize {
        self.bounds.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        Some(Arc::new(self.of(column)?.nulls))
    }

    fn row_counts(&self, _: &Column) -> Option<ArrayRef> {
        Some(Arc::new(self.bounds.rows()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

/// Whether a condition gives a truth value for every row, whatever it holds.
fn cannot_fail(expr: &Arc<dyn PhysicalExpr>, input: &SchemaRef) -> bool {
    let any = expr.as_any();
    let known = any.is::<PhysicalColumn>()
        || any.is::<Literal>()
        || any.is::<NotExpr>()
        || any.is::<IsNullExpr>()
        || any.is::<IsNotNullExpr>()
        || any.is::<InListExpr>()
        || any.is::<LikeExpr>()
        || any.downcast_ref::<BinaryExpr>().is_some_and(|expr| {
            use Operator::{And, Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq, Or};
            matches!(
                expr.op(),
                And | Or | Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom
            )
        })
        || any.downcast_ref::<CastExpr>().is_some_and(|cast| {
            let from = cast.expr().data_type(input);
            from.is_ok_and(|from| widens(&from, cast.cast_type()))
        });
    known && expr.children().into_iter().all(|child| cannot_fail(child, input))
}

/// Whether every value of one type is one of another.
fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType::{Float32, Float64, Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64};
    let bits = |ty: &DataType| match ty {
        Int8 => Some((8, true)),
        Int16 => Some((16, true)),
        Int32 => Some((32, true)),
        Int64 => Some((64, true)),
        UInt8 => Some((8, false)),
        UInt16 => Some((16, false)),
        UInt32 => Some((32, false)),
        UInt64 => Some((64, false)),
        _ => None,
    };
    match (bits(from), bits(to)) {
        (Some((from, true)), Some((to, true))) | (Some((from, false)), Some((to, false))) => from <= to,
        (Some((from, false)), Some((to, true))) => from < to,
        (Some(_), None) => matches!(to, Float64),
        (None, None) => from == to || matches!((from, to), (Float32, Float64)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use arrow::array::{Int64Array, StringArray, UInt64Array};
    use arrow::datatypes::{Field, Schema};
    use datafusion::common::DFSchema;
    use datafusion::logical_expr::{Expr, col, lit};
    use datafusion::prelude::SessionContext;
    use stevedore_decode::parquet::ColumnBounds;

    use super::*;

    /// Three row groups: `a` is 0 to 9, 10 to 19, unknown; `b` has no NULLs in the first, only NULLs in the second.
    struct Three;

    impl PartBounds for Three {
        fn len(&self) -> usize {
            3
        }

        fn of(&self, column: usize) -> Option<ColumnBounds> {
            Some(match column {
                7 => ColumnBounds {
                    least: Arc::new(Int64Array::from(vec![Some(0), Some(10), None])),
                    greatest: Arc::new(Int64Array::from(vec![Some(9), Some(19), None])),
                    nulls: UInt64Array::from(vec![Some(0), None, None]),
                },
                8 => ColumnBounds {
                    least: Arc::new(StringArray::from(vec![Some("k"), None, None])),
                    greatest: Arc::new(StringArray::from(vec![Some("m"), None, None])),
                    nulls: UInt64Array::from(vec![Some(0), Some(100), None]),
                },
                _ => return None,
            })
        }

        fn rows(&self) -> UInt64Array {
            UInt64Array::from(vec![100; 3])
        }
    }

    fn filter(condition: Expr) -> Option<Arc<dyn RowFilter>> {
        let input = Arc::new(Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Utf8, true),
            Field::new("metadata$filename", DataType::Utf8, true),
        ]));
        let schema = DFSchema::try_from(Arc::clone(&input)).unwrap();
        let context = SessionContext::new();
        let condition = context.create_physical_expr(condition, &schema).unwrap();
        row_filter(&condition, &input, &[Some(7), Some(8), None])
    }

    #[test]
    fn row_groups_without_a_match_are_known_and_unknown_ones_are_kept() {
        for (condition, expected) in [
            (col("a").gt(lit(15i64)), [false, true, true]),
            (col("a").eq(lit(5i64)).or(col("a").eq(lit(19i64))), [true, true, true]),
            (col("a").eq(lit(20i64)), [false, false, true]),
            (col("b").is_null(), [false, true, true]),
            (col("b").eq(lit("l")), [true, false, true]),
            (col("b").like(lit("z%")), [false, false, true]),
            (col("a").lt(lit(10i64)).and(col("metadata$filename").eq(lit("f"))), [true, false, true]),
        ] {
            assert_eq!(filter(condition.clone()).unwrap().may_pass(&Three), expected, "{condition}");
        }
    }

    #[test]
    fn conditions_that_can_fail_or_look_elsewhere_are_left_alone() {
        let divided = (lit(1i64) / col("a")).gt(lit(0i64));
        assert!(filter(divided.clone()).is_none());
        assert!(filter(col("a").gt(lit(5i64)).and(divided)).is_none());
        assert!(filter(col("metadata$filename").eq(lit("f"))).is_none());
        let cast = datafusion::logical_expr::cast(col("b"), DataType::Int64).gt(lit(5i64));
        assert!(filter(cast).is_none());
    }

    #[test]
    fn a_row_passes_where_the_condition_is_true() {
        let filter = filter(col("b").eq(lit("x")).and(col("a").gt(lit(1i64)))).unwrap();
        assert_eq!(filter.columns(), [7, 8]);
        let batch = RecordBatch::try_from_iter([
            ("f7", Arc::new(Int64Array::from(vec![Some(1), Some(2), None])) as ArrayRef),
            ("f8", Arc::new(StringArray::from(vec!["x", "x", "x"]))),
        ]);
        let passed = filter.passes(&batch.unwrap()).unwrap();
        assert_eq!(passed, BooleanArray::from(vec![Some(false), Some(true), None]));
    }
}
