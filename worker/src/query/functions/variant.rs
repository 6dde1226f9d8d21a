//! VARIANT: `__variant_get(v, '["a",0]')` that `v:a[0]` is rendered to, `parse_json`, `try_parse_json`,
//! and `__variant_text`, which gives a JSON string without its quotes where text is wanted.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::internal_err;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::variant::{self, PathStep};

use super::nested;
use crate::query::error::to_datafusion;
use crate::query::normalize::natural_array;

/// The name of the function that reads a VARIANT as text.
pub(crate) const VARIANT_TEXT: &str = "__variant_text";

pub(super) fn functions() -> Vec<ScalarUDF> {
    [
        (Operation::Get, "__variant_get", None, 2),
        (Operation::Text, VARIANT_TEXT, None, 1),
        (Operation::Parse, "parse_json", None, 1),
        (Operation::TryParse, "try_parse_json", None, 1),
    ]
    .into_iter()
    .map(|(operation, name, alias, arguments): (_, _, Option<&str>, _)| {
        ScalarUDF::new_from_impl(VariantFunction {
            operation,
            name,
            aliases: alias.map(str::to_owned).into_iter().collect(),
            signature: Signature::any(arguments, Volatility::Immutable),
        })
    })
    .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operation {
    Get,
    Text,
    Parse,
    TryParse,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct VariantFunction {
    operation: Operation,
    name: &'static str,
    aliases: Vec<String>,
    signature: Signature,
}

/// Reads `["a", 0]`.
fn parse_path(text: &str) -> Result<Vec<PathStep>> {
    let broken = || Error::internal(format!("'{text}' is no path into a VARIANT"));
    let steps: Vec<serde_json::Value> = serde_json::from_str(text).map_err(|_| broken())?;
    steps
        .into_iter()
        .map(|step| match step {
            serde_json::Value::String(name) => Ok(PathStep::Field(name)),
            serde_json::Value::Number(index) => index
                .as_u64()
                .and_then(|index| usize::try_from(index).ok())
                .map(PathStep::Index)
                .ok_or_else(broken),
            _ => Err(broken()),
        })
        .collect()
}

/// JSON strings without quotes and escapes, JSON null as NULL, everything else as it stands.
pub(crate) fn variant_text(json: &StringArray) -> StringArray {
    json.iter()
        .map(|value| {
            let value = value?.trim();
            match variant::scan::string_of(value) {
                Some(text) => Some(text),
                None if value == "null" => None,
                None => Some(Cow::Borrowed(value)),
            }
        })
        .collect()
}

impl VariantFunction {
    fn apply(&self, array: &ArrayRef, is_variant: bool, path: Option<&str>) -> Result<ArrayRef> {
        if array.data_type().is_nested() || !is_text(array.data_type()) {
            let from = Field::new("value", array.data_type().clone(), true);
            let options = stevedore_decode::spec::CastOptions::default();
            let json = super::kernel::cast(array, &from, &SqlType::Variant, &options)?.values;
            return self.apply(&json, true, path);
        }
        let array = natural_array(array, &DataType::Utf8)?;
        let text = array.as_string::<i32>();
        Ok(match self.operation {
            Operation::Get => Arc::new(variant::get_path(text, &parse_path(path.unwrap_or("[]"))?)),
            Operation::Text => Arc::new(variant_text(text)),
            Operation::Parse | Operation::TryParse if is_variant => Arc::clone(&array),
            Operation::TryParse => Arc::new(variant::parse_json(text).0),
            Operation::Parse => {
                let (values, rejects) = variant::parse_json(text);
                if let Some((row, reason)) = rejects.first() {
                    let value: String = text.value(*row).chars().take(100).collect();
                    return Err(Error::invalid(format!("parse_json of '{value}': {reason}")));
                }
                Arc::new(values)
            }
        })
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
}

impl ScalarUDFImpl for VariantFunction {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DfResult<FieldRef> {
        if self.operation == Operation::Get {
            match args.scalar_arguments.get(1).copied().flatten().and_then(|path| path.try_as_str().flatten())
            {
                Some(path) => drop(parse_path(path).map_err(to_datafusion)?),
                None => return internal_err!("the path of {} must be a literal", self.name),
            }
        }
        if let (Operation::Get, Some(value)) = (self.operation, args.arg_fields.first())
            && value.data_type().is_nested()
        {
            let path =
                args.scalar_arguments.get(1).copied().flatten().and_then(|path| path.try_as_str().flatten());
            let path = parse_path(path.unwrap_or("[]")).map_err(to_datafusion)?;
            let field = nested::field_at(value, &path).map_err(to_datafusion)?;
            return Ok(Arc::new(field.with_name(self.name)));
        }
        let ty = if self.operation == Operation::Text { SqlType::String } else { SqlType::Variant };
        Ok(Arc::new(ty.to_field(self.name, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let path = match args.args.get(1) {
            Some(ColumnarValue::Scalar(path)) => path.try_as_str().flatten().map(str::to_owned),
            _ => None,
        };
        let (Some(value), Some(field)) = (args.args.first(), args.arg_fields.first()) else {
            return internal_err!("{} needs a value", self.name);
        };
        let is_variant = SqlType::from_arrow_field(field).is_ok_and(|ty| ty == SqlType::Variant);
        let (array, scalar) = match value {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(value) => (value.to_array()?, true),
        };
        let out = if self.operation == Operation::Get && array.data_type().is_nested() {
            let path = parse_path(path.as_deref().unwrap_or("[]")).map_err(to_datafusion)?;
            nested::get(&array, field, &path).map_err(to_datafusion)?
        } else {
            self.apply(&array, is_variant, path.as_deref()).map_err(to_datafusion)?
        };
        if scalar {
            return Ok(ColumnarValue::Scalar(super::kernel::scalar_of(&out)?));
        }
        Ok(ColumnarValue::Array(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_string_reads_as_its_text() {
        let json =
            StringArray::from(vec![Some("\"a\\nb\""), Some("1"), Some("null"), None, Some("{\"a\":1}")]);
        assert_eq!(
            variant_text(&json),
            StringArray::from(vec![Some("a\nb"), Some("1"), None, None, Some("{\"a\":1}")])
        );
    }

    #[test]
    fn a_path_is_a_json_array_of_names_and_places() {
        assert_eq!(parse_path(r#"["a",0]"#), Ok(vec![PathStep::Field("a".into()), PathStep::Index(0)]));
        assert!(parse_path("a.b").is_err());
    }
}
