//! One evaluation of a function: its arguments as columns of a known layout, and its values row by row.
//!
//! A constant argument is one value and is not repeated. A row with a NULL argument is NULL, unless the
//! function looks at NULLs itself. The first row that is wrong ends a batch, but of a `try_` function.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayAccessor, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, BooleanBuilder, PrimitiveArray,
    PrimitiveBuilder, StringArray, StringBuilder,
};
use arrow::compute;
use arrow::datatypes::{DataType, Date32Type, FieldRef, Float64Type, Int64Type, TimestampMicrosecondType};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::parse::datetime::Zone;
use stevedore_decode::spec::CastOptions;

use super::kernel;
use crate::query::normalize::natural_field;

/// One evaluation.
pub(super) struct Call<'a> {
    pub(super) name: &'a str,
    pub(super) zone: Zone,
    pub(super) options: &'a CastOptions,
    pub(super) returns: &'a SqlType,
    pub(super) rows: usize,
    pub(super) arguments: Vec<Argument>,
    pub(super) sees_nulls: bool,
    pub(super) lenient: bool,
}

#[derive(Clone)]
pub(super) struct Argument {
    pub(super) array: ArrayRef,
    /// Describes the array.
    pub(super) field: FieldRef,
    /// One value for every row.
    pub(super) constant: bool,
}

impl Argument {
    pub(super) fn cast(
        &self,
        name: &str,
        to: &SqlType,
        options: &CastOptions,
        lenient: bool,
    ) -> Result<Self> {
        let cast = kernel::cast(&self.array, &self.field, to, options).map_err(|e| e.context(name))?;
        match cast.rejects.first() {
            Some((_, reason)) if !lenient => Err(Error::invalid(format!("{name}: {reason}"))),
            _ => Ok(Self {
                array: cast.values,
                field: Arc::new(to.to_field("value", true)),
                constant: self.constant,
            }),
        }
    }
}

/// An argument of a known layout.
#[derive(Clone, Copy)]
pub(super) struct Column<'a, A> {
    array: &'a A,
    constant: bool,
}

impl<'a, A: Array> Column<'a, A>
where
    &'a A: ArrayAccessor,
{
    /// The value of a row that is not NULL.
    pub(super) fn at(&self, row: usize) -> <&'a A as ArrayAccessor>::Item {
        self.array.value(if self.constant { 0 } else { row })
    }

    pub(super) fn get(&self, row: usize) -> Option<<&'a A as ArrayAccessor>::Item> {
        let place = if self.constant { 0 } else { row };
        self.array.is_valid(place).then(|| self.array.value(place))
    }
}

/// An argument of [`super::definition::Kind::Bytes`].
pub(super) enum BytesColumn<'a> {
    Text(Column<'a, StringArray>),
    Binary(Column<'a, BinaryArray>),
}

impl<'a> BytesColumn<'a> {
    pub(super) fn at(&self, row: usize) -> &'a [u8] {
        match self {
            Self::Text(column) => column.at(row).as_bytes(),
            Self::Binary(column) => column.at(row),
        }
    }
}

/// An argument of [`super::definition::Kind::Moment`].
pub(super) enum MomentColumn<'a> {
    Date(Column<'a, PrimitiveArray<Date32Type>>),
    Timestamp(Column<'a, PrimitiveArray<TimestampMicrosecondType>>),
}

impl Call<'_> {
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn count(&self) -> usize {
        self.arguments.len()
    }

    /// The array of an argument, one value where it is a constant, and its field.
    pub(super) fn raw(&self, index: usize) -> Result<(&ArrayRef, &FieldRef, bool)> {
        let argument = self.argument(index)?;
        Ok((&argument.array, &argument.field, argument.constant))
    }

    /// The array of an argument with a value for every row.
    pub(super) fn full(&self, index: usize) -> Result<ArrayRef> {
        let (array, _, constant) = self.raw(index)?;
        if !constant || self.rows == 1 {
            return Ok(Arc::clone(array));
        }
        let places = arrow::array::UInt32Array::from(vec![0; self.rows]);
        Ok(compute::take(array, &places, None)?)
    }

    /// The same call with an argument of [`super::definition::Kind::Any`] cast to the type that its own asks for.
    pub(super) fn read_as(&self, index: usize, to: impl Fn(&SqlType) -> SqlType) -> Result<Self> {
        let mut arguments = self.arguments.clone();
        if let Some(argument) = arguments.get_mut(index) {
            let from = SqlType::from_arrow_field(&natural_field(&argument.field))?;
            *argument = argument.cast(self.name, &to(&from), self.options, self.lenient)?;
        }
        Ok(Self { arguments, ..*self })
    }

    fn argument(&self, index: usize) -> Result<&Argument> {
        self.arguments
            .get(index)
            .ok_or_else(|| Error::internal(format!("{} has no argument {}", self.name, index + 1)))
    }

    fn column<A>(&self, index: usize, find: fn(&ArrayRef) -> Option<&A>) -> Result<Column<'_, A>> {
        let argument = self.argument(index)?;
        let array = find(&argument.array).ok_or_else(|| {
            let found = argument.array.data_type();
            Error::internal(format!("argument {} of {} came as {found}", index + 1, self.name))
        })?;
        Ok(Column { array, constant: argument.constant })
    }

    pub(super) fn text(&self, index: usize) -> Result<Column<'_, StringArray>> {
        self.column(index, |array| array.as_string_opt::<i32>())
    }

    pub(super) fn int(&self, index: usize) -> Result<Column<'_, PrimitiveArray<Int64Type>>> {
        self.column(index, |array| array.as_primitive_opt())
    }

    pub(super) fn float(&self, index: usize) -> Result<Column<'_, PrimitiveArray<Float64Type>>> {
        self.column(index, |array| array.as_primitive_opt())
    }

    /// An argument that may be left out.
    pub(super) fn optional_int(&self, index: usize) -> Result<Option<Column<'_, PrimitiveArray<Int64Type>>>> {
        (index < self.count()).then(|| self.int(index)).transpose()
    }

    pub(super) fn optional_text(&self, index: usize) -> Result<Option<Column<'_, StringArray>>> {
        (index < self.count()).then(|| self.text(index)).transpose()
    }

    pub(super) fn bytes(&self, index: usize) -> Result<BytesColumn<'_>> {
        match self.argument(index)?.array.data_type() {
            DataType::Binary => {
                Ok(BytesColumn::Binary(self.column(index, |array| array.as_binary_opt::<i32>())?))
            }
            _ => Ok(BytesColumn::Text(self.text(index)?)),
        }
    }

    pub(super) fn moment(&self, index: usize) -> Result<MomentColumn<'_>> {
        match self.argument(index)?.array.data_type() {
            DataType::Date32 => Ok(MomentColumn::Date(self.column(index, |array| array.as_primitive_opt())?)),
            _ => Ok(MomentColumn::Timestamp(self.column(index, |array| array.as_primitive_opt())?)),
        }
    }

    /// `md5 of 'x': reason`.
    pub(super) fn wrong(&self, value: impl std::fmt::Display, reason: impl std::fmt::Display) -> Error {
        let value: String = value.to_string().chars().take(100).collect();
        Error::invalid(format!("{} of '{value}': {reason}", self.name))
    }

    fn is_null(&self, row: usize) -> bool {
        !self.sees_nulls
            && self.arguments.iter().any(|argument| !argument.constant && argument.array.is_null(row))
    }

    fn each<T>(
        &self,
        mut body: impl FnMut(usize) -> Result<Option<T>>,
        mut push: impl FnMut(Option<T>),
    ) -> Result<()> {
        for row in 0..self.rows {
            if self.is_null(row) {
                push(None);
                continue;
            }
            match body(row) {
                Ok(value) => push(value),
                Err(_) if self.lenient => push(None),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A text for each row, which the body appends to an empty buffer; `false` is NULL.
    pub(super) fn texts(&self, mut body: impl FnMut(usize, &mut String) -> Result<bool>) -> Result<ArrayRef> {
        let mut builder = StringBuilder::with_capacity(self.rows, self.rows * 16);
        let mut buffer = String::new();
        for row in 0..self.rows {
            buffer.clear();
            let filled = if self.is_null(row) { Ok(false) } else { body(row, &mut buffer) };
            match filled {
                Ok(true) => builder.append_value(&buffer),
                Ok(false) => builder.append_null(),
                Err(_) if self.lenient => builder.append_null(),
                Err(error) => return Err(error),
            }
        }
        Ok(Arc::new(builder.finish()))
    }

    pub(super) fn values<P: ArrowPrimitiveType>(
        &self,
        body: impl FnMut(usize) -> Result<Option<P::Native>>,
    ) -> Result<ArrayRef> {
        let mut builder = PrimitiveBuilder::<P>::with_capacity(self.rows);
        self.each(body, |value| builder.append_option(value))?;
        let array: ArrayRef = Arc::new(builder.finish());
        let wanted = self.returns.to_arrow();
        if *array.data_type() == wanted {
            return Ok(array);
        }
        Ok(compute::cast_with_options(
            &array,
            &wanted,
            &compute::CastOptions { safe: false, ..compute::CastOptions::default() },
        )?)
    }

    /// Integers, brought to the type of the result.
    pub(super) fn integers(&self, body: impl FnMut(usize) -> Result<Option<i64>>) -> Result<ArrayRef> {
        self.values::<Int64Type>(body)
    }

    pub(super) fn booleans(&self, body: impl FnMut(usize) -> Result<Option<bool>>) -> Result<ArrayRef> {
        let mut builder = BooleanBuilder::with_capacity(self.rows);
        self.each(body, |value| builder.append_option(value))?;
        Ok(Arc::new(builder.finish()))
    }

    pub(super) fn binaries(
        &self,
        mut body: impl FnMut(usize) -> Result<Option<Vec<u8>>>,
    ) -> Result<ArrayRef> {
        let mut builder = arrow::array::BinaryBuilder::with_capacity(self.rows, self.rows * 16);
        self.each(&mut body, |value| builder.append_option(value))?;
        Ok(Arc::new(builder.finish()))
    }
}
