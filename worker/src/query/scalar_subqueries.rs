//! A subquery that stands for a value gives one row at most.
//!
//! Comes in: a plan after DataFusion has coerced types, and before it turns such subqueries into joins, which
//! would give a row for each of theirs. Goes out: the same plan where a subquery that may give several rows is
//! aggregated to one: its value, NULL where there is none, and whether there was a second. What reads the subquery fails where there was.
//! It fails there and not in the subquery: one that is correlated is computed for all of its rows, and may have
//! several for values that no row outside has. One that is correlated and ends in LIMIT 1, which DataFusion does
//! not turn into a join, becomes the aggregate of its first row.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::compute::{is_null, nullif};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ScalarValue, internal_err};
use datafusion::error::Result as DfResult;
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, Sort};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    AggregateUDF, ColumnarValue, Expr, Limit, LogicalPlan, LogicalPlanBuilder, ReturnFieldArgs,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Subquery, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use stevedore_common::{Error, Result};

use super::error::to_datafusion;
use super::single_value::{self, SingleValue};

/// See the module.
#[derive(Debug)]
pub(crate) struct ScalarSubqueries {
    single_value: Arc<AggregateUDF>,
    of_single_row: Arc<ScalarUDF>,
}

impl Default for ScalarSubqueries {
    fn default() -> Self {
        Self {
            single_value: Arc::new(AggregateUDF::new_from_impl(SingleValue::default())),
            of_single_row: Arc::new(ScalarUDF::new_from_impl(OfSingleRow::default())),
        }
    }
}

impl ScalarSubqueries {
    fn rewrite_plan(&self, plan: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
        let names = NamePreserver::new(&plan);
        let rewritten = plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let rewritten = expr.transform_up(|expr| self.rewrite(expr))?;
            Ok(if rewritten.transformed {
                rewritten.update_data(|expr| name.restore(expr))
            } else {
                rewritten
            })
        })?;
        if rewritten.transformed { rewritten.map_data(LogicalPlan::recompute_schema) } else { Ok(rewritten) }
    }

    fn rewrite(&self, expr: Expr) -> DfResult<Transformed<Expr>> {
        let Expr::ScalarSubquery(subquery) = expr else { return Ok(Transformed::no(expr)) };
        let plan = subquery.subquery.as_ref();
        // More columns are an error, which DataFusion's check tells.
        let [_] = plan.schema().fields().as_ref() else {
            return Ok(Transformed::no(Expr::ScalarSubquery(subquery)));
        };
        let correlated = !subquery.outer_ref_columns.is_empty();
        // DataFusion knows what a correlated aggregate of no rows is.
        let is_sure = if correlated { has_one_row_at_most(plan) } else { has_one_row(plan) };
        if !is_sure {
            let single = aggregated(plan.clone(), &self.single_value, only_column(plan), Vec::new())?;
            let checked = self.of_single_row.call(vec![with_plan(subquery, single)]);
            return Ok(Transformed::yes(checked));
        }
        match plan {
            LogicalPlan::Limit(limit) if correlated && is_first_row(limit) => {
                let first = first_row(&limit.input)?;
                Ok(Transformed::yes(with_plan(subquery, first)))
            }
            _ => Ok(Transformed::no(Expr::ScalarSubquery(subquery))),
        }
    }
}

impl AnalyzerRule for ScalarSubqueries {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DfResult<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(|plan| self.rewrite_plan(plan))?.data)
    }

    fn name(&self) -> &str {
        "scalar_subqueries"
    }
}

fn has_one_row_at_most(plan: &LogicalPlan) -> bool {
    plan.max_rows().is_some_and(|rows| rows <= 1)
}

/// Whether a plan has a row whatever its tables hold, and no other. One that may have none gives NULL, which
/// DataFusion, going by the type of its column, does not expect.
fn has_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => has_one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => has_one_row(&alias.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::EmptyRelation(relation) => relation.produce_one_row,
        _ => false,
    }
}

fn with_plan(subquery: Subquery, plan: LogicalPlan) -> Expr {
    Expr::ScalarSubquery(subquery.with_plan(Arc::new(plan)))
}

fn only_column(plan: &LogicalPlan) -> Expr {
    Expr::Column(Column::from(plan.schema().qualified_field(0)))
}

fn aggregated(
    input: LogicalPlan,
    function: &Arc<AggregateUDF>,
    value: Expr,
    order: Vec<Sort>,
) -> DfResult<LogicalPlan> {
    let aggregate = AggregateFunction::new_udf(Arc::clone(function), vec![value], false, None, order, None);
    LogicalPlanBuilder::from(input)
        .aggregate(Vec::<Expr>::new(), vec![Expr::AggregateFunction(aggregate)])?
        .build()
}

/// Whether this is LIMIT 1.
fn is_first_row(limit: &Limit) -> bool {
    let is = |expr: &Option<Box<Expr>>, value: i64| matches!(expr.as_deref(), Some(Expr::Literal(ScalarValue::Int64(Some(n)), _)) if *n == value);
    (limit.skip.is_none() || is(&limit.skip, 0)) && is(&limit.fetch, 1)
}

/// What a plan gives first, as an aggregate.
fn first_row(plan: &LogicalPlan) -> DfResult<LogicalPlan> {
    let first = first_value_udaf();
    match plan {
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
            aggregated(sort.input.as_ref().clone(), &first, only_column(&sort.input), sort.expr.clone())
        }
        // ORDER BY of what is not selected.
        LogicalPlan::Projection(projection) => {
            match (projection.input.as_ref(), projection.expr.as_slice()) {
                (LogicalPlan::Sort(sort), [value]) if sort.fetch.is_none() => {
                    let value = value.clone().unalias();
                    aggregated(sort.input.as_ref().clone(), &first, value, sort.expr.clone())
                }
                _ => aggregated(plan.clone(), &first, only_column(plan), Vec::new()),
            }
        }
        _ => aggregated(plan.clone(), &first, only_column(plan), Vec::new()),
    }
}

/// Reads what [`SingleValue`] gave.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OfSingleRow {
    signature: Signature,
}

impl Default for OfSingleRow {
    fn default() -> Self {
        // It fails, and so must be computed for no other rows than those that ask.
        Self { signature: Signature::any(1, Volatility::Volatile) }
    }
}

impl ScalarUDFImpl for OfSingleRow {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        "__of_single_row"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        internal_err!("the type depends on the field of the argument")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        match args.arg_fields.first().map(|field| field.data_type()) {
            Some(DataType::Struct(fields)) if fields.len() == 2 => Ok(Arc::clone(&fields[0])),
            other => internal_err!("a single value is no {other:?}"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let [found] = args.args.as_slice() else { return internal_err!("a single value has one argument") };
        match found {
            ColumnarValue::Array(found) => Ok(ColumnarValue::Array(values(found.as_struct())?)),
            ColumnarValue::Scalar(found) => {
                let values = values(found.to_array()?.as_struct())?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?))
            }
        }
    }
}

fn values(found: &StructArray) -> DfResult<ArrayRef> {
    only_single(found).map_err(to_datafusion)?;
    let value = found.column(single_value::VALUE);
    // Where a row outside has no row inside.
    Ok(if found.null_count() == 0 { Arc::clone(value) } else { nullif(value, &is_null(found)?)? })
}

fn only_single(found: &StructArray) -> Result<()> {
    let more = found.column(single_value::MORE).as_boolean();
    if more.values().set_indices().any(|row| found.is_valid(row) && more.is_valid(row)) {
        return Err(Error::invalid("a scalar subquery returned more than one row")
            .hint("make it one row, as max(x) or LIMIT 1 do, or write IN (SELECT …)"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "scalar_subqueries_tests.rs"]
mod tests;
