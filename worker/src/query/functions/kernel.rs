//! The one door from expressions to the cast kernels.

use arrow::array::{ArrayRef, new_null_array};
use arrow::datatypes::{DataType, Field};
use stevedore_common::Result;
use stevedore_common::types::SqlType;
use stevedore_decode::cast::{self, CastContext};
use stevedore_decode::spec::CastOptions;

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
    Ok(Cast { values: result.values, rejects: result.rejects.map(|r| r.messages).unwrap_or_default() })
}
