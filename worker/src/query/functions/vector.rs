//! `cosine_distance`, `l1_distance`, `l2_distance` over VECTOR columns, arrays and text like `[1,2]`.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array};
use arrow::datatypes::{DataType, Field};
use datafusion::common::internal_err;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use stevedore_common::types::{MAX_VECTOR_DIMENSION, SqlType};
use stevedore_common::{Error, Result};
use stevedore_decode::spec::CastOptions;

use super::kernel;
use crate::query::error::to_datafusion;

type Distance = fn(&ArrayRef, &ArrayRef) -> Result<Float32Array>;

pub(super) fn functions() -> Vec<ScalarUDF> {
    ["cosine_distance", "l1_distance", "l2_distance"]
        .into_iter()
        .map(|name| {
            ScalarUDF::new_from_impl(DistanceFunction {
                name,
                signature: Signature::any(2, Volatility::Immutable),
            })
        })
        .collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DistanceFunction {
    name: &'static str,
    signature: Signature,
}

impl DistanceFunction {
    fn kernel(&self) -> Distance {
        match self.name {
            "cosine_distance" => stevedore_decode::vector::cosine_distance,
            "l1_distance" => stevedore_decode::vector::l1_distance,
            _ => stevedore_decode::vector::l2_distance,
        }
    }
}

/// Text like `[1, 2]` is a vector of as many dimensions as it has elements.
fn vectors(value: &ColumnarValue) -> Result<ArrayRef> {
    let array = match value {
        ColumnarValue::Array(array) => Arc::clone(array),
        ColumnarValue::Scalar(value) => {
            value.to_array().map_err(|e| crate::query::error::from_datafusion(&e))?
        }
    };
    if !matches!(array.data_type(), DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8) {
        return Ok(array);
    }
    let text = crate::query::normalize::natural_array(&array, &DataType::Utf8)?;
    let strings = text.as_string::<i32>();
    let dimension = strings.iter().flatten().next().map_or(1, |first| first.matches(',').count() + 1);
    let dimension = u16::try_from(dimension)
        .ok()
        .filter(|n| *n <= MAX_VECTOR_DIMENSION)
        .ok_or_else(|| Error::invalid(format!("a vector has at most {MAX_VECTOR_DIMENSION} dimensions")))?;
    let field = Field::new("value", DataType::Utf8, true);
    let cast = kernel::cast(&text, &field, &SqlType::Vector(dimension), &CastOptions::default())?;
    match cast.rejects.first() {
        Some((_, reason)) => Err(Error::invalid(reason.clone())),
        None => Ok(cast.values),
    }
}

impl ScalarUDFImpl for DistanceFunction {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Float32)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let [left, right] = args.args.as_slice() else {
            return internal_err!("{} needs two vectors", self.name);
        };
        let scalar = matches!((left, right), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        let (left, right) = (vectors(left).map_err(to_datafusion)?, vectors(right).map_err(to_datafusion)?);
        if left.is_empty() || right.is_empty() {
            return Ok(ColumnarValue::Array(Arc::new(Float32Array::from(Vec::<f32>::new()))));
        }
        let distances = self.kernel()(&left, &right).map_err(to_datafusion)?;
        if scalar {
            let value = (!distances.is_null(0)).then(|| distances.value(0));
            return Ok(ColumnarValue::Scalar(value.into()));
        }
        Ok(ColumnarValue::Array(Arc::new(distances)))
    }
}
