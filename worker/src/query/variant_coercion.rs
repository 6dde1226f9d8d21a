//! What a VARIANT means beside a value of another type.
//!
//! Comes in: a plan before DataFusion coerces types. Goes out: the same plan where a VARIANT that is
//! compared with text, or given to a function of text, is read as text (`v:a = 'x'`), one that is
//! compared with another type is cast to it, NULL where that fails (`v:n > 5`), and one that is computed
//! with is a DOUBLE. Two VARIANTs are compared as they are. Other functions, `sum` among them, take a VARIANT
//! only under a cast of the user's. Numbers are computed with as the dialect does, integers and decimals
//! checked, and EXTRACT, which knows no zone, gets the civil time of a TIMESTAMP. Names of result columns do not change.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ExprSchema, ScalarValue, internal_err};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::{InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Between, BinaryExpr, Expr, ExprSchemable, Like, LogicalPlan, Operator, ScalarUDF, lit,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::sql::sqlparser::ast::BinaryOperator;
use stevedore_common::types::SqlType;

use super::functions::{Arithmetic, DIVIDE, LOCAL_TIME, TRY_CAST, VARIANT_TEXT, divides_as_double};

/// Functions whose arguments are text.
const OF_TEXT: &[&str] = &[
    "upper",
    "lower",
    "length",
    "char_length",
    "character_length",
    "concat",
    "concat_ws",
    "substr",
    "substring",
    "trim",
    "btrim",
    "ltrim",
    "rtrim",
    "replace",
    "split_part",
    "starts_with",
    "ends_with",
    "strpos",
    "position",
    "contains",
    "reverse",
    "left",
    "right",
    "lpad",
    "rpad",
    "regexp_like",
    "regexp_match",
    "regexp_replace",
    "regexp_count",
    "ascii",
    "initcap",
    "octet_length",
    "bit_length",
    "repeat",
    "levenshtein",
    "translate",
];
/// See the module.
#[derive(Debug)]
pub(crate) struct VariantCoercion {
    text: Arc<ScalarUDF>,
    try_cast: Arc<ScalarUDF>,
    divide: Arc<ScalarUDF>,
    /// A function for each operation.
    checked: HashMap<Arithmetic, Arc<ScalarUDF>>,
    substr: Arc<ScalarUDF>,
    /// Where the session is not in UTC.
    local_time: Option<Arc<ScalarUDF>>,
}

impl VariantCoercion {
    /// Takes its functions from those of the session.
    pub(crate) fn new(functions: &[Arc<ScalarUDF>], is_utc: bool) -> Option<Self> {
        let find = |name: &str| functions.iter().find(|function| function.name() == name).cloned();
        // In UTC there is nothing to do, and filters on parts of a date go on being pushed down.
        let local_time = if is_utc { None } else { Some(find(LOCAL_TIME)?) };
        let (text, try_cast, divide) = (find(VARIANT_TEXT)?, find(TRY_CAST)?, find(DIVIDE)?);
        let checked = Arithmetic::ALL
            .into_iter()
            .map(|operation| Some((operation, find(operation.name())?)))
            .collect::<Option<_>>()?;
        Some(Self { text, try_cast, divide, checked, substr: find("substr")?, local_time })
    }

    fn as_text(&self, expr: Expr) -> Expr {
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&self.text), vec![expr]))
    }

    fn as_type(&self, expr: Expr, ty: &SqlType) -> Expr {
        Expr::ScalarFunction(ScalarFunction::new_udf(
            Arc::clone(&self.try_cast),
            vec![expr, lit(ty.to_string())],
        ))
    }

    /// Reads a VARIANT as what stands beside it.
    fn beside(&self, expr: Expr, other: &Expr, schema: &dyn ExprSchema) -> DfResult<Expr> {
        if !is_variant(&expr, schema) || is_variant(other, schema) {
            return Ok(expr);
        }
        let (_, field) = other.to_field(schema)?;
        Ok(match field.data_type() {
            DataType::Null => expr,
            data_type if is_text(data_type) => self.as_text(expr),
            data_type if data_type.is_integer() || matches!(data_type, DataType::Decimal128(..)) => {
                // Neither rounds large integers (as DOUBLE does) nor fractions (as BIGINT does).
                self.as_type(expr, &SqlType::Decimal(38, 10))
            }
            _ => match SqlType::from_arrow_field(&field) {
                Ok(ty) => self.as_type(expr, &ty),
                Err(_) => expr,
            },
        })
    }

    /// Arithmetic of integers and decimals as a function that checks it; anything else as it came.
    fn checked(&self, op: Operator, left: Expr, right: Expr, schema: &dyn ExprSchema) -> Transformed<Expr> {
        let types = [left.get_type(schema), right.get_type(schema)];
        if let (Some(operation), [Ok(l), Ok(r)]) = (Arithmetic::of(op), types)
            && operation.result(&[l.clone(), r.clone()]).is_some()
            && let Some(function) = self.checked.get(&operation)
        {
            return Transformed::yes(function.call(vec![of_unsigned(left, &r), of_unsigned(right, &l)]));
        }
        Transformed::no(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
    }

    fn rewrite(&self, expr: Expr, schema: &dyn ExprSchema) -> DfResult<Transformed<Expr>> {
        Ok(match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right })
                if is_variant(&left, schema) || is_variant(&right, schema) =>
            {
                let (left, right) = if is_text_operator(op) {
                    let text = |side: Expr| if is_variant(&side, schema) { self.as_text(side) } else { side };
                    (text(*left), text(*right))
                } else {
                    let (l, r) = (left.as_ref().clone(), right.as_ref().clone());
                    (self.beside(*left, &r, schema)?, self.beside(*right, &l, schema)?)
                };
                Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
            }
            // Planned so already, unless a parameter had no type then.
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => self.checked(op, *left, *right, schema),
            Expr::Negative(inner) => {
                let ty = inner.get_type(schema)?;
                match (Arithmetic::Negate.result(&[ty]), self.checked.get(&Arithmetic::Negate)) {
                    (Some(_), Some(function)) => Transformed::yes(function.call(vec![*inner])),
                    _ => Transformed::no(Expr::Negative(inner)),
                }
            }
            Expr::Like(Like { negated, expr, pattern, escape_char, case_insensitive })
                if is_variant(&expr, schema) =>
            {
                Transformed::yes(Expr::Like(Like::new(
                    negated,
                    Box::new(self.as_text(*expr)),
                    pattern,
                    escape_char,
                    case_insensitive,
                )))
            }
            Expr::InList(InList { expr, list, negated }) if is_variant(&expr, schema) && !list.is_empty() => {
                let expr = self.beside(*expr, &list[0], schema)?;
                Transformed::yes(Expr::InList(InList::new(Box::new(expr), list, negated)))
            }
            Expr::Between(Between { expr, negated, low, high }) if is_variant(&expr, schema) => {
                let expr = self.beside(*expr, &low, schema)?;
                Transformed::yes(Expr::Between(Between::new(Box::new(expr), negated, low, high)))
            }
            Expr::ScalarFunction(ScalarFunction { func, args }) if OF_TEXT.contains(&func.name()) => {
                let mut changed = false;
                let args = args
                    .into_iter()
                    .map(|arg| {
                        if !is_variant(&arg, schema) {
                            return arg;
                        }
                        changed = true;
                        self.as_text(arg)
                    })
                    .collect();
                let expr = Expr::ScalarFunction(ScalarFunction { func, args });
                if changed { Transformed::yes(expr) } else { Transformed::no(expr) }
            }
            // `EXTRACT(HOUR FROM t)`; only the epoch is that of the instant.
            Expr::ScalarFunction(ScalarFunction { func, mut args })
                if self.local_time.is_some()
                    && func.name() == "date_part"
                    && is_local_part(&args, schema) =>
            {
                let (Some(local_time), Some(moment)) = (&self.local_time, args.pop()) else {
                    return internal_err!("date_part without an argument, or in UTC");
                };
                args.push(local_time.call(vec![moment]));
                Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args }))
            }
            other => Transformed::no(other),
        })
    }

    fn rewrite_plan(&self, plan: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
        let mut schema = merge_schema(&plan.inputs());
        if let LogicalPlan::TableScan(scan) = &plan {
            schema
                .merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
        }
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let rewritten = expr.transform_up(|expr| self.rewrite(expr, &schema))?;
            Ok(if rewritten.transformed {
                rewritten.update_data(|expr| name.restore(expr))
            } else {
                rewritten
            })
        })?
        .map_data(LogicalPlan::recompute_schema)
    }
}

/// Arithmetic has its type checked while the text is planned, before any rule can run.
impl ExprPlanner for VariantCoercion {
    /// SUBSTR and SUBSTRING are syntax of their own.
    fn plan_substring(&self, args: Vec<Expr>) -> DfResult<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(self.substr.call(args)))
    }

    fn plan_binary_op(
        &self,
        mut expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> DfResult<PlannerResult<RawBinaryExpr>> {
        let arithmetic = matches!(
            expr.op,
            BinaryOperator::Plus
                | BinaryOperator::Minus
                | BinaryOperator::Multiply
                | BinaryOperator::Divide
                | BinaryOperator::Modulo
        );
        if arithmetic {
            for side in [&mut expr.left, &mut expr.right] {
                if is_variant(side, schema) {
                    *side = self.as_type(std::mem::take(side), &SqlType::Float64);
                }
            }
        }
        if matches!(expr.op, BinaryOperator::Divide)
            && let (Ok(left), Ok(right)) = (expr.left.get_type(schema), expr.right.get_type(schema))
            && divides_as_double(&left, &right)
        {
            return Ok(PlannerResult::Planned(Expr::ScalarFunction(ScalarFunction {
                func: Arc::clone(&self.divide),
                args: vec![expr.left, expr.right],
            })));
        }
        let RawBinaryExpr { op, left, right } = expr;
        let operator = match op {
            BinaryOperator::Plus => Operator::Plus,
            BinaryOperator::Minus => Operator::Minus,
            BinaryOperator::Multiply => Operator::Multiply,
            BinaryOperator::Divide => Operator::Divide,
            op => return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right })),
        };
        Ok(PlannerResult::Planned(self.checked(operator, left, right, schema).data))
    }
}

impl AnalyzerRule for VariantCoercion {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DfResult<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(|plan| self.rewrite_plan(plan))?.data)
    }

    fn name(&self) -> &str {
        "variant_coercion"
    }
}

/// An integer that is not negative counts as unsigned beside BIGINT UNSIGNED.
fn of_unsigned(expr: Expr, other: &DataType) -> Expr {
    match expr {
        Expr::Literal(ScalarValue::Int64(Some(value)), _) if *other == DataType::UInt64 && value >= 0 => {
            lit(value.unsigned_abs())
        }
        expr => expr,
    }
}

fn is_variant(expr: &Expr, schema: &dyn ExprSchema) -> bool {
    expr.to_field(schema)
        .ok()
        .and_then(|(_, field)| SqlType::from_arrow_field(&field).ok())
        .is_some_and(|ty| ty == SqlType::Variant)
}

/// Whether `date_part` is asked for something that depends on the zone.
fn is_local_part(args: &[Expr], schema: &dyn ExprSchema) -> bool {
    let [part, moment] = args else { return false };
    let is_epoch = matches!(part, Expr::Literal(part, _)
        if part.try_as_str().flatten().is_some_and(|part| part.eq_ignore_ascii_case("epoch")));
    let is_done =
        matches!(moment, Expr::ScalarFunction(ScalarFunction { func, .. }) if func.name() == LOCAL_TIME);
    let is_instant = || {
        let field = moment.to_field(schema);
        field.is_ok_and(|(_, field)| matches!(field.data_type(), DataType::Timestamp(..)))
    };
    !is_epoch && !is_done && is_instant()
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_text_operator(op: Operator) -> bool {
    matches!(
        op,
        Operator::StringConcat
            | Operator::RegexMatch
            | Operator::RegexIMatch
            | Operator::RegexNotMatch
            | Operator::RegexNotIMatch
            | Operator::LikeMatch
            | Operator::ILikeMatch
            | Operator::NotLikeMatch
            | Operator::NotILikeMatch
    )
}
