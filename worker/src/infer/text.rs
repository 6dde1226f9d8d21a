//! Which types the text of a field has.
//!
//! A type is only said where every value of the column reads as that type and means the same: digits with
//! leading zeros, integers beyond 64 bits and `t` or `f` stay text.

use stevedore_common::merged_type::merged;
use stevedore_common::types::SqlType;
use stevedore_decode::parse::datetime::{Zone, parse_date, parse_timestamp};
use stevedore_decode::parse::number::{parse_float, parse_integer};

use super::columns::FileColumn;

/// The longest text that may be something else than text.
const LONGEST: usize = 64;

/// The type of the values of a field so far.
#[derive(Debug, Default)]
pub(super) struct FieldTypes {
    ty: Option<SqlType>,
}

impl FieldTypes {
    /// Adds a value; an empty one says nothing.
    pub(super) fn add(&mut self, text: &str, nan: &str) {
        if text.is_empty() || self.ty == Some(SqlType::String) {
            return;
        }
        self.ty = merged(self.ty.take(), Some(type_of(text, nan)));
    }
}

fn type_of(text: &str, nan: &str) -> SqlType {
    let text = text.trim_ascii();
    let bytes = text.as_bytes();
    if bytes.is_empty() || bytes.len() > LONGEST {
        return SqlType::String;
    }
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    match digits {
        [b'0', b'0'..=b'9', ..] => SqlType::String,
        [first, ..] if first.is_ascii_digit() || *first == b'.' => {
            if digits.iter().all(u8::is_ascii_digit) {
                return match parse_integer::<i64>(bytes, false) {
                    Ok(_) => SqlType::Int64,
                    Err(_) => SqlType::String,
                };
            }
            if parse_float::<f64>(bytes, nan.as_bytes()).is_ok() {
                return SqlType::Float64;
            }
            if bytes.len() <= 10 && parse_date(bytes).is_ok() {
                return SqlType::Date;
            }
            if parse_timestamp(bytes, Zone::Utc).is_ok() {
                return SqlType::Timestamp;
            }
            SqlType::String
        }
        _ if text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false") => SqlType::Boolean,
        _ if text == nan => SqlType::Float64,
        _ => SqlType::String,
    }
}

/// The columns of records: by the header's names, else `c1`, `c2`, …
pub(super) fn columns(names: &[Option<String>], fields: &[FieldTypes]) -> Vec<FileColumn> {
    let mut taken: Vec<String> = Vec::new();
    (0..names.len().max(fields.len()))
        .map(|place| {
            let given = names.get(place).cloned().flatten().filter(|name| !name.is_empty());
            let plain = given.unwrap_or_else(|| format!("c{}", place + 1));
            let mut name = plain.clone();
            let mut n = 2;
            while taken.iter().any(|other| other.eq_ignore_ascii_case(&name)) {
                name = format!("{plain}_{n}");
                n += 1;
            }
            taken.push(name.clone());
            FileColumn { name, ty: fields.get(place).and_then(|field| field.ty.clone()), nullable: true }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(values: &[&str]) -> String {
        let mut field = FieldTypes::default();
        values.iter().for_each(|value| field.add(value, "NaN"));
        field.ty.map_or("-".to_owned(), |ty| ty.to_string())
    }

    #[test]
    fn values_of_one_kind_have_its_type() {
        assert_eq!(column(&["1", "-20", "", "0", " 7 "]), "BIGINT");
        assert_eq!(column(&["1", "2.5", "-.5", "1e3", "NaN"]), "DOUBLE");
        assert_eq!(column(&["true", "FALSE"]), "BOOLEAN");
        assert_eq!(column(&["2024-05-01", "1999-12-31"]), "DATE");
        assert_eq!(column(&["2024-05-01 10:00:00", "2024-05-01T10:00:00.5Z", "2024-05-01"]), "TIMESTAMP");
        assert_eq!(column(&["", ""]), "-");
    }

    #[test]
    fn what_would_change_as_another_type_is_text() {
        for values in [
            &["007"][..],
            &["-01.5"],
            &["12345678901234567890"],
            &["+49123"],
            &["t"],
            &["1", "x"],
            &["1", "true"],
            &["2024-13-01"],
            &["2024-05-01", "3"],
            &["inf"],
            &["192.168.0.1"],
            &["1-2"],
        ] {
            assert_eq!(column(values), "VARCHAR", "{values:?}");
        }
    }

    #[test]
    fn names_are_complete_and_differ() {
        let header = ["id", "", "ID"].map(|name| Some(name.to_owned()));
        let fields: Vec<FieldTypes> = (0..4).map(|_| FieldTypes::default()).collect();
        let names: Vec<String> = columns(&header, &fields).into_iter().map(|column| column.name).collect();
        assert_eq!(names, ["id", "c2", "ID_2", "c4"]);
    }
}
