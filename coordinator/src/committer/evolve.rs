//! Columns that come with rows: added in the same version as the rows, by the field ids that were reserved for them.
//!
//! Pure. Whether a column is added, is there already (another load brought it under the same id) or no longer
//! fits is decided by ids and names of the metadata at hand, so a rebase is the same call on newer metadata. Must
//! never give a field id to a column other than the one it was reserved for.

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::{NestedFieldRef, Schema, SchemaRef, TableMetadata, TableMetadataRef};
use stevedore_common::schema::{Column, new_iceberg_field, type_property};
use stevedore_common::{Error, Result};

use super::alter::rebuilt;
use super::append::reads_as;
use super::failed;

/// Columns that commit together with rows.
#[derive(Debug, Clone)]
pub struct Evolution {
    /// The columns, with the field ids that were reserved for them.
    pub columns: Vec<Column>,
}

/// A schema with columns at its end, under the ids that they have; and the properties that go with them.
///
/// # Errors
/// Invalid input where they make no valid table.
pub fn with_columns(schema: &Schema, columns: &[Column]) -> Result<(Schema, HashMap<String, String>)> {
    let fields = schema.as_struct().fields().iter().cloned().chain(columns.iter().map(reserved_field));
    let properties = columns.iter().map(|column| (type_property(column.id), column.ty.to_string())).collect();
    Ok((rebuilt(schema, fields.collect())?, properties))
}

/// The field of a column whose nested fields have the ids after its own, as they were reserved.
fn reserved_field(column: &Column) -> NestedFieldRef {
    new_iceberg_field(column, column.id, &mut column.id.clone())
}

impl Evolution {
    /// The metadata with the columns, and the schema that files have which were written with `base` and them.
    ///
    /// # Errors
    /// Conflict where a column can no longer be added: its name is taken, or it was dropped, or has another type.
    pub(super) fn apply(
        &self,
        current: &TableMetadataRef,
        base: &Schema,
    ) -> Result<(TableMetadataRef, SchemaRef)> {
        let written = Arc::new(with_columns(base, &self.columns)?.0);
        let mut added = Vec::new();
        for column in &self.columns {
            if self.is_to_be_added(current, column)? {
                added.push(column.clone());
            }
        }
        if added.is_empty() {
            return Ok((current.clone(), written));
        }
        let (schema, properties) = with_columns(current.current_schema(), &added)?;
        // Without a location the metadata log gains nothing here: this version is never written by itself.
        let build = || {
            current
                .as_ref()
                .clone()
                .into_builder(None)
                .add_current_schema(schema)?
                .set_properties(properties)?
                .build()
        };
        let metadata = build().map_err(|e| failed("adding columns", e))?.metadata;
        Ok((Arc::new(metadata), written))
    }

    fn is_to_be_added(&self, current: &TableMetadata, column: &Column) -> Result<bool> {
        let Column { id, name, ty, .. } = column;
        let schema = current.current_schema();
        if let Some(field) = schema.as_struct().field_by_id(*id) {
            let expected = reserved_field(column);
            if !reads_as(&expected.field_type, &field.field_type) || field.required {
                return Err(Error::conflict(format!(
                    "column '{name}' changed from {ty} to {} while the rows were written",
                    field.field_type
                )));
            }
            return Ok(false);
        }
        // Its values of other files must not come back under these ones.
        if current.schemas_iter().any(|schema| schema.field_by_id(*id).is_some()) {
            return Err(Error::conflict(format!("column '{name}' was dropped while the rows were written")));
        }
        let taken = |field: &NestedFieldRef| field.name.to_lowercase() == name.to_lowercase();
        if let Some(field) = schema.as_struct().fields().iter().find(|field| taken(field)) {
            return Err(Error::conflict(format!(
                "column '{}' was added while the rows were written",
                field.name
            )));
        }
        Ok(true)
    }
}
