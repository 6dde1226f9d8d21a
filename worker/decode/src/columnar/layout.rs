//! Layouts that casts do not know, brought to ones that they do: unions become JSON (VARIANT in SQL), and
//! timestamps that a library gives as decimals of nanoseconds, since 64 bits of them end in the year 2262,
//! become microseconds.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, MapArray, PrimitiveArray, StringBuilder, StructArray, UnionArray,
};
use arrow::datatypes::{
    DataType, Decimal128Type, Field, FieldRef, TimeUnit, TimestampMicrosecondType, UnionFields,
};
use stevedore_common::error::{Error, Result};
use stevedore_common::types::{EXTENSION_NAME, JSON_EXTENSION};

use crate::spec::CastOptions;
use crate::variant;

/// The decimals that stand for nanoseconds since 1970.
pub(crate) const NANOSECONDS_AS: DataType = DataType::Decimal128(38, 9);

/// The field that [`settle`] makes of a file's field: JSON where it says union, at any depth.
pub(crate) fn settled_field(field: &Field) -> Field {
    let walk = |field: &FieldRef| Arc::new(settled_field(field));
    let data_type = match field.data_type() {
        DataType::List(item) => DataType::List(walk(item)),
        DataType::Map(entries, sorted) => DataType::Map(walk(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(walk).collect()),
        DataType::Union(..) => {
            let json = (EXTENSION_NAME.to_owned(), JSON_EXTENSION.to_owned());
            // A union has no NULLs of its own, its members have.
            return Field::new(field.name(), DataType::Utf8, true).with_metadata([json].into());
        }
        other => other.clone(),
    };
    field.clone().with_data_type(data_type)
}

/// An array of a library as an array of the settled field. `field` is what the file says.
///
/// # Errors
/// Bad data for a timestamp that 64 bits of microseconds cannot hold.
pub(crate) fn settle(array: &ArrayRef, field: &Field, options: &CastOptions) -> Result<ArrayRef> {
    let broken = |error| Error::internal(format!("column '{}' cannot be rebuilt: {error}", field.name()));
    Ok(match (array.data_type(), field.data_type()) {
        (DataType::Decimal128(..), DataType::Timestamp(TimeUnit::Microsecond, zone)) => {
            let values: PrimitiveArray<TimestampMicrosecondType> =
                array.as_primitive::<Decimal128Type>().try_unary(|nanoseconds| {
                    i64::try_from(nanoseconds.div_euclid(1000))
                        .map_err(|_| Error::bad_data("a timestamp lies beyond the year 290000"))
                })?;
            Arc::new(values.with_timezone_opt(zone.clone()))
        }
        (DataType::Union(..), DataType::Union(fields, _)) => {
            let array = array.as_any().downcast_ref::<UnionArray>();
            let array = array.ok_or_else(|| Error::internal("an array is not what its type says"))?;
            json_of_union(array, fields, options)?
        }
        (DataType::List(_), DataType::List(item)) => {
            let (_, offsets, values, nulls) = array.as_list::<i32>().clone().into_parts();
            let values = settle(&values, item, options)?;
            let item = Arc::new(settled_field(item));
            Arc::new(ListArray::try_new(item, offsets, values, nulls).map_err(broken)?)
        }
        (DataType::Struct(_), DataType::Struct(fields)) if !fields.is_empty() => {
            let (_, columns, nulls) = array.as_struct().clone().into_parts();
            let columns = columns
                .iter()
                .zip(fields)
                .map(|(column, field)| settle(column, field, options))
                .collect::<Result<Vec<_>>>()?;
            let fields = fields.iter().map(|field| settled_field(field)).collect();
            Arc::new(StructArray::try_new(fields, columns, nulls).map_err(broken)?)
        }
        (DataType::Map(..), DataType::Map(entries, _)) => {
            let (_, offsets, values, nulls, sorted) = array.as_map().clone().into_parts();
            let values: ArrayRef = Arc::new(values);
            let values = settle(&values, entries, options)?.as_struct().clone();
            let entries = Arc::new(settled_field(entries));
            Arc::new(MapArray::try_new(entries, offsets, values, nulls, sorted).map_err(broken)?)
        }
        _ => array.clone(),
    })
}

/// Each value as the JSON of the member that it is.
fn json_of_union(array: &UnionArray, fields: &UnionFields, options: &CastOptions) -> Result<ArrayRef> {
    let mut members = Vec::with_capacity(fields.len());
    for (id, field) in fields.iter() {
        let child = settle(array.child(id), field, options)?;
        members.push((id, variant::to_json(&child, &settled_field(field), options)?));
    }
    let mut builder = StringBuilder::with_capacity(array.len(), array.len() * 8);
    for row in 0..array.len() {
        let id = array.type_id(row);
        let member = members.iter().find(|(other, _)| *other == id);
        let place = array.value_offset(row);
        match member {
            Some((_, values)) if values.is_valid(place) => builder.append_value(values.value(place)),
            _ => builder.append_null(),
        }
    }
    Ok(Arc::new(builder.finish()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use arrow::array::{Decimal128Array, Int32Array, StringArray};
    use arrow::buffer::{OffsetBuffer, ScalarBuffer};

    use super::*;

    fn union_field() -> Field {
        let fields = UnionFields::from_fields(vec![
            Field::new("n", DataType::Null, true),
            Field::new("i", DataType::Int32, true),
            Field::new("s", DataType::Utf8, true),
        ]);
        Field::new("u", DataType::Union(fields, arrow::datatypes::UnionMode::Dense), false)
    }

    #[test]
    fn unions_become_json_also_in_lists_and_structs() {
        let field = union_field();
        let DataType::Union(fields, _) = field.data_type() else { unreachable!() };
        let union: ArrayRef = Arc::new(
            UnionArray::try_new(
                fields.clone(),
                ScalarBuffer::from(vec![2i8, 0, 1, 2]),
                Some(ScalarBuffer::from(vec![0i32, 0, 0, 1])),
                vec![
                    arrow::array::new_null_array(&DataType::Null, 1),
                    Arc::new(Int32Array::from(vec![7])),
                    Arc::new(StringArray::from(vec!["a\"", "b"])),
                ],
            )
            .unwrap(),
        );
        let item = Arc::new(field.with_nullable(true));
        let list: ArrayRef = Arc::new(
            ListArray::try_new(item.clone(), OffsetBuffer::from_lengths([1, 3]), union, None).unwrap(),
        );
        let list_field = Arc::new(Field::new("l", DataType::List(item), true));
        let whole: ArrayRef = Arc::new(StructArray::from(vec![(list_field.clone(), list)]));
        let whole_field = Field::new("w", DataType::Struct(vec![list_field].into()), true);
        let settled = settle(&whole, &whole_field, &CastOptions::default()).unwrap();
        assert_eq!(settled.data_type(), settled_field(&whole_field).data_type());
        let json = variant::to_json(&settled, &settled_field(&whole_field), &CastOptions::default()).unwrap();
        let rows: Vec<&str> = json.iter().flatten().collect();
        assert_eq!(rows, [r#"{"l":["a\""]}"#, r#"{"l":[null,7,"b"]}"#]);
    }

    #[test]
    fn nanoseconds_round_down_and_what_is_too_far_is_told() {
        let nanoseconds = |values: Vec<Option<i128>>| -> ArrayRef {
            Arc::new(Decimal128Array::from(values).with_data_type(NANOSECONDS_AS))
        };
        let field = Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true);
        let array = nanoseconds(vec![Some(1_999), Some(-1), None]);
        let settled = settle(&array, &field, &CastOptions::default()).unwrap();
        let settled = settled.as_primitive::<TimestampMicrosecondType>();
        assert_eq!(settled.iter().collect::<Vec<_>>(), [Some(1), Some(-1), None]);
        let error = settle(&nanoseconds(vec![Some(i128::MAX / 10)]), &field, &CastOptions::default());
        assert!(error.unwrap_err().to_string().contains("beyond the year"));
    }
}
