//! `__cast(expr, 'TYPE')` and `__try_cast(expr, 'TYPE')`, which every `::` and CAST is rendered to, and
//! the functions that are casts by another name: `to_timestamp`, `to_date`, ….
//!
//! The type is a literal, so the result's type (and the extension of VARIANT) is known when the query
//! is planned. A value that cannot be cast fails the query, or is NULL under TRY.

use std::any::Any;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{ScalarValue, exec_datafusion_err, internal_err};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    Cast as CastExpr, ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::cast::check_field;
use stevedore_decode::spec::CastOptions;

use super::kernel;
use crate::query::error::to_datafusion;
use crate::query::normalize::natural_field;

/// The name of the strict cast.
pub(crate) const CAST: &str = "__cast";
/// The name of the cast that gives NULL where the strict one fails.
pub(crate) const TRY_CAST: &str = "__try_cast";

pub(super) fn functions(options: &CastOptions) -> Vec<ScalarUDF> {
    let mut functions = vec![
        ScalarUDF::new_from_impl(CastFunction::new(CAST, None, false, options)),
        ScalarUDF::new_from_impl(CastFunction::new(TRY_CAST, None, true, options)),
    ];
    for (name, ty) in [
        ("timestamp", SqlType::Timestamp),
        ("date", SqlType::Date),
        ("variant", SqlType::Variant),
        ("int8", SqlType::Int8),
        ("int16", SqlType::Int16),
        ("int32", SqlType::Int32),
        ("int64", SqlType::Int64),
        ("uint8", SqlType::UInt8),
        ("uint16", SqlType::UInt16),
        ("uint32", SqlType::UInt32),
        ("uint64", SqlType::UInt64),
        ("float32", SqlType::Float32),
        ("float64", SqlType::Float64),
        ("boolean", SqlType::Boolean),
        ("string", SqlType::String),
    ] {
        for lenient in [false, true] {
            let prefix = if lenient { "try_to_" } else { "to_" };
            functions.push(ScalarUDF::new_from_impl(CastFunction::new(
                &format!("{prefix}{name}"),
                Some(ty.clone()),
                lenient,
                options,
            )));
        }
    }
    functions
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CastFunction {
    name: String,
    /// The type, where the name says it.
    fixed: Option<SqlType>,
    lenient: bool,
    timezone: String,
    truncate: bool,
    signature: Signature,
}

impl CastFunction {
    fn new(name: &str, fixed: Option<SqlType>, lenient: bool, options: &CastOptions) -> Self {
        let arguments = if fixed.is_some() { 1 } else { 2 };
        Self {
            name: name.to_owned(),
            fixed,
            lenient,
            timezone: options.timezone.clone(),
            truncate: options.truncate,
            signature: Signature::any(arguments, Volatility::Immutable),
        }
    }

    fn target(&self, literal: Option<&ScalarValue>) -> Result<SqlType> {
        if let Some(ty) = &self.fixed {
            return Ok(ty.clone());
        }
        match literal.and_then(|value| value.try_as_str().flatten()) {
            Some(text) => SqlType::parse(text),
            None => Err(Error::internal(format!("the second argument of {} must be a type", self.name))),
        }
    }

    fn options(&self) -> CastOptions {
        CastOptions { timezone: self.timezone.clone(), truncate: self.truncate, ..CastOptions::default() }
    }
}

impl ScalarUDFImpl for CastFunction {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// An unaliased cast is named after what it casts, as `SELECT a::INT` is in the dialect.
    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        match (&self.fixed, args) {
            (None, [value, Expr::Literal(ty, _)]) => Ok(format!(
                "{}{}::{}",
                if self.lenient { "try " } else { "" },
                value.schema_name(),
                ty.try_as_str().flatten().unwrap_or_default()
            )),
            _ => Ok(format!(
                "{}({})",
                self.name,
                args.iter().map(|arg| arg.schema_name().to_string()).collect::<Vec<_>>().join(", ")
            )),
        }
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        internal_err!("{} has its type from its arguments", self.name)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DfResult<FieldRef> {
        let literal = args.scalar_arguments.get(1).copied().flatten();
        let ty = self.target(literal).map_err(to_datafusion)?;
        if let Some(value) = args.arg_fields.first()
            && *value.data_type() != DataType::Null
        {
            check_field(&natural_field(value), &ty).map_err(to_datafusion)?;
        }
        Ok(Arc::new(ty.to_field(&self.name, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let ty = SqlType::from_arrow_field(&args.return_field).map_err(to_datafusion)?;
        let ty = match args.args.get(1) {
            Some(ColumnarValue::Scalar(literal)) => self.target(Some(literal)).map_err(to_datafusion)?,
            _ => self.fixed.clone().unwrap_or(ty),
        };
        let (Some(value), Some(field)) = (args.args.first(), args.arg_fields.first()) else {
            return internal_err!("{} needs a value", self.name);
        };
        let (array, scalar): (ArrayRef, bool) = match value {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(value) => (value.to_array()?, true),
        };
        let outcome = kernel::cast(&array, kernel::typed_field(field, &array).as_ref(), &ty, &self.options())
            .map_err(to_datafusion)?;
        if let (false, Some((_, reason))) = (self.lenient, outcome.rejects.first()) {
            return Err(to_datafusion(Error::invalid(reason.clone())));
        }
        if scalar {
            return Ok(ColumnarValue::Scalar(kernel::scalar_of(&outcome.values)?));
        }
        Ok(ColumnarValue::Array(outcome.values))
    }

    /// Casts that lose nothing become DataFusion's own, which pruning sees through.
    fn simplify(&self, mut args: Vec<Expr>, info: &SimplifyContext) -> DfResult<ExprSimplifyResult> {
        let Some(Expr::Literal(literal, _)) = args.get(1) else {
            return Ok(ExprSimplifyResult::Original(args));
        };
        let to = self.target(Some(literal)).map_err(to_datafusion)?;
        let value = args.first().ok_or_else(|| exec_datafusion_err!("{} needs a value", self.name))?;
        let from = info.get_data_type(value)?;
        if !loses_nothing(&from, &to.to_arrow()) {
            return Ok(ExprSimplifyResult::Original(args));
        }
        let value = args.swap_remove(0);
        if from == to.to_arrow() {
            return Ok(ExprSimplifyResult::Simplified(value));
        }
        Ok(ExprSimplifyResult::Simplified(Expr::Cast(CastExpr::new(Box::new(value), to.to_arrow()))))
    }
}

/// Strings are left out: VARIANT and VARCHAR look the same here and are not.
fn loses_nothing(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Boolean, Date32, Float32, Float64, Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64,
    };
    let same = from == to && matches!(from, Boolean | Date32 | DataType::Timestamp(..));
    same || (from == to && from.is_numeric())
        || matches!(
            (from, to),
            (Int8, Int16 | Int32 | Int64 | Float32 | Float64)
                | (Int16, Int32 | Int64 | Float32 | Float64)
                | (Int32, Int64 | Float64)
                | (UInt8, UInt16 | UInt32 | UInt64 | Int16 | Int32 | Int64 | Float32 | Float64)
                | (UInt16, UInt32 | UInt64 | Int32 | Int64 | Float32 | Float64)
                | (UInt32, UInt64 | Int64 | Float64)
                | (Float32, Float64)
        )
}
