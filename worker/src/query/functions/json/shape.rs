//! JSON text walked over and written again: indented, without nulls, its keys.

use arrow::array::ArrayRef;
use stevedore_common::Result;
use stevedore_decode::variant::scan::{self, Kind as Json};

use crate::query::functions::call::Call;

/// The keys of an object as an array; NULL of other values.
pub(super) fn object_keys(call: &Call<'_>) -> Result<ArrayRef> {
    let source = call.text(0)?;
    call.texts(|row, out| {
        let value = source.at(row);
        if scan::kind(value) != Some(Json::Object) {
            return Ok(false);
        }
        out.push('[');
        for (n, (key, _)) in scan::members(value).enumerate() {
            if n > 0 {
                out.push(',');
            }
            out.push('"');
            out.push_str(key);
            out.push('"');
        }
        out.push(']');
        Ok(true)
    })
}

/// Indented by two spaces.
pub(super) fn pretty(value: &str, depth: usize, out: &mut String) {
    let line = |depth: usize, first: bool, out: &mut String| {
        out.push_str(if first { "\n" } else { ",\n" });
        out.extend(std::iter::repeat_n("  ", depth));
    };
    match scan::kind(value) {
        Some(Json::Object) if scan::members(value).next().is_some() => {
            out.push('{');
            for (n, (key, member)) in scan::members(value).enumerate() {
                line(depth + 1, n == 0, out);
                out.push('"');
                out.push_str(key);
                out.push_str("\": ");
                pretty(member, depth + 1, out);
            }
            line(depth, true, out);
            out.push('}');
        }
        Some(Json::Array) if scan::elements(value).next().is_some() => {
            out.push('[');
            for (n, element) in scan::elements(value).enumerate() {
                line(depth + 1, n == 0, out);
                pretty(element, depth + 1, out);
            }
            line(depth, true, out);
            out.push(']');
        }
        _ => out.push_str(value.trim()),
    }
}

/// Without the members of objects that are null, at every depth. Elements of arrays keep their places.
pub(super) fn strip_nulls(value: &str, out: &mut String) {
    match scan::kind(value) {
        Some(Json::Object) => {
            out.push('{');
            let members = scan::members(value).filter(|(_, member)| scan::kind(member) != Some(Json::Null));
            for (n, (key, member)) in members.enumerate() {
                if n > 0 {
                    out.push(',');
                }
                out.push('"');
                out.push_str(key);
                out.push_str("\":");
                strip_nulls(member, out);
            }
            out.push('}');
        }
        Some(Json::Array) => {
            out.push('[');
            for (n, element) in scan::elements(value).enumerate() {
                if n > 0 {
                    out.push(',');
                }
                strip_nulls(element, out);
            }
            out.push(']');
        }
        _ => out.push_str(value.trim()),
    }
}
