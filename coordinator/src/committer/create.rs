//! The first version of a table.

use std::collections::HashMap;

use iceberg::MetadataLocation;
use iceberg::spec::{
    FormatVersion, SortOrder, TableMetadata, TableMetadataBuilder, Transform, UnboundPartitionSpec,
};
use stevedore_common::schema::{TableSchema, default_property, type_property};
use stevedore_common::{Error, Result};

use super::{Committer, failed};

/// One field of PARTITION BY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionField {
    /// The column, in any case.
    pub column: String,
    /// `Transform::from_str` reads `identity`, `year`, `bucket[16]`, `truncate[4]`, …
    pub transform: Transform,
}

/// A table to create.
#[derive(Debug, Clone)]
pub struct NewTable {
    /// The table's folder, absolute, nobody else's.
    pub location: String,
    /// The columns; their ids are assigned here.
    pub schema: TableSchema,
    /// PARTITION BY.
    pub partition_by: Vec<PartitionField>,
    /// Table properties beside those of the columns.
    pub properties: HashMap<String, String>,
}

/// A table that exists as files and waits for the command that names it.
#[derive(Debug, Clone)]
pub struct Created {
    /// Its metadata.
    pub metadata: TableMetadata,
    /// Where that stands.
    pub metadata_location: String,
    /// Its columns with their final field ids.
    pub schema: TableSchema,
}

impl Committer {
    /// Writes the first metadata of a table.
    ///
    /// # Errors
    /// Invalid input where the columns or the partitioning make no table; storage.
    pub async fn create_table(&self, new: &NewTable) -> Result<Created> {
        let metadata = new_metadata(new)?;
        let schema = TableSchema::from_metadata(&metadata)?;
        let location = MetadataLocation::new_with_metadata(metadata.location(), &metadata);
        let metadata_location = self.write_metadata(&metadata, &location).await?;
        Ok(Created { metadata, metadata_location, schema })
    }
}

fn new_metadata(new: &NewTable) -> Result<TableMetadata> {
    let invalid = |e: iceberg::Error| Error::invalid(format!("the table cannot be created: {}", e.message()));
    let (schema, _) = new.schema.to_new_iceberg()?;
    let mut spec = UnboundPartitionSpec::builder();
    let mut names: Vec<String> = Vec::new();
    for field in &new.partition_by {
        let index = new
            .schema
            .columns
            .iter()
            .position(|c| c.name == field.column)
            .or_else(|| new.schema.columns.iter().position(|c| c.name.eq_ignore_ascii_case(&field.column)))
            .ok_or_else(|| {
                Error::invalid(format!("PARTITION BY names column '{}', which the table lacks", field.column))
            })?;
        let column = &new.schema.columns[index];
        let source = &schema.as_struct().fields()[index];
        field.transform.result_type(&source.field_type).map_err(|_| {
            Error::invalid(format!(
                "a table cannot be partitioned by {} of column '{}' ({})",
                field.transform, column.name, column.ty
            ))
        })?;
        let mut name = partition_name(&column.name, field.transform);
        while names.contains(&name)
            || (field.transform != Transform::Identity && new.schema.column(&name).is_some())
        {
            name.push('_');
        }
        names.push(name.clone());
        spec = spec.add_partition_field(source.id, name, field.transform).map_err(invalid)?;
    }
    // The builder assigns field ids anew, so the properties that are keyed by them come after it.
    let builder = TableMetadataBuilder::new(
        schema,
        spec.build(),
        SortOrder::unsorted_order(),
        new.location.clone(),
        FormatVersion::V2,
        HashMap::new(),
    )
    .map_err(invalid)?;
    let ids = builder.clone().build().map_err(invalid)?.metadata;
    let mut properties = new.properties.clone();
    for column in &new.schema.columns {
        let id = ids
            .current_schema()
            .field_by_name(&column.name)
            .map(|field| field.id)
            .ok_or_else(|| Error::internal(format!("column '{}' got no field id", column.name)))?;
        properties.insert(type_property(id), column.ty.to_string());
        if let Some(default) = &column.default {
            properties.insert(default_property(id), default.clone());
        }
    }
    let built = builder
        .set_properties(properties)
        .map_err(invalid)?
        .build()
        .map_err(|e| failed("building table metadata", e))?;
    Ok(built.metadata)
}

fn partition_name(column: &str, transform: Transform) -> String {
    match transform {
        Transform::Bucket(_) => format!("{column}_bucket"),
        Transform::Truncate(_) => format!("{column}_trunc"),
        Transform::Year => format!("{column}_year"),
        Transform::Month => format!("{column}_month"),
        Transform::Day => format!("{column}_day"),
        Transform::Hour => format!("{column}_hour"),
        _ => column.to_owned(),
    }
}
