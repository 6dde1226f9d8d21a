//! The one door from expressions to the cast kernels.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, new_null_array};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use stevedore_common::Result;
use stevedore_common::types::SqlType;
use stevedore_decode::cast::{self, CastContext};
use stevedore_decode::spec::CastOptions;

use crate::query::storage_types::convert;

/// What a cast gave.
#[derive(Debug)]
pub(crate) struct Cast {
    /// The values; NULL in rejected rows.
    pub values: ArrayRef,
    /// The rejected rows in order, each with its message.
    pub rejects: Vec<(usize, String)>,
}

/// Casts a value of an expression, which no column's name belongs to: messages read
/// `invalid value 'b' for INT: invalid digit`.
///
/// # Errors
/// Where no value of the one type can be cast to the other.
pub(crate) fn cast(array: &ArrayRef, field: &Field, to: &SqlType, options: &CastOptions) -> Result<Cast> {
    let context = CastContext { column_number: 0, column_name: String::new() };
    let mut cast = cast_column(array, field, to, options, &context)?;
    let nameless = format!(" for column 0 ( {to})");
    for (_, message) in &mut cast.rejects {
        *message = message.replacen(&nameless, &format!(" for {to}"), 1);
    }
    Ok(cast)
}

/// Casts the values of a column that messages name.
///
/// # Errors
/// As [`cast`].
pub(crate) fn cast_column(
    array: &ArrayRef,
    field: &Field,
    to: &SqlType,
    options: &CastOptions,
    context: &CastContext,
) -> Result<Cast> {
    if *array.data_type() == DataType::Null {
        return Ok(Cast { values: new_null_array(&to.to_arrow(), array.len()), rejects: Vec::new() });
    }
    let result = cast::cast(array, field, to, options, context)?;
    // Nested values carry the extension of a VARIANT inside their type.
    let values = convert(&result.values, &to.to_arrow())?;
    Ok(Cast { values, rejects: result.rejects.map(|r| r.messages).unwrap_or_default() })
}

/// The only value of an array as a scalar of exactly the array's type (DataFusion's own way drops the
/// extension of a VARIANT inside a nested value).
pub(crate) fn scalar_of(array: &ArrayRef) -> datafusion::error::Result<ScalarValue> {
    Ok(match array.data_type() {
        DataType::List(_) => ScalarValue::List(Arc::new(array.as_list::<i32>().slice(0, 1))),
        DataType::FixedSizeList(..) => {
            ScalarValue::FixedSizeList(Arc::new(array.as_fixed_size_list().slice(0, 1)))
        }
        DataType::Struct(_) => ScalarValue::Struct(Arc::new(array.as_struct().slice(0, 1))),
        DataType::Map(..) => ScalarValue::Map(Arc::new(array.as_map().slice(0, 1))),
        _ => ScalarValue::try_from_array(array, 0)?,
    })
}

/// The declared field, unless the array has another type than was declared (a view of a string).
pub(super) fn typed_field(field: &FieldRef, array: &ArrayRef) -> FieldRef {
    if field.data_type() == array.data_type() {
        return Arc::clone(field);
    }
    Arc::new(
        Field::new(field.name(), array.data_type().clone(), true).with_metadata(field.metadata().clone()),
    )
}
