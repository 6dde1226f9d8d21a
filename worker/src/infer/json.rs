//! Which columns JSON objects have: BIGINT, DOUBLE where a number has a fraction, BOOLEAN, VARCHAR where
//! scalars differ, VARIANT where a value is nested. In order of appearance.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use stevedore_common::merged_type::merged;
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result as AnyResult};

use super::columns::FileColumn;

/// The most columns of a file.
const MOST_COLUMNS: usize = 10_000;

/// The columns of the objects so far.
#[derive(Debug, Default)]
pub(super) struct Objects {
    columns: Vec<(String, Option<SqlType>)>,
    places: HashMap<String, usize>,
}

impl Objects {
    /// Adds a record.
    ///
    /// # Errors
    /// Why it is no JSON object.
    pub(super) fn add(&mut self, record: &str) -> Result<(), String> {
        let Members(members) = serde_json::from_str(record).map_err(|e| format!("invalid JSON: {e}"))?;
        for (name, ty) in members {
            if self.columns.len() > MOST_COLUMNS {
                break;
            }
            let next = self.columns.len();
            let place = *self.places.entry(name.clone()).or_insert(next);
            match self.columns.get_mut(place) {
                Some((_, known)) => *known = merged(known.take(), ty),
                None => self.columns.push((name, ty)),
            }
        }
        Ok(())
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

/// The members of an object with the types of their values; `None` is null.
struct Members(Vec<(String, Option<SqlType>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some((name, Kind(ty))) = map.next_entry::<String, Kind>()? {
                    members.push((name, ty));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

struct Kind(Option<SqlType>);

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Kind;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Kind, E> {
                Ok(Kind(None))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Kind, E> {
                Ok(Kind(Some(SqlType::Boolean)))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Kind, E> {
                Ok(Kind(Some(SqlType::Int64)))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
                let fits = i64::try_from(value).is_ok();
                Ok(Kind(Some(if fits { SqlType::Int64 } else { SqlType::Float64 })))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Kind, E> {
                Ok(Kind(Some(SqlType::Float64)))
            }
            fn visit_str<E>(self, _: &str) -> Result<Kind, E> {
                Ok(Kind(Some(SqlType::String)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Kind(Some(SqlType::Variant)))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Kind(Some(SqlType::Variant)))
            }
        }
        deserializer.deserialize_any(Any)
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
        let mut objects = Objects::default();
        for n in 0..=MOST_COLUMNS {
            objects.add(&format!("{{\"{n}\": 1}}"))?;
        }
        assert!(objects.finish().is_err_and(|error| error.to_string().contains("more than 10000 fields")));
        Ok(())
    }

    #[test]
    fn columns_of_records_merge_as_the_dialect_says() -> Result<(), String> {
        let mut objects = Objects::default();
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
            ("big", Some("DOUBLE")),
        ];
        let expected = expected.map(|(name, ty)| (name.to_owned(), ty.map(str::to_owned)));
        assert_eq!(columns, expected);
        Ok(())
    }
}
