//! A column of a file: its name, what the file says it is, what casts start from.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use stevedore_common::error::Result;
use stevedore_common::types::{EXTENSION_NAME, JSON_EXTENSION, SqlType};

use super::settled_field;
use crate::cast;

/// A top-level column of a file.
#[derive(Debug, Clone)]
pub struct FileColumn {
    /// Its name.
    pub name: String,
    /// What the file says it is, in Arrow, JSON marked by the extension `arrow.json`.
    pub field: Field,
    /// The type that its arrays are cast to first, where USE_LOGIC_TYPE = false asks for another.
    pub(crate) physical: Option<DataType>,
    /// The field as a source of casts.
    pub(crate) source: Field,
    /// What the library's arrays are, where they have to be brought to `field` first.
    pub(crate) raw: Option<Field>,
}

impl FileColumn {
    /// A column whose text may claim to be JSON: it is text until it is parsed.
    pub(crate) fn unchecked(field: Field, physical: Option<DataType>) -> Self {
        Self { name: field.name().clone(), source: without_json(&field), field, physical, raw: None }
    }

    /// A column of a library that shows unions and wide timestamps its own way.
    pub(crate) fn settled(raw: Field) -> Self {
        let field = settled_field(&raw);
        Self { name: raw.name().clone(), source: field.clone(), field, physical: None, raw: Some(raw) }
    }

    /// The type that the column has in SQL when nobody asks for another.
    ///
    /// # Errors
    /// Names the column, where the dialect has no type for it.
    pub fn natural_type(&self) -> Result<SqlType> {
        cast::natural_type(&self.field).map_err(|error| error.context(format!("column '{}'", self.name)))
    }

    /// A column of a library whose text may claim to be JSON, and that shows unions its own way.
    pub(crate) fn foreign(raw: Field) -> Self {
        let field = settled_field(&raw);
        let raw = without_json(&raw);
        let source = settled_field(&raw);
        let raw = (source.data_type() != raw.data_type()).then_some(raw);
        Self { name: field.name().clone(), source, field, physical: None, raw }
    }
}

/// Name, type, and whether it may be NULL, of each column.
///
/// # Errors
/// Names the column that the dialect has no type for.
pub(crate) fn columns_in_sql(columns: &[FileColumn]) -> Result<Vec<(String, SqlType, bool)>> {
    columns
        .iter()
        .map(|column| Ok((column.name.clone(), column.natural_type()?, column.field.is_nullable())))
        .collect()
}

/// A nested type with each of its fields changed; `None` for a type that has none.
pub(crate) fn map_fields(
    data_type: &DataType,
    mut walk: impl FnMut(&FieldRef) -> FieldRef,
) -> Option<DataType> {
    Some(match data_type {
        DataType::List(item) => DataType::List(walk(item)),
        DataType::LargeList(item) => DataType::LargeList(walk(item)),
        DataType::ListView(item) => DataType::ListView(walk(item)),
        DataType::LargeListView(item) => DataType::LargeListView(walk(item)),
        DataType::FixedSizeList(item, n) => DataType::FixedSizeList(walk(item), *n),
        DataType::Map(entries, sorted) => DataType::Map(walk(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(walk).collect()),
        _ => return None,
    })
}

/// The field without the mark of JSON, at any depth.
pub(crate) fn without_json(field: &Field) -> Field {
    let data_type = map_fields(field.data_type(), |field| Arc::new(without_json(field)));
    let data_type = data_type.unwrap_or_else(|| field.data_type().clone());
    let mut metadata = field.metadata().clone();
    if metadata.get(EXTENSION_NAME).is_some_and(|name| name == JSON_EXTENSION) {
        metadata.remove(EXTENSION_NAME);
    }
    field.clone().with_data_type(data_type).with_metadata(metadata)
}
