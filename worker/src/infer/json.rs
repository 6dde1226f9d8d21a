//! Which columns JSON objects have: BIGINT, DECIMAL(38,0) where a whole number is beyond it, DOUBLE where a number has
//! a fraction, BOOLEAN, VARCHAR where scalars differ or no number holds one, VARIANT where a value is nested. In order
//! of appearance. Values are looked at as they are written, so that a number of any size is one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use stevedore_common::merged_type::{MOST_DIGITS, merged};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result as AnyResult};

use super::columns::FileColumn;

/// The most columns of a file.
const MOST_COLUMNS: usize = 10_000;

/// The columns of the objects so far.
#[derive(Debug)]
pub(crate) struct Objects {
    /// Strings that are NULL.
    null_if: Vec<String>,
    case_sensitive: bool,
    /// One more than these are kept.
    most_columns: usize,
    columns: Vec<(String, Option<SqlType>)>,
    /// By name; where it is not case-sensitive by that in lower case.
    places: HashMap<String, usize>,
}

impl Objects {
    pub(crate) fn new(null_if: Vec<String>, case_sensitive: bool) -> Self {
        Self {
            null_if,
            case_sensitive,
            most_columns: usize::MAX,
            columns: Vec::new(),
            places: HashMap::new(),
        }
    }

    /// The same for records that are refused where they have too many columns.
    pub(super) fn bounded(self) -> Self {
        Self { most_columns: MOST_COLUMNS, ..self }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// Why it is no JSON object.
    pub(crate) fn add(&mut self, record: &str) -> Result<(), String> {
        let Members(members) = serde_json::from_str(record).map_err(|e| format!("invalid JSON: {e}"))?;
        for (name, value) in members {
            if self.columns.len() > self.most_columns {
                break;
            }
            let ty = self.type_of(value.get());
            let next = self.columns.len();
            let key = if self.case_sensitive { name.to_string() } else { name.to_lowercase() };
            let place = *self.places.entry(key).or_insert(next);
            match self.columns.get_mut(place) {
                Some((_, known)) => *known = merged(known.take(), ty),
                None => self.columns.push((name.into_owned(), ty)),
            }
        }
        Ok(())
    }

    /// The type of a value as it is written; `None` is null.
    fn type_of(&self, value: &str) -> Option<SqlType> {
        Some(match value.as_bytes().first() {
            Some(b'n') | None => return None,
            Some(b't' | b'f') => SqlType::Boolean,
            Some(b'{' | b'[') => SqlType::Variant,
            Some(b'"') if self.is_null(value) => return None,
            Some(b'"') => SqlType::String,
            Some(_) => number(value),
        })
    }

    fn is_null(&self, string: &str) -> bool {
        !self.null_if.is_empty()
            && serde_json::from_str::<Cow<'_, str>>(string)
                .is_ok_and(|text| self.null_if.iter().any(|null| *null == text))
    }

    /// The columns with their types; without one where only nulls were seen.
    pub(crate) fn types(self) -> Vec<(String, Option<SqlType>)> {
        self.columns
    }

    /// The columns.
    ///
    /// # Errors
    /// Invalid input for names that are data rather than columns.
    pub(super) fn finish(self) -> AnyResult<Vec<FileColumn>> {
        if self.columns.len() > MOST_COLUMNS {
            return Err(Error::invalid(format!(
                "the records have more than {MOST_COLUMNS} fields of different names"
            ))
            .hint("load them as one VARIANT column: COPY INTO t FROM (SELECT $1 FROM …)"));
        }
        let column = |(name, ty)| FileColumn { name, ty, nullable: true };
        Ok(self.columns.into_iter().map(column).collect())
    }
}

/// The type of a number: text where no type of numbers holds it.
fn number(text: &str) -> SqlType {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_whole = digits.bytes().all(|byte| byte.is_ascii_digit());
    match is_whole {
        true if text.parse::<i64>().is_ok() => SqlType::Int64,
        true if digits.len() <= usize::from(MOST_DIGITS) => SqlType::Decimal(MOST_DIGITS, 0),
        false if text.parse::<f64>().is_ok_and(f64::is_finite) => SqlType::Float64,
        _ => SqlType::String,
    }
}

/// The members of an object with their values as they are written.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A name, borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }
            fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(objects: Objects) -> Vec<FileColumn> {
        objects.finish().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn names_without_end_are_refused() -> Result<(), String> {
        let mut objects = Objects::new(Vec::new(), false).bounded();
        for n in 0..=MOST_COLUMNS {
            objects.add(&format!("{{\"{n}\": 1}}"))?;
        }
        assert!(objects.finish().is_err_and(|error| error.to_string().contains("more than 10000 fields")));
        Ok(())
    }

    #[test]
    fn columns_of_records_merge_as_the_dialect_says() -> Result<(), String> {
        let mut objects = Objects::new(Vec::new(), false);
        objects.add(r#"{"v":{"k":1},"a":1,"b":"x","n":null,"s":true}"#)?;
        objects.add(r#"{"a":1.5,"b":"y","c":2,"s":"t","v":null,"big":18446744073709551615}"#)?;
        assert!(objects.add("[1]").is_err_and(|reason| reason.contains("an object")));
        assert!(objects.add("{\"a\":").is_err_and(|reason| reason.contains("invalid JSON")));
        let columns: Vec<(String, Option<String>)> =
            finish(objects).into_iter().map(|c| (c.name, c.ty.map(|ty| ty.to_string()))).collect();
        let expected = [
            ("v", Some("VARIANT")),
            ("a", Some("DOUBLE")),
            ("b", Some("VARCHAR")),
            ("n", None),
            ("s", Some("VARCHAR")),
            ("c", Some("BIGINT")),
            ("big", Some("DECIMAL(38, 0)")),
        ];
        let expected = expected.map(|(name, ty)| (name.to_owned(), ty.map(str::to_owned)));
        assert_eq!(columns, expected);
        Ok(())
    }

    fn types(null_if: &[&str], records: &[&str]) -> Result<String, String> {
        let mut objects = Objects::new(null_if.iter().map(|null| (*null).to_owned()).collect(), false);
        records.iter().try_for_each(|record| objects.add(record))?;
        let shown = |(name, ty): (String, Option<SqlType>)| {
            format!("{name} {}", ty.map_or("-".to_owned(), |ty| ty.to_string()))
        };
        Ok(objects.types().into_iter().map(shown).collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn numbers_of_any_size_have_a_type_that_holds_them() -> Result<(), String> {
        let big = "{\"n\":18446744073709551615}";
        assert_eq!(types(&[], &[big, "{\"n\":9007199254740993}"])?, "n DECIMAL(38, 0)");
        assert_eq!(types(&[], &[big, "{\"n\":0.5}"])?, "n DOUBLE");
        let too_long = format!("{{\"n\":-1{}}}", "0".repeat(38));
        assert_eq!(types(&[], &["{\"n\":1}", &too_long])?, "n VARCHAR");
        assert_eq!(types(&[], &["{\"t\":1,\"big\":1e400}"])?, "t BIGINT, big VARCHAR");
        Ok(())
    }

    #[test]
    fn strings_that_are_null_have_no_type() -> Result<(), String> {
        let records = [r#"{"a":"NA","b":"\u004eA"}"#, r#"{"a":5,"b":"x"}"#];
        assert_eq!(types(&["NA"], &records)?, "a BIGINT, b VARCHAR");
        assert_eq!(types(&["NA"], &records[..1])?, "a -, b -");
        assert_eq!(types(&[], &records)?, "a VARCHAR, b VARCHAR");
        Ok(())
    }

    #[test]
    fn names_that_differ_in_case_are_one_column() -> Result<(), String> {
        assert_eq!(types(&[], &[r#"{"id":1}"#, r#"{"ID":2.5,"\u0049d":null}"#])?, "id DOUBLE");
        let mut objects = Objects::new(Vec::new(), true);
        objects.add(r#"{"id":1,"ID":2}"#)?;
        assert_eq!(objects.types().len(), 2);
        Ok(())
    }
}
