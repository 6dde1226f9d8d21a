//! VARIANT to everything. JSON `null` becomes NULL; strings lose their quotes and are then read as
//! text; arrays and objects become columns of VARIANT that the other kernels cast on.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayBuilder, ArrayRef, BinaryBuilder, ListArray, MapArray, StringArray, StringBuilder,
    StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields};
use stevedore_common::error::Result;
use stevedore_common::types::SqlType;

use super::{Env, Reject, arrow_error, as_strings, nested, text};
use crate::errors::cut;
use crate::variant::MAX_NESTING;
use crate::variant::canonical_into;
use crate::variant::scan::{self, Kind};

pub(super) fn from_variant(
    array: &ArrayRef,
    to: &SqlType,
    env: &Env<'_>,
    rejects: &mut Vec<Reject>,
) -> Result<ArrayRef> {
    let json = as_strings(array)?;
    match to {
        SqlType::Variant => Ok(array.clone()),
        SqlType::String => Ok(Arc::new(unquoted(json, false))),
        SqlType::Binary => Ok(binary(json, rejects)),
        SqlType::Array(_) | SqlType::Vector(_) => {
            let lists = lists(json, rejects)?;
            let field = Field::new("variant", lists.data_type().clone(), true);
            nested::convert_nested(&lists, &field, to, env, rejects)
        }
        SqlType::Map(..) => {
            let maps = maps(json, rejects)?;
            let field = Field::new("variant", maps.data_type().clone(), true);
            nested::convert_nested(&maps, &field, to, env, rejects)
        }
        SqlType::Tuple(fields) => {
            let structs = structs(json, fields, rejects)?;
            let field = Field::new("variant", structs.data_type().clone(), true);
            nested::convert_nested(&structs, &field, to, env, rejects)
        }
        scalar => {
            let strings: ArrayRef = Arc::new(unquoted(json, scalar.is_numeric()));
            text::from_text(&strings, scalar, env, rejects)
        }
    }
}

/// The text of strings, the JSON of other values, NULL for `null`; booleans as digits on request.
fn unquoted(json: &StringArray, booleans_as_digits: bool) -> StringArray {
    let mut builder = StringBuilder::with_capacity(json.len(), json.value_data().len());
    for value in json {
        match value.map(|value| (value, scan::kind(value))) {
            None | Some((_, Some(Kind::Null))) => builder.append_null(),
            Some((value, Some(Kind::String))) => match scan::string_of(value) {
                Some(text) => builder.append_value(text),
                None => builder.append_value(value),
            },
            Some((value, Some(Kind::Bool))) if booleans_as_digits => {
                builder.append_value(if value.trim() == "true" { "1" } else { "0" });
            }
            Some((value, _)) => builder.append_value(value),
        }
    }
    builder.finish()
}

/// BINARY stands as hexadecimal digits in JSON.
fn binary(json: &StringArray, rejects: &mut Vec<Reject>) -> ArrayRef {
    let mut builder = BinaryBuilder::new();
    for (row, value) in json.iter().enumerate() {
        let Some(value) = value.filter(|value| scan::kind(value) != Some(Kind::Null)) else {
            builder.append_null();
            continue;
        };
        match scan::string_of(value).and_then(|text| hex::decode(text.as_bytes()).ok()) {
            Some(bytes) => builder.append_value(bytes),
            None => {
                builder.append_null();
                rejects.push(reject(row, value, "a string of hexadecimal digits is expected"));
            }
        }
    }
    Arc::new(builder.finish())
}

fn reject(row: usize, value: &str, reason: &'static str) -> Reject {
    Reject { row, value: cut(value).into_owned(), reason: reason.into() }
}

/// Calls `take` with the JSON of each row that is of a kind; a string that holds such JSON counts.
/// Other rows are NULL or rejected.
fn rows_of(
    json: &StringArray,
    accepts: impl Fn(Kind) -> bool,
    reason: &'static str,
    rejects: &mut Vec<Reject>,
    mut take: impl FnMut(Option<&str>) -> std::result::Result<(), &'static str>,
) -> NullBuffer {
    let mut valid = Vec::with_capacity(json.len());
    let mut buffer = String::new();
    for (row, value) in json.iter().enumerate() {
        let mut found = None;
        if let Some(value) = value {
            match scan::kind(value) {
                Some(Kind::Null) => {}
                Some(kind) if accepts(kind) => found = Some(value),
                Some(Kind::String) => {
                    buffer.clear();
                    let inner = scan::string_of(value).unwrap_or_default();
                    if canonical_into(&inner, MAX_NESTING, &mut buffer).is_ok()
                        && scan::kind(&buffer).is_some_and(&accepts)
                    {
                        found = Some(buffer.as_str());
                    } else {
                        rejects.push(reject(row, value, reason));
                    }
                }
                _ => rejects.push(reject(row, value, reason)),
            }
        }
        let mut is_valid = found.is_some();
        if let (Err(reason), Some(value)) = (take(found), value) {
            rejects.push(reject(row, value, reason));
            is_valid = false;
        }
        valid.push(is_valid);
    }
    NullBuffer::from(valid)
}

fn lists(json: &StringArray, rejects: &mut Vec<Reject>) -> Result<ArrayRef> {
    let mut elements = StringBuilder::with_capacity(json.len() * 4, json.value_data().len());
    let mut lengths = Vec::with_capacity(json.len());
    let nulls = rows_of(
        json,
        |kind| kind == Kind::Array,
        "an array is expected",
        rejects,
        |row| {
            let before = elements.len();
            if let Some(row) = row {
                scan::elements(row).for_each(|element| append_json(&mut elements, element));
            }
            lengths.push(elements.len() - before);
            Ok(())
        },
    );
    let item = Arc::new(SqlType::Variant.to_field("element", true));
    let offsets = OffsetBuffer::from_lengths(lengths);
    let list = ListArray::try_new(item, offsets, Arc::new(elements.finish()), Some(nulls));
    Ok(Arc::new(list.map_err(arrow_error)?))
}

/// A value inside of another: `null` is NULL there.
fn append_json(builder: &mut StringBuilder, value: &str) {
    if value == "null" { builder.append_null() } else { builder.append_value(value) }
}

fn maps(json: &StringArray, rejects: &mut Vec<Reject>) -> Result<ArrayRef> {
    let mut keys = StringBuilder::new();
    let mut values = StringBuilder::new();
    let mut lengths = Vec::with_capacity(json.len());
    let nulls = rows_of(
        json,
        |kind| kind == Kind::Object,
        "an object is expected",
        rejects,
        |row| {
            let before = keys.len();
            for (key, value) in row.into_iter().flat_map(scan::members) {
                keys.append_value(scan::unescape(key));
                append_json(&mut values, value);
            }
            lengths.push(keys.len() - before);
            Ok(())
        },
    );
    let fields = Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        SqlType::Variant.to_field("value", true),
    ]);
    let entries = StructArray::new(fields, vec![Arc::new(keys.finish()), Arc::new(values.finish())], None);
    let field = Arc::new(Field::new("key_value", entries.data_type().clone(), false));
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(MapArray::try_new(field, offsets, entries, Some(nulls), false).map_err(arrow_error)?))
}

/// Objects by field name in any case, an exact name first; arrays by position.
fn structs(json: &StringArray, fields: &[(String, SqlType)], rejects: &mut Vec<Reject>) -> Result<ArrayRef> {
    let mut columns: Vec<StringBuilder> = fields.iter().map(|_| StringBuilder::new()).collect();
    let accepts = |kind| matches!(kind, Kind::Object | Kind::Array);
    let nulls = rows_of(json, accepts, "an object or an array is expected", rejects, |row| {
        let mut found: Vec<Option<&str>> = vec![None; fields.len()];
        let mut result = Ok(());
        match row.map(|row| (row, scan::kind(row))) {
            Some((row, Some(Kind::Array))) => {
                if scan::elements(row).count() == fields.len() {
                    found = scan::elements(row).map(Some).collect();
                } else {
                    result = Err("the array has not as many elements as the tuple has fields");
                }
            }
            Some((row, _)) => {
                let mut exact = vec![false; fields.len()];
                for (key, value) in scan::members(row) {
                    let key = scan::unescape(key);
                    for (i, (name, _)) in fields.iter().enumerate() {
                        if *name == *key {
                            (found[i], exact[i]) = (Some(value), true);
                        } else if !exact[i] && name.to_lowercase() == key.to_lowercase() {
                            found[i] = Some(value);
                        }
                    }
                }
            }
            None => {}
        }
        for (column, value) in columns.iter_mut().zip(found) {
            column.append_option(value.filter(|value| *value != "null"));
        }
        result
    });
    if fields.is_empty() {
        return Ok(Arc::new(StructArray::new_empty_fields(json.len(), Some(nulls))));
    }
    let names = fields.iter().map(|(name, _)| SqlType::Variant.to_field(name, true)).collect::<Fields>();
    let columns = columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
    Ok(Arc::new(StructArray::try_new(names, columns, Some(nulls)).map_err(arrow_error)?))
}
