//! `+`, `-`, `*` and unary minus of integers and decimals, and `/` of decimals, where a result that its type
//! cannot hold is an error that names the operation and its values. DataFusion's own wrap around.
//!
//! Owns: the types of results. Of integers it is the next wider type, BIGINT at most, signed where a side is
//! signed or one is subtracted; of decimals it is DataFusion's. Everything else (dates, intervals, floating
//! point) stays DataFusion's. The functions are planned in place of the operators by
//! [`crate::query::variant_coercion`].

use std::any::Any;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Datum, PrimitiveArray};
use arrow::compute::kernels::numeric::{add, add_wrapping, div, mul, mul_wrapping, neg, sub, sub_wrapping};
use arrow::compute::{self, cast};
use arrow::datatypes::{
    DataType, Decimal128Type, Decimal256Type, DecimalType, FieldRef, Int64Type, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use datafusion::common::{internal_err, plan_err};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use super::kernel::scalar_of;
use crate::query::error::{division_by_zero, to_datafusion};

/// An operation that is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    /// Of decimals.
    Divide,
    /// With zero on the left.
    Negate,
}

impl Arithmetic {
    pub(crate) const ALL: [Self; 5] = [Self::Add, Self::Subtract, Self::Multiply, Self::Divide, Self::Negate];

    /// The operation that an operator of two sides is.
    pub(crate) fn of(op: Operator) -> Option<Self> {
        Some(match op {
            Operator::Plus => Self::Add,
            Operator::Minus => Self::Subtract,
            Operator::Multiply => Self::Multiply,
            Operator::Divide => Self::Divide,
            _ => return None,
        })
    }

    /// The name of its function.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "__add",
            Self::Subtract => "__subtract",
            Self::Multiply => "__multiply",
            Self::Divide => "__divide_decimals",
            Self::Negate => "__negate",
        }
    }

    fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract | Self::Negate => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
        }
    }

    fn operator(self) -> Operator {
        match self {
            Self::Add => Operator::Plus,
            Self::Subtract | Self::Negate => Operator::Minus,
            Self::Multiply => Operator::Multiply,
            Self::Divide => Operator::Divide,
        }
    }

    /// The type of the result; `None` where the operation on these types is not one of ours.
    pub(crate) fn result(self, operands: &[DataType]) -> Option<DataType> {
        match operands {
            [operand] if self == Self::Negate => negated(operand),
            [left, right] if left.is_integer() && right.is_integer() => {
                (self != Self::Divide).then(|| self.of_integers(left, right))
            }
            [left, right] if (is_decimal(left) || is_decimal(right)) => {
                let known = |ty: &DataType| is_decimal(ty) || ty.is_integer();
                if !known(left) || !known(right) {
                    return None;
                }
                BinaryTypeCoercer::new(left, &self.operator(), right).get_result_type().ok()
            }
            _ => None,
        }
    }

    fn of_integers(self, left: &DataType, right: &DataType) -> DataType {
        let signed = self == Self::Subtract || left.is_signed_integer() || right.is_signed_integer();
        let wider = width(left).max(width(right)) * 2;
        match (wider, signed) {
            (2, true) => DataType::Int16,
            (2, false) => DataType::UInt16,
            (4, true) => DataType::Int32,
            (4, false) => DataType::UInt32,
            (_, true) => DataType::Int64,
            (_, false) => DataType::UInt64,
        }
    }
}

pub(super) fn functions() -> Vec<ScalarUDF> {
    Arithmetic::ALL
        .map(|operation| {
            ScalarUDF::new_from_impl(Checked {
                operation,
                signature: Signature::user_defined(Volatility::Immutable),
            })
        })
        .into()
}

fn is_decimal(ty: &DataType) -> bool {
    matches!(ty, DataType::Decimal128(..) | DataType::Decimal256(..))
}

fn negated(ty: &DataType) -> Option<DataType> {
    match ty {
        DataType::UInt8 => Some(DataType::Int16),
        DataType::UInt16 => Some(DataType::Int32),
        DataType::UInt32 | DataType::UInt64 => Some(DataType::Int64),
        _ if ty.is_signed_integer() || is_decimal(ty) => Some(ty.clone()),
        _ => None,
    }
}

/// Bytes of an integer.
fn width(ty: &DataType) -> usize {
    ty.primitive_width().unwrap_or(8)
}

/// A side of an operation: a column, or one value for every row.
#[derive(Clone)]
struct Operand {
    array: ArrayRef,
    constant: bool,
}

impl Datum for Operand {
    fn get(&self) -> (&dyn Array, bool) {
        (self.array.as_ref(), self.constant)
    }
}

impl Operand {
    fn cast(&self, to: &DataType) -> std::result::Result<Self, ArrowError> {
        if self.array.data_type() == to {
            return Ok(self.clone());
        }
        let options = compute::CastOptions { safe: false, ..compute::CastOptions::default() };
        let array = compute::cast_with_options(&self.array, to, &options)?;
        Ok(Self { array, constant: self.constant })
    }

    fn row(&self, row: usize) -> Self {
        if self.constant {
            return self.clone();
        }
        Self { array: self.array.slice(row, 1), constant: false }
    }

    fn text(&self) -> String {
        array_value_to_string(&self.array, 0).unwrap_or_default()
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    operation: Arithmetic,
    signature: Signature,
}

impl Checked {
    fn evaluate(&self, operands: &[Operand], ty: &DataType) -> Result<ArrayRef> {
        let error = match self.compute(operands, ty) {
            Ok(values) => return Ok(values),
            Err(ArrowError::DivideByZero) => return Err(division_by_zero()),
            Err(ArrowError::ArithmeticOverflow(error)) => error,
            Err(error) => return Err(Error::invalid(error.to_string())),
        };
        let rows = operands.iter().filter(|side| !side.constant).map(|side| side.array.len()).max();
        for row in 0..rows.unwrap_or(1) {
            let sides: Vec<Operand> = operands.iter().map(|side| side.row(row)).collect();
            if self.compute(&sides, ty).is_err() {
                return Err(self.out_of_range(&sides, ty));
            }
        }
        Err(Error::internal(format!("{} failed on no row: {error}", self.operation.name())))
    }

    fn out_of_range(&self, sides: &[Operand], ty: &DataType) -> Error {
        let symbol = self.operation.symbol();
        let operation = match sides {
            [left, right] => format!("{} {symbol} {}", left.text(), right.text()),
            sides => format!("{symbol}({})", sides.first().map(Operand::text).unwrap_or_default()),
        };
        let name = SqlType::from_arrow(ty).map_or_else(|_| ty.to_string(), |ty| ty.to_string());
        let wider = if is_decimal(ty) { "DOUBLE" } else { "DECIMAL(38, 0)" };
        Error::invalid(format!("{operation} is out of the range of {name}"))
            .hint(format!("cast an operand to {wider}"))
    }

    /// The values; an arithmetic overflow where one does not fit.
    fn compute(&self, operands: &[Operand], ty: &DataType) -> std::result::Result<ArrayRef, ArrowError> {
        match operands {
            [operand] => self.negate(operand, ty),
            [left, right] if ty.is_integer() => self.integers(left, right, ty),
            [left, right] => self.decimals(left, right, ty),
            _ => Err(ArrowError::InvalidArgumentError("an operation has one or two operands".to_owned())),
        }
    }

    fn negate(&self, operand: &Operand, ty: &DataType) -> std::result::Result<ArrayRef, ArrowError> {
        match operand.array.data_type() {
            // The least BIGINT is the negative of a value that no BIGINT holds.
            DataType::UInt64 => {
                let zero =
                    Operand { array: Arc::new(PrimitiveArray::<Int64Type>::from(vec![0])), constant: true };
                exact(Arithmetic::Subtract, &zero, operand)
            }
            from if from == ty => within_precision(neg(operand.array.as_ref())?),
            _ => neg(operand.cast(ty)?.array.as_ref()),
        }
    }

    fn integers(
        &self,
        left: &Operand,
        right: &Operand,
        ty: &DataType,
    ) -> std::result::Result<ArrayRef, ArrowError> {
        let lossy = |side: &Operand| *side.array.data_type() == DataType::UInt64 && *ty == DataType::Int64;
        if lossy(left) || lossy(right) {
            return exact(self.operation, left, right);
        }
        // The result of sides half as wide always fits.
        let fits = width(ty) >= 2 * width(left.array.data_type()).max(width(right.array.data_type()));
        let (left, right) = (left.cast(ty)?, right.cast(ty)?);
        match (self.operation, fits) {
            (Arithmetic::Add, true) => add_wrapping(&left, &right),
            (Arithmetic::Add, false) => add(&left, &right),
            (Arithmetic::Subtract, true) => sub_wrapping(&left, &right),
            (Arithmetic::Subtract, false) => sub(&left, &right),
            (Arithmetic::Multiply, true) => mul_wrapping(&left, &right),
            (Arithmetic::Multiply, false) => mul(&left, &right),
            (Arithmetic::Divide | Arithmetic::Negate, _) => div(&left, &right),
        }
    }

    fn decimals(
        &self,
        left: &Operand,
        right: &Operand,
        ty: &DataType,
    ) -> std::result::Result<ArrayRef, ArrowError> {
        let (l, r) = (left.array.data_type(), right.array.data_type());
        let (l, r) = BinaryTypeCoercer::new(l, &self.operation.operator(), r)
            .get_input_types()
            .map_err(|error| ArrowError::ExternalError(Box::new(error)))?;
        let (left, right) = (left.cast(&l)?, right.cast(&r)?);
        let values = match self.operation {
            Arithmetic::Add => add(&left, &right),
            Arithmetic::Subtract => sub(&left, &right),
            Arithmetic::Multiply => mul(&left, &right),
            Arithmetic::Divide | Arithmetic::Negate => div(&left, &right),
        }?;
        let values = if values.data_type() == ty { values } else { cast(&values, ty)? };
        within_precision(values)
    }
}

/// BIGINT of sides one of which may be beyond it.
fn exact(
    operation: Arithmetic,
    left: &Operand,
    right: &Operand,
) -> std::result::Result<ArrayRef, ArrowError> {
    let rows = if left.constant { right.array.len() } else { left.array.len() };
    let (l, r) = (whole_numbers(&left.array)?, whole_numbers(&right.array)?);
    let at =
        |side: &Operand, values: &[Option<i128>], row: usize| values[if side.constant { 0 } else { row }];
    let values = (0..rows).map(|row| {
        let (Some(l), Some(r)) = (at(left, &l, row), at(right, &r, row)) else { return Ok(None) };
        let value = match operation {
            Arithmetic::Add => l.checked_add(r),
            Arithmetic::Multiply => l.checked_mul(r),
            Arithmetic::Subtract | Arithmetic::Divide | Arithmetic::Negate => l.checked_sub(r),
        };
        match value.and_then(|value| i64::try_from(value).ok()) {
            Some(value) => Ok(Some(value)),
            None => Err(ArrowError::ArithmeticOverflow(String::new())),
        }
    });
    let values: PrimitiveArray<Int64Type> = values.collect::<std::result::Result<_, _>>()?;
    Ok(Arc::new(values))
}

fn whole_numbers(array: &ArrayRef) -> std::result::Result<Vec<Option<i128>>, ArrowError> {
    if *array.data_type() == DataType::UInt64 {
        return Ok(array.as_primitive::<UInt64Type>().iter().map(|value| value.map(i128::from)).collect());
    }
    let array = cast(array, &DataType::Int64)?;
    Ok(array.as_primitive::<Int64Type>().iter().map(|value| value.map(i128::from)).collect())
}

/// Decimals, none of which has more digits than its type; the kernels see to their memory only.
pub(super) fn within_precision(values: ArrayRef) -> std::result::Result<ArrayRef, ArrowError> {
    match values.data_type() {
        DataType::Decimal128(precision, scale) => digits::<Decimal128Type>(&values, *precision, *scale)?,
        DataType::Decimal256(precision, scale) => digits::<Decimal256Type>(&values, *precision, *scale)?,
        _ => {}
    }
    Ok(values)
}

fn digits<T: DecimalType + ArrowPrimitiveType>(
    values: &ArrayRef,
    precision: u8,
    scale: i8,
) -> std::result::Result<(), ArrowError> {
    // What has room below the most digits was given enough of them for every value.
    if precision < T::MAX_PRECISION {
        return Ok(());
    }
    for value in values.as_primitive::<T>().iter().flatten() {
        T::validate_decimal_precision(value, precision, scale)
            .map_err(|error| ArrowError::ArithmeticOverflow(error.to_string()))?;
    }
    Ok(())
}

impl ScalarUDFImpl for Checked {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        self.operation.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Sides are cast where they are computed with.
    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        Ok(types.to_vec())
    }

    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        let symbol = self.operation.symbol();
        Ok(match args {
            [left, right] => format!("{} {symbol} {}", left.schema_name(), right.schema_name()),
            args => {
                let args: Vec<String> = args.iter().map(|arg| arg.schema_name().to_string()).collect();
                format!("({symbol} {})", args.join(", "))
            }
        })
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        match self.operation.result(types) {
            Some(ty) => Ok(ty),
            None => plan_err!("no arithmetic with {} of these types: {types:?}", self.operation.symbol()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DfResult<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        let field = arrow::datatypes::Field::new(self.name(), self.return_type(&types)?, nullable);
        Ok(Arc::new(field))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let operands = args
            .args
            .iter()
            .map(|arg| {
                Ok(match arg {
                    ColumnarValue::Array(array) => Operand { array: Arc::clone(array), constant: false },
                    ColumnarValue::Scalar(value) => Operand { array: value.to_array()?, constant: !constant },
                })
            })
            .collect::<DfResult<Vec<_>>>()?;
        let ty = args.return_field.data_type();
        let values = self.evaluate(&operands, ty).map_err(to_datafusion)?;
        if values.data_type() != ty {
            return internal_err!("{} gave {}, not {ty}", self.name(), values.data_type());
        }
        if constant && values.len() == 1 {
            return Ok(ColumnarValue::Scalar(scalar_of(&values)?));
        }
        Ok(ColumnarValue::Array(values))
    }
}
