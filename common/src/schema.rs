//! A table's columns as SQL sees them, and how they are read from and written into Iceberg metadata.
//!
//! Iceberg holds names, field ids, storage types and nullability; table properties
//! (`stevedore.field.<id>.type`, `.default`) hold the exact SQL type and the default, so that nothing
//! is lost between restarts or to other engines.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema as ArrowSchema, SchemaRef};
use iceberg::spec::{
    ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, Schema as IcebergSchema, StructType,
    TableMetadata, Type,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::types::SqlType;

/// The key of an Arrow field's Iceberg (and Parquet) field id.
pub const FIELD_ID: &str = "PARQUET:field_id";

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Iceberg field id; 0 while the table does not exist yet.
    #[serde(default)]
    pub id: i32,
    /// Name, as written.
    pub name: String,
    /// SQL type.
    pub ty: SqlType,
    /// Whether NULL is allowed.
    pub nullable: bool,
    /// SQL text of the default, applied on write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// What ALTER TABLE MODIFY COLUMN says of a column; `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnChange {
    /// The column, in any case.
    pub name: String,
    /// Another SQL type.
    pub ty: Option<SqlType>,
    /// NULL or NOT NULL.
    pub nullable: Option<bool>,
    /// SQL text of another default.
    pub default: Option<String>,
    /// Another comment.
    pub comment: Option<String>,
}

/// The columns of a table, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    /// The columns.
    pub columns: Vec<Column>,
}

/// The table property that holds a field's exact SQL type.
pub fn type_property(field_id: i32) -> String {
    format!("stevedore.field.{field_id}.type")
}

/// The table property that holds a field's default.
pub fn default_property(field_id: i32) -> String {
    format!("stevedore.field.{field_id}.default")
}

impl TableSchema {
    /// The column of a name: exact first, then in any case.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns
            .iter()
            .find(|column| column.name == name)
            .or_else(|| self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)))
    }

    /// The Arrow schema of results and of the batches that writers accept: natural types, field ids
    /// in the metadata of the top-level fields.
    pub fn to_arrow(&self) -> SchemaRef {
        let fields: Vec<Field> = self
            .columns
            .iter()
            .map(|column| {
                let field = column.ty.to_field(&column.name, column.nullable);
                let mut metadata = field.metadata().clone();
                metadata.insert(FIELD_ID.to_owned(), column.id.to_string());
                field.with_metadata(metadata)
            })
            .collect();
        Arc::new(ArrowSchema::new(fields))
    }

    /// The columns of the current schema of a table.
    ///
    /// # Errors
    /// Unsupported, naming the column, where another engine made a type that the dialect lacks.
    pub fn from_metadata(metadata: &TableMetadata) -> Result<Self> {
        Self::from_iceberg(metadata.current_schema(), metadata.properties())
    }

    /// The columns of an Iceberg schema with the table's properties.
    ///
    /// # Errors
    /// As [`TableSchema::from_metadata`].
    pub fn from_iceberg(schema: &IcebergSchema, properties: &HashMap<String, String>) -> Result<Self> {
        let columns = schema
            .as_struct()
            .fields()
            .iter()
            .map(|field| {
                let exact = properties.get(&type_property(field.id)).map(|text| SqlType::parse(text));
                let ty = match exact {
                    // Older schemas, and those that another engine made, can have narrower or wider columns.
                    Some(Ok(ty)) if !is_stored_as(&ty, &field.field_type) => sql_type_of(&field.field_type),
                    Some(exact) => exact,
                    None => sql_type_of(&field.field_type),
                }
                .map_err(|e| e.context(format!("column '{}'", field.name)))?;
                Ok(Column {
                    id: field.id,
                    name: field.name.clone(),
                    ty,
                    nullable: !field.required,
                    default: properties.get(&default_property(field.id)).cloned(),
                    comment: field.doc.clone(),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { columns })
    }

    /// The Iceberg schema for a new table, with field ids 1…n at the top level first and nested ones
    /// after them, and the properties that go with it.
    ///
    /// # Errors
    /// Invalid input for names that stand twice.
    pub fn to_new_iceberg(&self) -> Result<(IcebergSchema, BTreeMap<String, String>)> {
        let mut next_id = self.columns.len() as i32;
        let mut properties = BTreeMap::new();
        let mut fields = Vec::with_capacity(self.columns.len());
        for (index, column) in self.columns.iter().enumerate() {
            let id = index as i32 + 1;
            fields.push(new_iceberg_field(column, id, &mut next_id));
            properties.insert(type_property(id), column.ty.to_string());
            if let Some(default) = &column.default {
                properties.insert(default_property(id), default.clone());
            }
        }
        let schema = IcebergSchema::builder()
            .with_fields(fields)
            .build()
            .map_err(|e| Error::invalid(format!("the columns make no valid table: {e}")))?;
        Ok((schema, properties))
    }
}

/// The Iceberg field of a column; nested ids are drawn from `last_id` upwards.
pub fn new_iceberg_field(column: &Column, id: i32, last_id: &mut i32) -> NestedFieldRef {
    let field_type = storage_type_of(&column.ty, last_id);
    let mut field = NestedField::new(id, &column.name, field_type, !column.nullable);
    if let Some(comment) = &column.comment {
        field = field.with_doc(comment);
    }
    Arc::new(field)
}

/// Whether values of a type, as data files store them, are values of another type as they stand: what
/// Iceberg's rules for evolution allow, and types of ours that are stored alike.
pub fn widens_to(from: &SqlType, to: &SqlType) -> bool {
    use SqlType::{Decimal, Float32, Float64, Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32};
    match (from, to) {
        (Int8, Int16 | Int32 | Int64)
        | (Int16, Int32 | Int64)
        | (Int32, Int64)
        | (UInt8, UInt16 | UInt32 | Int16 | Int32 | Int64)
        | (UInt16, UInt32 | Int32 | Int64)
        | (UInt32, Int64)
        | (Float32, Float64) => true,
        (Decimal(precision, scale), Decimal(wider, same)) => scale == same && wider >= precision,
        _ => from == to,
    }
}

/// The field of a column that exists, with another type; ids and what is nested in it stay.
pub fn widened_field(field: &NestedField, ty: &SqlType) -> NestedField {
    // A type that widens has no fields of its own, so that no id is handed out.
    let field_type = Box::new(storage_type_of(ty, &mut 0));
    NestedField { field_type, ..field.clone() }
}

/// Whether the table stores values of a type so; of nested types only their kind is compared.
fn is_stored_as(ty: &SqlType, stored: &Type) -> bool {
    match (storage_type_of(ty, &mut 0), stored) {
        (Type::Primitive(ours), Type::Primitive(stored)) => ours == *stored,
        (Type::Primitive(_), _) | (_, Type::Primitive(_)) => false,
        _ => true,
    }
}

fn storage_type_of(ty: &SqlType, last_id: &mut i32) -> Type {
    let mut fresh = || {
        *last_id += 1;
        *last_id
    };
    let primitive = match ty {
        SqlType::Boolean => PrimitiveType::Boolean,
        SqlType::Int8 | SqlType::Int16 | SqlType::Int32 | SqlType::UInt8 | SqlType::UInt16 => {
            PrimitiveType::Int
        }
        SqlType::Int64 | SqlType::UInt32 => PrimitiveType::Long,
        SqlType::UInt64 => PrimitiveType::Decimal { precision: 20, scale: 0 },
        SqlType::Float32 => PrimitiveType::Float,
        SqlType::Float64 => PrimitiveType::Double,
        SqlType::Decimal(p, s) => PrimitiveType::Decimal { precision: u32::from(*p), scale: u32::from(*s) },
        SqlType::Date => PrimitiveType::Date,
        SqlType::Timestamp | SqlType::TimestampTz => PrimitiveType::Timestamptz,
        SqlType::String | SqlType::Variant => PrimitiveType::String,
        SqlType::Binary => PrimitiveType::Binary,
        SqlType::Vector(_) => {
            let id = fresh();
            return Type::List(ListType {
                element_field: NestedField::list_element(id, Type::Primitive(PrimitiveType::Float), true)
                    .into(),
            });
        }
        SqlType::Array(element) => {
            let id = fresh();
            let element = storage_type_of(element, last_id);
            return Type::List(ListType {
                element_field: NestedField::list_element(id, element, false).into(),
            });
        }
        SqlType::Map(key, value) => {
            let (key_id, value_id) = (fresh(), fresh());
            let key = storage_type_of(key, last_id);
            let value = storage_type_of(value, last_id);
            return Type::Map(MapType {
                key_field: NestedField::map_key_element(key_id, key).into(),
                value_field: NestedField::map_value_element(value_id, value, false).into(),
            });
        }
        SqlType::Tuple(fields) => {
            let ids: Vec<i32> = fields.iter().map(|_| fresh()).collect();
            let fields = fields
                .iter()
                .zip(ids)
                .map(|((name, ty), id)| NestedField::optional(id, name, storage_type_of(ty, last_id)).into())
                .collect();
            return Type::Struct(StructType::new(fields));
        }
    };
    Type::Primitive(primitive)
}

/// The SQL type of an Iceberg type that carries no marker of ours.
fn sql_type_of(ty: &Type) -> Result<SqlType> {
    Ok(match ty {
        Type::Primitive(primitive) => match primitive {
            PrimitiveType::Boolean => SqlType::Boolean,
            PrimitiveType::Int => SqlType::Int32,
            PrimitiveType::Long => SqlType::Int64,
            PrimitiveType::Float => SqlType::Float32,
            PrimitiveType::Double => SqlType::Float64,
            PrimitiveType::Decimal { precision, scale } => SqlType::Decimal(*precision as u8, *scale as u8),
            PrimitiveType::Date => SqlType::Date,
            PrimitiveType::Timestamp | PrimitiveType::Timestamptz => SqlType::Timestamp,
            PrimitiveType::String | PrimitiveType::Uuid | PrimitiveType::Time => SqlType::String,
            PrimitiveType::Binary | PrimitiveType::Fixed(_) => SqlType::Binary,
            other => return Err(Error::not_supported(format!("the Iceberg type {other}"))),
        },
        Type::List(list) => SqlType::Array(Box::new(sql_type_of(&list.element_field.field_type)?)),
        Type::Map(map) => SqlType::Map(
            Box::new(sql_type_of(&map.key_field.field_type)?),
            Box::new(sql_type_of(&map.value_field.field_type)?),
        ),
        Type::Struct(fields) => SqlType::Tuple(
            fields
                .fields()
                .iter()
                .map(|field| Ok((field.name.clone(), sql_type_of(&field.field_type)?)))
                .collect::<Result<_>>()?,
        ),
        #[allow(unreachable_patterns, reason = "newer versions of the format add types")]
        other => return Err(Error::not_supported(format!("the Iceberg type {other}"))),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_exact_types_survive_iceberg() {
        let columns = [
            "BIGINT UNSIGNED",
            "VECTOR(4)",
            "VARIANT",
            "TUPLE(a INT, b ARRAY(TINYINT))",
            "MAP(VARCHAR, DATE)",
        ]
        .iter()
        .enumerate()
        .map(|(i, ty)| Column {
            id: i as i32 + 1,
            name: format!("c{i}"),
            ty: SqlType::parse(ty).unwrap(),
            nullable: i % 2 == 0,
            default: (i == 1).then(|| "NULL".to_owned()),
            comment: None,
        })
        .collect();
        let schema = TableSchema { columns };
        let (iceberg, properties) = schema.to_new_iceberg().unwrap();
        let back = TableSchema::from_iceberg(&iceberg, &properties.into_iter().collect()).unwrap();
        assert_eq!(back, schema);
    }
}
