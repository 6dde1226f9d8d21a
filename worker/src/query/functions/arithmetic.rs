//! Division: `a / b` gives a DOUBLE of any numbers but decimals, `a DIV b` the whole part. Both refuse zero.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::kernels::numeric::div;
use arrow::compute::{cast, unary};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use stevedore_common::Result;

use super::kernel::scalar_of;
use crate::query::error::{division_by_zero, to_datafusion};

/// The name of the function that `/` is.
pub(crate) const DIVIDE: &str = "__divide";

pub(super) fn functions() -> Vec<ScalarUDF> {
    [false, true]
        .map(|whole| {
            ScalarUDF::new_from_impl(Division {
                whole,
                signature: Signature::numeric(2, Volatility::Immutable),
            })
        })
        .into()
}

/// Whether `/` of these types is a DOUBLE; decimals divide as decimals.
pub(crate) fn divides_as_double(left: &DataType, right: &DataType) -> bool {
    let plain = |ty: &DataType| ty.is_integer() || ty.is_floating();
    plain(left) && plain(right)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Division {
    /// DIV.
    whole: bool,
    signature: Signature,
}

impl Division {
    fn divide(&self, left: &ArrayRef, right: &ArrayRef) -> Result<ArrayRef> {
        if self.whole && left.data_type().is_integer() && right.data_type().is_integer() {
            let (left, right) = (cast(left, &DataType::Int64)?, cast(right, &DataType::Int64)?);
            if right.as_primitive::<Int64Type>().iter().flatten().any(|divisor| divisor == 0) {
                return Err(division_by_zero());
            }
            return Ok(div(&left, &right)?);
        }
        let (left, right) = (cast(left, &DataType::Float64)?, cast(right, &DataType::Float64)?);
        if right.as_primitive::<Float64Type>().iter().flatten().any(|divisor| divisor == 0.0) {
            return Err(division_by_zero());
        }
        let quotient = div(&left, &right)?;
        if !self.whole {
            return Ok(quotient);
        }
        let whole: arrow::array::Float64Array = unary(quotient.as_primitive::<Float64Type>(), f64::trunc);
        Ok(cast(&whole, &DataType::Int64)?)
    }
}

impl ScalarUDFImpl for Division {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        if self.whole { "__div" } else { DIVIDE }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        let args: Vec<String> = args.iter().map(|arg| arg.schema_name().to_string()).collect();
        Ok(args.join(if self.whole { " DIV " } else { " / " }))
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(if self.whole { DataType::Int64 } else { DataType::Float64 })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let operands = ColumnarValue::values_to_arrays(&args.args)?;
        let [left, right] = operands.as_slice() else {
            return datafusion::common::internal_err!("a division has two operands");
        };
        let quotient = self.divide(left, right).map_err(to_datafusion)?;
        if scalar && quotient.len() == 1 {
            return Ok(ColumnarValue::Scalar(scalar_of(&quotient)?));
        }
        Ok(ColumnarValue::Array(Arc::clone(&quotient)))
    }
}
