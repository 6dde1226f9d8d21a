//! Columns of fixed width: numbers, decimals, dates, timestamps, booleans.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, BooleanBufferBuilder, NullBufferBuilder, PrimitiveArray};
use arrow::datatypes::{ArrowPrimitiveType, DataType};
use stevedore_common::Result;
use stevedore_common::types::SqlType;

use super::{Builder, Cell, Cells, Marks};
use crate::csv::cells::CsvCells;
use crate::json::unescape::unescape;
use crate::ndjson::cells::JsonCells;
use crate::parse::datetime::{Zone, parse_date, parse_timestamp};
use crate::parse::decimal::parse_decimal;
use crate::parse::number::{Float, Integer, parse_float, parse_integer};
use crate::parse::{Reason, parse_boolean};

/// The text of a JSON value as a scalar parser takes it: the content of a string, others as written.
pub(super) fn scalar_text<'a>(raw: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<&'a [u8], Reason> {
    match raw {
        [b'"', content @ .., b'"'] => {
            if memchr::memchr(b'\\', content).is_none() {
                return Ok(content);
            }
            scratch.clear();
            unescape(content, scratch)?;
            Ok(scratch)
        }
        _ => Ok(raw),
    }
}

/// Reads one type from text.
pub(crate) trait ValueText: Send {
    type Arrow: ArrowPrimitiveType;
    fn parse(&self, text: &[u8]) -> Result<<Self::Arrow as ArrowPrimitiveType>::Native, Reason>;
}

pub(crate) struct IntegerText<T>(bool, PhantomData<fn() -> T>);
impl<T> IntegerText<T> {
    pub(crate) fn new(truncate: bool) -> Self {
        Self(truncate, PhantomData)
    }
}
impl<T: ArrowPrimitiveType<Native: Integer>> ValueText for IntegerText<T> {
    type Arrow = T;
    #[inline(always)]
    fn parse(&self, text: &[u8]) -> Result<T::Native, Reason> {
        parse_integer(text, self.0)
    }
}

pub(crate) struct FloatText<T>(Vec<u8>, PhantomData<fn() -> T>);
impl<T> FloatText<T> {
    pub(crate) fn new(nan: &[u8]) -> Self {
        Self(nan.to_vec(), PhantomData)
    }
}
impl<T: ArrowPrimitiveType<Native: Float>> ValueText for FloatText<T> {
    type Arrow = T;
    #[inline(always)]
    fn parse(&self, text: &[u8]) -> Result<T::Native, Reason> {
        parse_float(text, &self.0)
    }
}

pub(crate) struct DecimalText<T>(u8, u8, PhantomData<fn() -> T>);
impl<T> DecimalText<T> {
    pub(crate) fn new(precision: u8, scale: u8) -> Self {
        Self(precision, scale, PhantomData)
    }
}
impl<T: ArrowPrimitiveType<Native = i128>> ValueText for DecimalText<T> {
    type Arrow = T;
    #[inline(always)]
    fn parse(&self, text: &[u8]) -> Result<i128, Reason> {
        parse_decimal(text, self.0, self.1)
    }
}

pub(crate) struct DateText<T>(PhantomData<fn() -> T>);
impl<T> DateText<T> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}
impl<T: ArrowPrimitiveType<Native = i32>> ValueText for DateText<T> {
    type Arrow = T;
    #[inline(always)]
    fn parse(&self, text: &[u8]) -> Result<i32, Reason> {
        parse_date(text)
    }
}

pub(crate) struct TimestampText<T>(Zone, PhantomData<fn() -> T>);
impl<T> TimestampText<T> {
    pub(crate) fn new(zone: Zone) -> Self {
        Self(zone, PhantomData)
    }
}
impl<T: ArrowPrimitiveType<Native = i64>> ValueText for TimestampText<T> {
    type Arrow = T;
    #[inline(always)]
    fn parse(&self, text: &[u8]) -> Result<i64, Reason> {
        parse_timestamp(text, self.0)
    }
}

/// A column of fixed-width values.
pub(crate) struct PrimitiveColumn<P: ValueText> {
    parser: P,
    data_type: DataType,
    values: Vec<<P::Arrow as ArrowPrimitiveType>::Native>,
    nulls: NullBufferBuilder,
    scratch: Vec<u8>,
}

impl<P: ValueText> PrimitiveColumn<P> {
    pub(crate) fn new(parser: P, ty: &SqlType, rows: usize) -> Self {
        Self {
            parser,
            data_type: ty.to_arrow(),
            values: Vec::with_capacity(rows),
            nulls: NullBufferBuilder::new(rows),
            scratch: Vec::new(),
        }
    }

    #[inline]
    fn append<C: Cells>(&mut self, cells: &C, marks: &mut Marks<'_>) {
        let rows = cells.rows();
        self.values.reserve(rows);
        // Values that are not NULL are counted and added to the bitmap in runs.
        let mut run = 0;
        for row in 0..rows {
            let value = match cells.text(row, &mut self.scratch) {
                Cell::Text(text) => match self.parser.parse(text) {
                    Ok(value) => {
                        self.values.push(value);
                        run += 1;
                        continue;
                    }
                    Err(reason) => {
                        marks.bad(row, text, reason);
                        Default::default()
                    }
                },
                Cell::Null => {
                    marks.null(row);
                    Default::default()
                }
                Cell::Default => {
                    marks.default(row);
                    Default::default()
                }
                Cell::Bad(text, reason) => {
                    marks.bad(row, text, reason);
                    Default::default()
                }
            };
            self.values.push(value);
            self.nulls.append_n_non_nulls(run);
            self.nulls.append_null();
            run = 0;
        }
        self.nulls.append_n_non_nulls(run);
    }
}

impl<P: ValueText> Builder for PrimitiveColumn<P> {
    fn append_csv(&mut self, cells: &CsvCells<'_>, marks: &mut Marks<'_>) {
        self.append(cells, marks);
    }

    fn append_json(&mut self, cells: &JsonCells<'_>, marks: &mut Marks<'_>) {
        self.append(cells, marks);
    }

    fn push_json(&mut self, raw: &[u8]) -> Result<(), Reason> {
        if raw == b"null" {
            self.push_null();
            return Ok(());
        }
        match scalar_text(raw, &mut self.scratch).and_then(|text| self.parser.parse(text)) {
            Ok(value) => {
                self.values.push(value);
                self.nulls.append_non_null();
                Ok(())
            }
            Err(reason) => {
                self.push_null();
                Err(reason)
            }
        }
    }

    fn push_null(&mut self) {
        self.values.push(Default::default());
        self.nulls.append_null();
    }

    fn len(&self) -> usize {
        self.values.len()
    }

    fn finish(&mut self, _: Option<&mut Marks<'_>>) -> Result<ArrayRef> {
        let values = std::mem::take(&mut self.values);
        let array = PrimitiveArray::<P::Arrow>::try_new(values.into(), self.nulls.finish())?;
        Ok(Arc::new(array.with_data_type(self.data_type.clone())))
    }
}

/// A BOOLEAN column.
pub(crate) struct BooleanColumn {
    values: BooleanBufferBuilder,
    nulls: NullBufferBuilder,
    scratch: Vec<u8>,
}

impl BooleanColumn {
    pub(crate) fn new(rows: usize) -> Self {
        Self {
            values: BooleanBufferBuilder::new(rows),
            nulls: NullBufferBuilder::new(rows),
            scratch: Vec::new(),
        }
    }

    #[inline]
    fn append<C: Cells>(&mut self, cells: &C, marks: &mut Marks<'_>) {
        for row in 0..cells.rows() {
            match cells.text(row, &mut self.scratch) {
                Cell::Text(text) => match parse_boolean(text) {
                    Ok(value) => {
                        self.values.append(value);
                        self.nulls.append_non_null();
                        continue;
                    }
                    Err(reason) => marks.bad(row, text, reason),
                },
                Cell::Null => marks.null(row),
                Cell::Default => marks.default(row),
                Cell::Bad(text, reason) => marks.bad(row, text, reason),
            }
            self.push_null();
        }
    }
}

impl Builder for BooleanColumn {
    fn append_csv(&mut self, cells: &CsvCells<'_>, marks: &mut Marks<'_>) {
        self.append(cells, marks);
    }

    fn append_json(&mut self, cells: &JsonCells<'_>, marks: &mut Marks<'_>) {
        self.append(cells, marks);
    }

    fn push_json(&mut self, raw: &[u8]) -> Result<(), Reason> {
        if raw == b"null" {
            self.push_null();
            return Ok(());
        }
        match scalar_text(raw, &mut self.scratch).and_then(parse_boolean) {
            Ok(value) => {
                self.values.append(value);
                self.nulls.append_non_null();
                Ok(())
            }
            Err(reason) => {
                self.push_null();
                Err(reason)
            }
        }
    }

    fn push_null(&mut self) {
        self.values.append(false);
        self.nulls.append_null();
    }

    fn len(&self) -> usize {
        self.values.len()
    }

    fn finish(&mut self, _: Option<&mut Marks<'_>>) -> Result<ArrayRef> {
        Ok(Arc::new(BooleanArray::new(self.values.finish(), self.nulls.finish())))
    }
}
