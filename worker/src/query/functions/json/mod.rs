//! Functions of VARIANT: elements, tests of what a value is, objects and arrays made of values.
//!
//! Where a VARIANT is wanted, text is parsed as JSON, and ARRAY, MAP and TUPLE are read as the JSON that
//! they are as a VARIANT.

mod construct;
mod path;
mod shape;

use arrow::array::{Array, ArrayRef, AsArray, new_null_array};
use arrow::datatypes::Float64Type;
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::variant::scan::{self, Kind as Json};
use stevedore_decode::variant::{self, MAX_NESTING, PathStep, canonical_into, path_of};

use super::call::Call;
use super::definition::{Definition, Inputs, Kind};
use path::Paths;

pub(super) fn definitions() -> Vec<Definition> {
    use Kind::{Any, Key, Text, Variant};
    let json = |_: &Inputs<'_>| Ok(SqlType::Variant);
    let text = |_: &Inputs<'_>| Ok(SqlType::String);
    let mut all = vec![
        Definition::new("get", &[Variant, Key], json, get),
        Definition::new("get_ignore_case", &[Variant, Text], json, |call| {
            let (source, names) = (call.text(0)?, call.text(1)?);
            call.texts(|row, out| {
                let (value, name) = (source.at(row), names.at(row));
                // The member of exactly this name comes first.
                let exact = path_of(value, &[PathStep::Field(name.to_owned())]);
                let wanted = name.to_lowercase();
                let close = || {
                    let mut members = scan::members(value);
                    members.find(|(key, _)| scan::unescape(key).to_lowercase() == wanted).map(|(_, v)| v)
                };
                Ok(push(exact.or_else(close), out))
            })
        }),
        Definition::new("get_path", &[Variant, Text], json, |call| at_path(call, push))
            .or(&["json_path_query_first"]),
        Definition::new("json_extract_path_text", &[Variant, Text], text, |call| at_path(call, push_text)),
        Definition::new(
            "json_path_exists",
            &[Variant, Text],
            |_| Ok(SqlType::Boolean),
            |call| {
                let (source, mut paths) = (call.text(0)?, Paths::new(call, 1)?);
                call.booleans(|row| Ok(Some(path_of(source.at(row), paths.at(row)?).is_some())))
            },
        ),
        Definition::new("object_keys", &[Variant], json, shape::object_keys).or(&["json_object_keys"]),
        Definition::new("array_size", &[Any], |_| Ok(SqlType::UInt64), array_size).or(&["json_array_length"]),
        Definition::new("json_typeof", &[Variant], text, |call| {
            let source = call.text(0)?;
            call.texts(|row, out| Ok(push(scan::kind(source.at(row)).map(kind_name), out)))
        }),
        Definition::new("json_to_string", &[Variant], text, |call| {
            let source = call.text(0)?;
            call.texts(|row, out| Ok(push(Some(source.at(row)), out)))
        }),
        Definition::new("json_pretty", &[Variant], text, |call| {
            let source = call.text(0)?;
            call.texts(|row, out| {
                shape::pretty(source.at(row), 0, out);
                Ok(true)
            })
        }),
        Definition::new("strip_null_value", &[Variant], json, |call| {
            let source = call.text(0)?;
            call.texts(|row, out| {
                Ok(push(Some(source.at(row)).filter(|v| scan::kind(v) != Some(Json::Null)), out))
            })
        }),
        Definition::new("json_strip_nulls", &[Variant], json, |call| {
            let source = call.text(0)?;
            call.texts(|row, out| {
                shape::strip_nulls(source.at(row), out);
                Ok(true)
            })
        }),
        Definition::new("check_json", &[Any], text, check_json),
        Definition::new("json_object", &[Any], construct::object_type, |call| construct::object(call, false))
            .or(&["object_construct"])
            .optional(1)
            .repeats()
            .sees_nulls(),
        Definition::new("json_object_keep_null", &[Any], construct::object_type, |call| {
            construct::object(call, true)
        })
        .or(&["object_construct_keep_null"])
        .optional(1)
        .repeats()
        .sees_nulls(),
        Definition::new("json_array", &[Any], json, construct::array)
            .or(&["array_construct"])
            .optional(1)
            .repeats()
            .sees_nulls(),
        Definition::new(
            "as_boolean",
            &[Any],
            |_| Ok(SqlType::Boolean),
            |call| {
                only_variant(call, || {
                    let source = call.text(0)?;
                    call.booleans(|row| Ok(source.at(row).parse().ok()))
                })
            },
        ),
        Definition::new(
            "as_integer",
            &[Any],
            |_| Ok(SqlType::Int64),
            |call| {
                only_variant(call, || {
                    let source = call.text(0)?;
                    call.integers(|row| Ok(number(source.at(row)).and_then(|digits| digits.parse().ok())))
                })
            },
        ),
        Definition::new(
            "as_float",
            &[Any],
            |_| Ok(SqlType::Float64),
            |call| {
                only_variant(call, || {
                    let source = call.text(0)?;
                    call.values::<Float64Type>(|row| {
                        Ok(number(source.at(row)).and_then(|digits| digits.parse().ok()))
                    })
                })
            },
        ),
        Definition::new("as_string", &[Any], text, |call| {
            only_variant(call, || {
                let source = call.text(0)?;
                call.texts(|row, out| Ok(push(scan::string_of(source.at(row)).as_deref(), out)))
            })
        }),
    ];
    for (name, kind) in [("as_array", Json::Array), ("as_object", Json::Object)] {
        all.push(Definition::new(name, &[Any], json, move |call| {
            only_variant(call, || {
                let source = call.text(0)?;
                call.texts(|row, out| {
                    Ok(push(Some(source.at(row)).filter(|v| scan::kind(v) == Some(kind)), out))
                })
            })
        }));
    }
    for (name, test) in TESTS {
        all.push(Definition::new(
            name,
            &[Variant],
            |_| Ok(SqlType::Boolean),
            |call| {
                let source = call.text(0)?;
                call.booleans(|row| Ok(Some(test(source.at(row)))))
            },
        ));
    }
    all
}

type Test = fn(&str) -> bool;

const TESTS: &[(&str, Test)] = &[
    ("is_object", |value| scan::kind(value) == Some(Json::Object)),
    ("is_array", |value| scan::kind(value) == Some(Json::Array)),
    ("is_string", |value| scan::kind(value) == Some(Json::String)),
    ("is_boolean", |value| scan::kind(value) == Some(Json::Bool)),
    ("is_null_value", |value| scan::kind(value) == Some(Json::Null)),
    ("is_integer", is_integer),
    ("is_float", |value| number(value).is_some() && !is_integer(value)),
];

fn is_integer(value: &str) -> bool {
    number(value).is_some_and(|digits| digits.parse::<i128>().is_ok())
}

fn number(value: &str) -> Option<&str> {
    (scan::kind(value) == Some(Json::Number)).then(|| value.trim())
}

fn kind_name(kind: Json) -> &'static str {
    match kind {
        Json::Null => "null",
        Json::Bool => "boolean",
        Json::Number => "number",
        Json::String => "string",
        Json::Array => "array",
        Json::Object => "object",
    }
}

/// Appends what there is.
fn push(value: Option<&str>, out: &mut String) -> bool {
    value.inspect(|value| out.push_str(value)).is_some()
}

/// The same as text: strings without quotes, nothing of `null`.
fn push_text(value: Option<&str>, out: &mut String) -> bool {
    let Some(value) = value.filter(|value| scan::kind(value) != Some(Json::Null)) else { return false };
    match scan::string_of(value) {
        Some(text) => out.push_str(&text),
        None => out.push_str(value),
    }
    true
}

fn get(call: &Call<'_>) -> Result<ArrayRef> {
    let source = call.text(0)?;
    if let Ok(places) = call.int(1) {
        return call.texts(|row, out| {
            let place = usize::try_from(places.at(row)).ok();
            Ok(push(place.and_then(|place| scan::elements(source.at(row)).nth(place)), out))
        });
    }
    let names = call.text(1)?;
    let mut step = [PathStep::Field(String::new())];
    call.texts(|row, out| {
        let wanted = names.at(row);
        if !matches!(&step[0], PathStep::Field(name) if name == wanted) {
            step = [PathStep::Field(wanted.to_owned())];
        }
        Ok(push(path_of(source.at(row), &step), out))
    })
}

fn at_path(call: &Call<'_>, push: fn(Option<&str>, &mut String) -> bool) -> Result<ArrayRef> {
    let (source, mut paths) = (call.text(0)?, Paths::new(call, 1)?);
    call.texts(|row, out| Ok(push(variant::path_of(source.at(row), paths.at(row)?), out)))
}

/// The elements of an ARRAY, or of a VARIANT that is one.
fn array_size(call: &Call<'_>) -> Result<ArrayRef> {
    let call = &call.read_as(0, |from| match from {
        SqlType::Array(_) => from.clone(),
        SqlType::Vector(_) => SqlType::Array(Box::new(SqlType::Float32)),
        _ => SqlType::Variant,
    })?;
    let (array, _, constant) = call.raw(0)?;
    if let Some(list) = array.as_list_opt::<i32>() {
        return call.integers(|row| {
            let place = if constant { 0 } else { row };
            Ok(list.is_valid(place).then(|| list.value_length(place).into()))
        });
    }
    let source = call.text(0)?;
    call.integers(|row| {
        let value = source.at(row);
        let is_array = scan::kind(value) == Some(Json::Array);
        Ok(is_array.then(|| scan::elements(value).count() as i64))
    })
}

/// What is wrong with text as JSON; NULL where nothing is.
fn check_json(call: &Call<'_>) -> Result<ArrayRef> {
    if is_variant(call)? {
        return Ok(new_null_array(&call.returns.to_arrow(), call.rows()));
    }
    let call = &call.read_as(0, |_| SqlType::String)?;
    let source = call.text(0)?;
    let mut scratch = String::new();
    call.texts(|row, out| {
        scratch.clear();
        match canonical_into(source.at(row), MAX_NESTING, &mut scratch) {
            Ok(()) => Ok(false),
            Err(error) => Ok(push(Some(&error.to_string()), out)),
        }
    })
}

fn is_variant(call: &Call<'_>) -> Result<bool> {
    Ok(SqlType::from_arrow_field(call.raw(0)?.1)? == SqlType::Variant)
}

/// What is no VARIANT is none of its types.
fn only_variant(call: &Call<'_>, body: impl FnOnce() -> Result<ArrayRef>) -> Result<ArrayRef> {
    if !is_variant(call)? {
        return Ok(new_null_array(&call.returns.to_arrow(), call.rows()));
    }
    body()
}

/// The error of arguments that are no pairs.
fn unpaired(name: &str, count: usize) -> Error {
    Error::invalid(format!("{name} takes pairs of a key and a value, not {count} of them"))
}
