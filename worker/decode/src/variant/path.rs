//! `v:a.b[0]`: values at paths, found by scanning the text.

use arrow::array::{Array, StringArray, StringBuilder};

use super::scan;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathStep {
    /// The member of an object; case-sensitive.
    Field(String),
    /// The element of an array, from 0.
    Index(usize),
}

/// The text of the value at `path`; `None` where there is none. The empty path is the value itself.
pub fn path_of<'a>(json: &'a str, path: &[PathStep]) -> Option<&'a str> {
    let mut value = json.trim_matches([' ', '\t', '\n', '\r']);
    for step in path {
        value = match step {
            // Of equal keys the last one counts, as in canonical text.
            PathStep::Field(name) => {
                scan::members(value).filter(|(key, _)| key_is(key, name)).last().map(|(_, value)| value)?
            }
            PathStep::Index(index) => scan::elements(value).nth(*index)?,
        };
    }
    Some(value)
}

fn key_is(raw: &str, name: &str) -> bool {
    raw == name || raw.contains('\\') && scan::unescape(raw) == name
}

/// The value at `path` of each row, as VARIANT; NULL where there is none. A JSON `null` that is there
/// stays `null`.
pub fn get_path(array: &StringArray, path: &[PathStep]) -> StringArray {
    if path.is_empty() {
        return array.clone();
    }
    let mut builder = StringBuilder::with_capacity(array.len(), array.value_data().len() / 4);
    for row in 0..array.len() {
        let found = if array.is_null(row) { None } else { path_of(array.value(row), path) };
        builder.append_option(found);
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_reach_members_and_elements() {
        let json = r#"{"a":{"b":[10,{"c":"x"}]}, "A":1, "q\"":true, "n":null, "d":1, "d":2}"#;
        let field = |name: &str| PathStep::Field(name.into());
        for (path, expected) in [
            (vec![field("a"), field("b"), PathStep::Index(0)], Some("10")),
            (vec![field("a"), field("b"), PathStep::Index(1), field("c")], Some("\"x\"")),
            (vec![field("a"), field("b"), PathStep::Index(2)], None),
            (vec![field("A")], Some("1")),
            (vec![field("q\"")], Some("true")),
            (vec![field("n")], Some("null")),
            (vec![field("d")], Some("2")),
            (vec![field("missing")], None),
            (vec![PathStep::Index(0)], None),
            (vec![field("A"), field("x")], None),
        ] {
            assert_eq!(path_of(json, &path), expected, "{path:?}");
        }
    }

    #[test]
    fn rows_without_the_path_are_null() {
        let array = StringArray::from(vec![Some(r#"{"a":1}"#), None, Some("[1]"), Some("not json")]);
        let found = get_path(&array, &[PathStep::Field("a".into())]);
        assert_eq!(found, StringArray::from(vec![Some("1"), None, None, None]));
    }
}
