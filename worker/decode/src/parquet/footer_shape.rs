//! Whether a footer is what it claims to be, before the library takes memory and stack for it.
//!
//! Comes in: the metadata as written (Thrift's compact protocol). Goes out: nothing, or what is wrong. The
//! library takes memory for as many items as a list claims, and descends as deep as the schema goes; where
//! damaged or hostile bytes claim more than there is, the process would end. So every list is walked to its
//! end here, and the depth of the schema is bounded. Values are left to the library to judge.

/// Groups within groups of a schema.
const MAX_DEPTH: usize = 100;
/// Structures within structures that nobody knows.
const MAX_NESTING: usize = 32;
/// The least bytes of an item that is a structure: a field and the end.
const LEAST_STRUCT: usize = 3;

/// Types of values in the compact protocol.
pub(super) mod kind {
    pub(in crate::parquet) const TRUE: u8 = 1;
    pub(in crate::parquet) const FALSE: u8 = 2;
    pub(in crate::parquet) const BYTE: u8 = 3;
    pub(in crate::parquet) const I16: u8 = 4;
    pub(in crate::parquet) const I32: u8 = 5;
    pub(in crate::parquet) const I64: u8 = 6;
    pub(in crate::parquet) const DOUBLE: u8 = 7;
    pub(in crate::parquet) const BINARY: u8 = 8;
    pub(in crate::parquet) const LIST: u8 = 9;
    pub(in crate::parquet) const SET: u8 = 10;
    pub(in crate::parquet) const MAP: u8 = 11;
    pub(in crate::parquet) const STRUCT: u8 = 12;
    pub(in crate::parquet) const UUID: u8 = 13;
}

/// What a field is. The library reads the fields that it knows as these, whatever type they say they are.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Bool,
    Byte,
    /// Of any size: they are written alike.
    Integer,
    Double,
    Binary,
    List(&'static Shape),
    Struct(Fields),
    /// An element of the schema.
    Element,
}

/// Fields by their ids; others are skipped.
type Fields = &'static [(i16, Shape)];

use Shape::{Binary, Bool, Byte, Double, Element, Integer, List, Struct};

const FILE: Fields = &[
    (1, Integer),
    (2, List(&Element)),
    (3, Integer),
    (4, List(&Struct(ROW_GROUP))),
    (5, List(&Struct(KEY_VALUE))),
    (6, Binary),
    (7, List(&Struct(&[(1, Struct(&[]))]))),
    (8, Struct(&[(1, Struct(AES)), (2, Struct(AES))])),
    (9, Binary),
];
const SCHEMA_ELEMENT: Fields = &[
    (1, Integer),
    (2, Integer),
    (3, Integer),
    (4, Binary),
    (CHILDREN, Integer),
    (6, Integer),
    (7, Integer),
    (8, Integer),
    (9, Integer),
    (10, Struct(LOGICAL_TYPE)),
];
/// The field of a schema's element that says how many of the following are within it.
const CHILDREN: i16 = 5;
const LOGICAL_TYPE: Fields = &[
    (1, Struct(&[])),
    (2, Struct(&[])),
    (3, Struct(&[])),
    (4, Struct(&[])),
    (5, Struct(&[(1, Integer), (2, Integer)])),
    (6, Struct(&[])),
    (7, Struct(TIME)),
    (8, Struct(TIME)),
    (10, Struct(&[(1, Byte), (2, Bool)])),
    (11, Struct(&[])),
    (12, Struct(&[])),
    (13, Struct(&[])),
    (14, Struct(&[])),
    (15, Struct(&[])),
    (16, Struct(&[(1, Byte)])),
    (17, Struct(&[(1, Binary)])),
    (18, Struct(&[(1, Binary), (2, Integer)])),
];
const TIME: Fields = &[(1, Bool), (2, Struct(&[(1, Struct(&[])), (2, Struct(&[])), (3, Struct(&[]))]))];
const ROW_GROUP: Fields = &[
    (1, List(&Struct(COLUMN))),
    (2, Integer),
    (3, Integer),
    (4, List(&Struct(&[(1, Integer), (2, Bool), (3, Bool)]))),
    (5, Integer),
    (6, Integer),
    (7, Integer),
];
const COLUMN: Fields = &[
    (1, Binary),
    (2, Integer),
    (3, Struct(COLUMN_METADATA)),
    (4, Integer),
    (5, Integer),
    (6, Integer),
    (7, Integer),
    (8, Struct(&[(1, Struct(&[])), (2, Struct(&[(1, List(&Binary)), (2, Binary)]))])),
    (9, Binary),
];
const COLUMN_METADATA: Fields = &[
    (1, Integer),
    (2, List(&Integer)),
    (3, List(&Binary)),
    (4, Integer),
    (5, Integer),
    (6, Integer),
    (7, Integer),
    (8, List(&Struct(KEY_VALUE))),
    (9, Integer),
    (10, Integer),
    (11, Integer),
    (12, Struct(STATISTICS)),
    (13, List(&Struct(&[(1, Integer), (2, Integer), (3, Integer)]))),
    (14, Integer),
    (15, Integer),
    (16, Struct(&[(1, Integer), (2, List(&Integer)), (3, List(&Integer))])),
    (17, Struct(&[(1, Struct(BOX)), (2, List(&Integer))])),
];
const STATISTICS: Fields =
    &[(1, Binary), (2, Binary), (3, Integer), (4, Integer), (5, Binary), (6, Binary), (7, Bool), (8, Bool)];
const BOX: Fields =
    &[(1, Double), (2, Double), (3, Double), (4, Double), (5, Double), (6, Double), (7, Double), (8, Double)];
const KEY_VALUE: Fields = &[(1, Binary), (2, Binary)];
const AES: Fields = &[(1, Binary), (2, Binary), (3, Bool)];

impl Shape {
    fn is(self, kind: u8) -> bool {
        match self {
            Bool => matches!(kind, kind::TRUE | kind::FALSE),
            Byte => kind == kind::BYTE,
            Integer => matches!(kind, kind::I16 | kind::I32 | kind::I64),
            Double => kind == kind::DOUBLE,
            Binary => kind == kind::BINARY,
            List(_) => kind == kind::LIST,
            Struct(_) | Element => kind == kind::STRUCT,
        }
    }
}

/// Walks the metadata.
///
/// # Errors
/// What is wrong with them.
pub(super) fn check(metadata: &[u8]) -> Result<(), &'static str> {
    Walk::new(metadata).fields(FILE).map(drop)
}

pub(super) type Walked<T> = Result<T, &'static str>;

const CUT_OFF: &str = "it is cut off";
const WRONG_TYPE: &str = "a field is not of its type";

/// Reads the compact protocol.
pub(super) struct Walk<'a> {
    rest: &'a [u8],
    /// For each group of the schema that is open, how many elements of it are still to come.
    open: Vec<i64>,
}

impl<'a> Walk<'a> {
    /// From the first of these bytes on.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, open: Vec::new() }
    }

    /// What is left.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// A text, or bytes.
    pub(super) fn binary(&mut self) -> Walked<&'a [u8]> {
        let length = usize::try_from(self.varint()?).map_err(|_| CUT_OFF)?;
        let (value, rest) = self.rest.split_at_checked(length).ok_or(CUT_OFF)?;
        self.rest = rest;
        Ok(value)
    }

    /// Passes over the value of a field.
    pub(super) fn skip_field(&mut self, kind: u8) -> Walked<()> {
        // The value is the type.
        if matches!(kind, kind::TRUE | kind::FALSE) { Ok(()) } else { self.unknown(kind, 0) }
    }

    /// The next byte.
    pub(super) fn byte(&mut self) -> Walked<u8> {
        let (byte, rest) = self.rest.split_first().ok_or(CUT_OFF)?;
        self.rest = rest;
        Ok(*byte)
    }

    /// Passes over so many bytes.
    pub(super) fn skip(&mut self, bytes: u64) -> Walked<()> {
        let bytes = usize::try_from(bytes).map_err(|_| CUT_OFF)?;
        self.rest = self.rest.get(bytes..).ok_or(CUT_OFF)?;
        Ok(())
    }

    /// A number without sign.
    pub(super) fn varint(&mut self) -> Walked<u64> {
        let mut value = 0u64;
        for place in 0..10 {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(7 * place).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number does not end")
    }

    pub(super) fn zigzag(&mut self) -> Walked<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The id and type of the next field; `None` at the end of the structure.
    pub(super) fn field(&mut self, last: i16) -> Walked<Option<(i16, u8)>> {
        let head = self.byte()?;
        if head == 0 {
            return Ok(None);
        }
        let id = match head >> 4 {
            0 => i16::try_from(self.zigzag()?).map_err(|_| "a field has no number")?,
            step => last.checked_add(i16::from(step)).ok_or("a field has no number")?,
        };
        Ok(Some((id, head & 0x0f)))
    }

    /// Walks a structure and answers its field [`CHILDREN`], where it is a number.
    fn fields(&mut self, known: Fields) -> Walked<i64> {
        let mut last = 0;
        let mut children = 0;
        while let Some((id, kind)) = self.field(last)? {
            last = id;
            match known.iter().find(|(known, _)| *known == id) {
                Some((_, shape)) if !shape.is(kind) => return Err(WRONG_TYPE),
                // The value is the type.
                Some((_, Bool)) => {}
                Some((CHILDREN, Integer)) => children = self.zigzag()?,
                Some((_, shape)) => self.known(*shape)?,
                None => self.skip_field(kind)?,
            }
        }
        Ok(children)
    }

    fn known(&mut self, shape: Shape) -> Walked<()> {
        match shape {
            Bool | Byte => self.byte().map(drop),
            Integer => self.varint().map(drop),
            Double => self.skip(8),
            Binary => self.binary().map(drop),
            List(item) => {
                let (kind, size) = self.list()?;
                if size > 0 && !item.is(kind) {
                    return Err(WRONG_TYPE);
                }
                for _ in 0..size {
                    self.known(*item)?;
                }
                Ok(())
            }
            Struct(fields) => self.fields(fields).map(drop),
            Element => {
                let children = self.fields(SCHEMA_ELEMENT)?;
                self.element(children)
            }
        }
    }

    /// The type of a list's items, and how many it has.
    pub(super) fn list(&mut self) -> Walked<(u8, u64)> {
        let head = self.byte()?;
        let kind = head & 0x0f;
        let size = match head >> 4 {
            15 => self.varint()?,
            size => u64::from(size),
        };
        let least = if kind == kind::STRUCT { LEAST_STRUCT } else { 1 };
        if size > (self.rest.len() / least) as u64 {
            return Err("a list claims more items than there are bytes");
        }
        Ok((kind, size))
    }

    /// A value that nobody knows.
    fn unknown(&mut self, kind: u8, depth: usize) -> Walked<()> {
        if depth > MAX_NESTING {
            return Err("it nests too deep");
        }
        match kind {
            kind::TRUE | kind::FALSE | kind::BYTE => self.byte().map(drop),
            kind::I16 | kind::I32 | kind::I64 => self.varint().map(drop),
            kind::DOUBLE => self.skip(8),
            kind::BINARY => self.binary().map(drop),
            kind::LIST | kind::SET => {
                let (kind, size) = self.list()?;
                for _ in 0..size {
                    self.unknown(kind, depth + 1)?;
                }
                Ok(())
            }
            kind::MAP => {
                let size = self.varint()?;
                if size == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                for _ in 0..size {
                    self.unknown(kinds >> 4, depth + 1)?;
                    self.unknown(kinds & 0x0f, depth + 1)?;
                }
                Ok(())
            }
            kind::STRUCT => {
                let mut last = 0;
                while let Some((id, kind)) = self.field(last)? {
                    last = id;
                    if !matches!(kind, kind::TRUE | kind::FALSE) {
                        self.unknown(kind, depth + 1)?;
                    }
                }
                Ok(())
            }
            kind::UUID => self.skip(16),
            _ => Err("it has a value of an unknown type"),
        }
    }

    /// The elements of the schema are a tree, each before what is within it.
    fn element(&mut self, children: i64) -> Walked<()> {
        if let Some(left) = self.open.last_mut() {
            *left -= 1;
        }
        if children > 0 {
            self.open.push(children);
        }
        while self.open.last().is_some_and(|left| *left <= 0) {
            self.open.pop();
        }
        if self.open.len() > MAX_DEPTH { Err("its schema nests too deep") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use ::parquet::arrow::ArrowWriter;
    use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    fn footer() -> Vec<u8> {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("a", Arc::new(Int64Array::from(vec![1, 2]))),
            ("b", Arc::new(StringArray::from(vec!["x", "y"]))),
            ("c", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1)]), None]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        let file = writer.into_inner().unwrap();
        let length = u32::from_le_bytes(file[file.len() - 8..file.len() - 4].try_into().unwrap());
        file[file.len() - 8 - length as usize..file.len() - 8].to_vec()
    }

    /// A schema of so many groups within each other, then a leaf.
    fn nested(groups: usize) -> Vec<u8> {
        let mut bytes = vec![0x29, 0xfc];
        let mut count = groups + 1;
        while count >= 0x80 {
            bytes.push(count as u8 | 0x80);
            count >>= 7;
        }
        bytes.push(count as u8);
        for _ in 0..groups {
            // A name, one child.
            bytes.extend([0x48, 1, b'g', 0x15, 2, 0]);
        }
        bytes.extend([0x48, 1, b'l', 0, 0]);
        bytes
    }

    #[test]
    fn what_a_writer_wrote_is_sound_and_every_part_of_it_is_cut_off() {
        let footer = footer();
        assert_eq!(check(&footer), Ok(()));
        for length in 0..footer.len() {
            assert!(check(&footer[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn lists_cannot_claim_more_than_there_is() {
        // Fields 2, 4 and 9: lists of 2^31 - 1 structures, one of them where there should be none.
        for (field, says) in [
            (0x29, "a list claims more items than there are bytes"),
            (0x49, "a list claims more items than there are bytes"),
            (0x99, "a field is not of its type"),
            (0xa9, "a list claims more items than there are bytes"),
        ] {
            let claimed = [field, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07, 0, 0];
            assert_eq!(check(&claimed), Err(says));
        }
    }

    #[test]
    fn what_is_known_must_be_of_its_type() {
        // The library would read a list from field 5, whatever it says that it is: found by fuzzing.
        assert_eq!(check(&[0x55, 2, 0]), Err("a field is not of its type"));
        // Field 2, a list of one integer.
        assert_eq!(check(&[0x29, 0x15, 2, 0]), Err("a field is not of its type"));
        // Field 15 is unknown.
        assert_eq!(check(&[0xf5, 2, 0]), Ok(()));
    }

    #[test]
    fn schemas_nest_so_deep_and_no_deeper() {
        assert_eq!(check(&nested(MAX_DEPTH)), Ok(()));
        assert_eq!(check(&nested(MAX_DEPTH + 1)), Err("its schema nests too deep"));
        // Structures within structures, as no metadata have them.
        assert_eq!(check(&[0xac; 100]), Err("it nests too deep"));
    }
}
