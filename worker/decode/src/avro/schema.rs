//! The schema of a file, made plain for the library: named types in the places that use them, only the
//! attributes that decide about types.
//!
//! Plain schemas keep us clear of what the library refuses or gets wrong (references in projections,
//! logical types that are not valid, UUIDs that are none and would fail the file rather than the row), and
//! of what would make it work without end (lists whose items take no bytes).

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use stevedore_common::error::{Error, Result};

/// The attribute that marks a fixed of 16 bytes as a UUID.
pub(super) const UUID_MARK: &str = "stevedore.uuid";
/// Types in a schema, once named ones stand where they are used.
const MAX_TYPES: usize = 20_000;
/// The deepest nesting.
const MAX_DEPTH: usize = 100;

/// A schema made plain.
#[derive(Debug, Clone)]
pub(super) struct PlainSchema {
    pub(super) json: Value,
    /// The largest fixed in it, in bytes.
    pub(super) largest_fixed: u64,
}

/// Makes a schema plain; without logical types where `logical` says so.
///
/// # Errors
/// Bad data for what is no schema of records; not supported for types that contain themselves.
pub(super) fn plain(schema: &Value, logical: bool) -> Result<PlainSchema> {
    let mut walk = Walk { logical, named: HashMap::new(), types: 0, largest_fixed: 0 };
    let root = walk.visit(schema, "", 0)?;
    if root.json.get("type").and_then(Value::as_str) != Some("record") {
        return Err(Error::bad_data("the values of the Avro file are no records, so they have no columns"));
    }
    Ok(PlainSchema { json: root.json, largest_fixed: walk.largest_fixed })
}

/// A type made plain.
#[derive(Clone)]
struct Plain {
    json: Value,
    /// Whether values may take no bytes at all.
    may_be_empty: bool,
}

impl Plain {
    fn of(json: Value) -> Self {
        Self { json, may_be_empty: false }
    }
}

/// A named type, and the namespace around it.
type Definition<'a> = (&'a Map<String, Value>, String);

struct Walk<'a> {
    logical: bool,
    /// Definitions by full name; `None` while we are within one.
    named: HashMap<String, Option<Definition<'a>>>,
    types: usize,
    largest_fixed: u64,
}

fn invalid(what: &str) -> Error {
    Error::bad_data(format!("the schema of the Avro file is not valid: {what}"))
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a str> {
    object.get(key).and_then(Value::as_str).ok_or_else(|| invalid(&format!("a type lacks its {key}")))
}

impl<'a> Walk<'a> {
    fn visit(&mut self, schema: &'a Value, namespace: &str, depth: usize) -> Result<Plain> {
        self.types += 1;
        if self.types > MAX_TYPES || depth > MAX_DEPTH {
            return Err(Error::not_supported("Avro schemas this large or nested this deep"));
        }
        match schema {
            Value::String(name) => self.by_name(name, namespace, depth),
            Value::Array(branches) => {
                let branches =
                    branches.iter().map(|branch| Ok(self.visit(branch, namespace, depth + 1)?.json));
                Ok(Plain::of(Value::Array(branches.collect::<Result<_>>()?)))
            }
            Value::Object(object) => match object.get("type") {
                Some(Value::String(kind)) => self.object(kind, object, namespace, depth),
                Some(inner) => self.visit(inner, namespace, depth + 1),
                None => Err(invalid("an object has no type")),
            },
            other => Err(invalid(&format!("{other} stands where a type is expected"))),
        }
    }

    fn by_name(&mut self, name: &str, namespace: &str, depth: usize) -> Result<Plain> {
        if name == "null" {
            return Ok(Plain { json: json!("null"), may_be_empty: true });
        }
        if is_primitive(name) {
            return Ok(Plain::of(json!(name)));
        }
        let within = if name.contains('.') { name.to_owned() } else { full_name(name, namespace) };
        let found = self.named.get_key_value(&within).or_else(|| self.named.get_key_value(name));
        match found {
            Some((key, Some((definition, around)))) => {
                let (key, definition, around) = (key.clone(), *definition, around.clone());
                let kind = text(definition, "type")?;
                self.define(&key, kind, definition, &around, depth)
            }
            Some((_, None)) => Err(Error::not_supported(format!(
                "Avro records that contain themselves (type '{}')",
                crate::errors::cut(name)
            ))),
            None => Err(invalid(&format!("there is no type '{}'", crate::errors::cut(name)))),
        }
    }

    fn object(
        &mut self,
        kind: &'a str,
        object: &'a Map<String, Value>,
        namespace: &str,
        depth: usize,
    ) -> Result<Plain> {
        match kind {
            "record" | "error" | "enum" | "fixed" => {
                let name = text(object, "name")?;
                let around = match (name.rsplit_once('.'), object.get("namespace").and_then(Value::as_str)) {
                    (Some((namespace, _)), _) => namespace,
                    (None, Some(namespace)) => namespace,
                    (None, None) => namespace,
                };
                let simple = name.rsplit_once('.').map_or(name, |(_, simple)| simple);
                self.define(&full_name(simple, around), kind, object, around, depth)
            }
            "array" | "map" => {
                let key = if kind == "array" { "items" } else { "values" };
                let inner = object.get(key).ok_or_else(|| invalid(&format!("an {kind} lacks its {key}")))?;
                let inner = self.visit(inner, namespace, depth + 1)?;
                if inner.may_be_empty && kind == "array" {
                    return Err(Error::not_supported("Avro arrays whose items hold nothing"));
                }
                Ok(Plain::of(json!({ "type": kind, key: inner.json })))
            }
            primitive if is_primitive(primitive) && primitive != "null" => {
                Ok(Plain::of(self.primitive(primitive, object)))
            }
            name => self.by_name(name, namespace, depth + 1),
        }
    }

    /// A type with a name; its content is walked again wherever it is used.
    fn define(
        &mut self,
        key: &str,
        kind: &str,
        object: &'a Map<String, Value>,
        namespace: &str,
        depth: usize,
    ) -> Result<Plain> {
        self.named.insert(key.to_owned(), None);
        self.types += 1;
        // Each use is a type of its own.
        let name = format!("t{}", self.types);
        let plain = match kind {
            "enum" => {
                let symbols = object.get("symbols").and_then(Value::as_array);
                let symbols = symbols.filter(|list| list.iter().all(Value::is_string));
                let symbols = symbols.ok_or_else(|| invalid("an enum lacks its symbols"))?;
                Plain::of(json!({ "type": "enum", "name": name, "symbols": symbols }))
            }
            "fixed" => {
                let size = object.get("size").and_then(Value::as_u64).filter(|size| *size <= i32::MAX as u64);
                let size = size.ok_or_else(|| invalid("a fixed lacks its size"))?;
                self.largest_fixed = self.largest_fixed.max(size);
                Plain { json: self.fixed(&name, size, object), may_be_empty: size == 0 }
            }
            _ => {
                let fields = object.get("fields").and_then(Value::as_array);
                let fields = fields.ok_or_else(|| invalid("a record lacks its fields"))?;
                let mut plain = Vec::with_capacity(fields.len());
                let mut may_be_empty = true;
                for field in fields {
                    let field = field.as_object().ok_or_else(|| invalid("a field is no object"))?;
                    let ty = field.get("type").ok_or_else(|| invalid("a field lacks its type"))?;
                    let ty = self.visit(ty, namespace, depth + 1)?;
                    may_be_empty &= ty.may_be_empty;
                    plain.push(json!({ "name": text(field, "name")?, "type": ty.json }));
                }
                Plain { json: json!({ "type": "record", "name": name, "fields": plain }), may_be_empty }
            }
        };
        self.named.insert(key.to_owned(), Some((object, namespace.to_owned())));
        Ok(plain)
    }

    fn logical_type<'b>(&self, object: &'b Map<String, Value>) -> &'b str {
        let logical = object.get("logicalType").and_then(Value::as_str).unwrap_or_default();
        if self.logical { logical } else { "" }
    }

    fn primitive(&self, kind: &str, object: &Map<String, Value>) -> Value {
        let logical = self.logical_type(object);
        match (kind, logical) {
            ("bytes", "decimal") => match decimal(object, None) {
                Some((precision, scale)) => {
                    json!({ "type": kind, "logicalType": logical, "precision": precision, "scale": scale })
                }
                None => json!(kind),
            },
            ("int", "date" | "time-millis")
            | (
                "long",
                "time-micros"
                | "timestamp-millis"
                | "timestamp-micros"
                | "timestamp-nanos"
                | "local-timestamp-millis"
                | "local-timestamp-micros"
                | "local-timestamp-nanos",
            ) => json!({ "type": kind, "logicalType": logical }),
            // UUIDs in text stay the text that they are; others are to be ignored.
            _ => json!(kind),
        }
    }

    fn fixed(&self, name: &str, size: u64, object: &Map<String, Value>) -> Value {
        let mut json = json!({ "type": "fixed", "name": name, "size": size });
        match self.logical_type(object) {
            "decimal" => {
                if let Some((precision, scale)) = decimal(object, Some(size)) {
                    json["logicalType"] = "decimal".into();
                    json["precision"] = precision.into();
                    json["scale"] = scale.into();
                }
            }
            "duration" if size == 12 => json["logicalType"] = "duration".into(),
            "uuid" if size == 16 => json[UUID_MARK] = true.into(),
            _ => {}
        }
        json
    }
}

fn is_primitive(name: &str) -> bool {
    matches!(name, "null" | "boolean" | "int" | "long" | "float" | "double" | "bytes" | "string")
}

fn full_name(name: &str, namespace: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

/// Precision and scale of a decimal, where they are valid.
fn decimal(object: &Map<String, Value>, size: Option<u64>) -> Option<(u64, u64)> {
    let precision = object.get("precision").and_then(Value::as_u64)?;
    let scale = object.get("scale").map_or(Some(0), Value::as_u64)?;
    // The digits that so many bytes of two's complement can hold.
    let most = match size {
        Some(0) => 0,
        Some(bytes) if bytes <= 32 => ((bytes * 8 - 1) as f64 * std::f64::consts::LOG10_2).floor() as u64,
        Some(_) => 0,
        None => 76,
    };
    (1..=most.min(76)).contains(&precision).then_some(())?;
    (scale <= precision).then_some((precision, scale))
}
