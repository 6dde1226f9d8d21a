//! Versions that change columns or properties and no rows.

use std::collections::HashMap;

use iceberg::spec::{NestedFieldRef, Schema, TableMetadata};
use stevedore_common::schema::{
    Column, ColumnChange, TableSchema, default_property, new_iceberg_field, type_property, widened_field,
    widens_to,
};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use super::{Committer, Prepared, Totals, check_writable, failed};

/// Statements that change rows carry columns of their own beside those of the table, under names that begin so.
const OWN_PREFIX: &str = "__target_";

/// Refuses a name that no column of a table may have.
///
/// # Errors
/// Invalid input that names the column.
pub fn check_column_name(name: &str) -> Result<()> {
    if !name.to_lowercase().starts_with(OWN_PREFIX) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a column cannot be named '{name}': names that begin with {OWN_PREFIX} are reserved"
    ))
    .about(name)
    .hint("give the column another name"))
}

/// The schema of a table with columns added at its end, and the properties that go with them. Pure:
/// the same metadata, columns and ids reserved before give the same field ids.
///
/// # Errors
/// Already exists for a name that is taken; invalid input for a NOT NULL column, which the rows that
/// are there already could not satisfy.
fn plan_new_columns(
    metadata: &TableMetadata,
    columns: &[Column],
    last_reserved_id: i32,
) -> Result<(Schema, HashMap<String, String>)> {
    let current = metadata.current_schema();
    let mut fields: Vec<NestedFieldRef> = current.as_struct().fields().to_vec();
    let mut properties = HashMap::new();
    let mut last_id = metadata.last_column_id().max(last_reserved_id);
    for column in columns {
        if fields.iter().any(|field| field.name.eq_ignore_ascii_case(&column.name)) {
            return Err(
                Error::already_exists(format!("column '{}' exists already", column.name)).about(&column.name)
            );
        }
        if !column.nullable && metadata.current_snapshot().is_some() {
            return Err(Error::invalid(format!(
                "column '{}' cannot be added as NOT NULL: the rows that are there have no value for it",
                column.name
            )));
        }
        last_id += 1;
        let id = last_id;
        fields.push(new_iceberg_field(column, id, &mut last_id));
        properties.insert(type_property(id), column.ty.to_string());
        if let Some(default) = &column.default {
            properties.insert(default_property(id), default.clone());
        }
    }
    Ok((rebuilt(current, fields)?, properties))
}

/// A schema with other fields under the same id, its identifier fields kept where they still exist.
pub(super) fn rebuilt(current: &Schema, fields: Vec<NestedFieldRef>) -> Result<Schema> {
    let identifiers: Vec<i32> =
        current.identifier_field_ids().filter(|id| fields.iter().any(|field| field.id == *id)).collect();
    Schema::builder()
        .with_schema_id(current.schema_id())
        .with_fields(fields)
        .with_identifier_field_ids(identifiers)
        .build()
        .map_err(|e| Error::invalid(format!("the columns make no valid table: {}", e.message())))
}

impl Committer {
    /// ALTER TABLE ADD COLUMN. Field ids up to `last_reserved_id` are those of loads that bring columns.
    ///
    /// # Errors
    /// Already exists for a name that is taken; invalid input for a NOT NULL column of a table with rows; storage.
    pub async fn add_columns(
        &self,
        metadata_location: &str,
        columns: &[Column],
        last_reserved_id: i32,
    ) -> Result<Prepared> {
        let metadata = self.load(metadata_location).await?;
        let (schema, properties) = plan_new_columns(&metadata, columns, last_reserved_id)?;
        self.change_schema(metadata_location, schema, properties, &[]).await
    }

    /// ALTER TABLE DROP COLUMN.
    ///
    /// # Errors
    /// Not found; invalid input for the last column and for one that the table is partitioned by.
    pub async fn drop_column(&self, metadata_location: &str, name: &str) -> Result<Prepared> {
        let metadata = self.load(metadata_location).await?;
        let mut fields = metadata.current_schema().as_struct().fields().to_vec();
        let index = position(&fields, name)?;
        let field = fields.remove(index);
        if fields.is_empty() {
            return Err(Error::invalid(format!("column '{name}' is the only one of the table")));
        }
        if metadata.default_partition_spec().fields().iter().any(|p| p.source_id == field.id) {
            return Err(Error::invalid(format!("the table is partitioned by column '{name}'")));
        }
        let schema = rebuilt(metadata.current_schema(), fields)?;
        // Its exact type stays: snapshots that have the column can still be read.
        let removed = [default_property(field.id)];
        self.change_schema(metadata_location, schema, HashMap::new(), &removed).await
    }

    /// ALTER TABLE RENAME COLUMN.
    ///
    /// # Errors
    /// Not found; already exists.
    pub async fn rename_column(&self, metadata_location: &str, name: &str, to: &str) -> Result<Prepared> {
        let metadata = self.load(metadata_location).await?;
        let mut fields = metadata.current_schema().as_struct().fields().to_vec();
        let index = position(&fields, name)?;
        if fields.iter().enumerate().any(|(i, f)| i != index && f.name.eq_ignore_ascii_case(to)) {
            return Err(Error::already_exists(format!("column '{to}' exists already")));
        }
        let mut field = fields[index].as_ref().clone();
        field.name = to.to_owned();
        fields[index] = field.into();
        let schema = rebuilt(metadata.current_schema(), fields)?;
        self.change_schema(metadata_location, schema, HashMap::new(), &[]).await
    }

    /// ALTER TABLE MODIFY COLUMN.
    ///
    /// # Errors
    /// Not found; invalid input for a type that the values which are there are not values of, for NOT NULL
    /// where they may be NULL.
    pub async fn modify_columns(
        &self,
        metadata_location: &str,
        changes: &[ColumnChange],
    ) -> Result<Prepared> {
        let metadata = self.load(metadata_location).await?;
        let columns = TableSchema::from_metadata(&metadata)?.columns;
        let mut fields = metadata.current_schema().as_struct().fields().to_vec();
        let mut properties = HashMap::new();
        for change in changes {
            let index = position(&fields, &change.name)?;
            let column = &columns[index];
            let mut field = fields[index].as_ref().clone();
            if let Some(ty) = change.ty.as_ref().filter(|ty| **ty != column.ty) {
                check_widening(&metadata, column, ty)?;
                field = widened_field(&field, ty);
                properties.insert(type_property(column.id), ty.to_string());
            }
            if change.nullable == Some(false) && column.nullable && metadata.current_snapshot().is_some() {
                return Err(Error::invalid(format!(
                    "column '{}' cannot become NOT NULL: rows that are there may have no value for it",
                    column.name
                )));
            }
            if let Some(nullable) = change.nullable {
                field.required = !nullable;
            }
            if let Some(default) = &change.default {
                properties.insert(default_property(column.id), default.clone());
            }
            if let Some(comment) = &change.comment {
                field.doc = (!comment.is_empty()).then(|| comment.clone());
            }
            fields[index] = field.into();
        }
        let schema = rebuilt(metadata.current_schema(), fields)?;
        self.change_schema(metadata_location, schema, properties, &[]).await
    }

    /// Sets and removes table properties.
    ///
    /// # Errors
    /// Invalid input for a property that Iceberg reserves; storage.
    pub async fn set_properties(
        &self,
        metadata_location: &str,
        set: HashMap<String, String>,
        remove: &[String],
    ) -> Result<Prepared> {
        let metadata = self.load(metadata_location).await?;
        check_writable(&metadata)?;
        let totals = self.totals(&metadata).await?;
        let invalid = |e: iceberg::Error| Error::invalid(e.message().to_owned());
        let built = metadata
            .as_ref()
            .clone()
            .into_builder(Some(metadata_location.to_owned()))
            .set_properties(set)
            .map_err(invalid)?
            .remove_properties(remove)
            .map_err(invalid)?
            .build()
            .map_err(|e| failed("building table metadata", e))?;
        self.write_next(metadata_location, built.metadata, totals, Vec::new()).await
    }

    async fn change_schema(
        &self,
        metadata_location: &str,
        schema: Schema,
        set: HashMap<String, String>,
        remove: &[String],
    ) -> Result<Prepared> {
        let metadata = self.load(metadata_location).await?;
        check_writable(&metadata)?;
        let totals: Totals = self.totals(&metadata).await?;
        let build = || {
            metadata
                .as_ref()
                .clone()
                .into_builder(Some(metadata_location.to_owned()))
                .add_current_schema(schema)?
                .set_properties(set)?
                .remove_properties(remove)?
                .build()
        };
        let built = build().map_err(|e| failed("building table metadata", e))?;
        self.write_next(metadata_location, built.metadata, totals, Vec::new()).await
    }
}

fn check_widening(metadata: &TableMetadata, column: &Column, ty: &SqlType) -> Result<()> {
    let Column { name, ty: known, .. } = column;
    if !widens_to(known, ty) {
        return Err(Error::invalid(format!("column '{name}' ({known}) cannot become {ty}")).hint(
            "integers become wider integers, FLOAT becomes DOUBLE, DECIMAL gets more digits of the same scale; for \
             other types add a column and fill it",
        ));
    }
    if metadata.default_partition_spec().fields().iter().any(|field| field.source_id == column.id) {
        return Err(Error::invalid(format!(
            "the table is partitioned by column '{name}', which keeps its type"
        )));
    }
    Ok(())
}

fn position(fields: &[NestedFieldRef], name: &str) -> Result<usize> {
    fields
        .iter()
        .position(|field| field.name == name)
        .or_else(|| fields.iter().position(|field| field.name.eq_ignore_ascii_case(name)))
        .ok_or_else(|| Error::not_found(format!("column '{name}' does not exist")).about(name))
}
