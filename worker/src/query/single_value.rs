//! The aggregate of what has one row at most: its value, and whether there were more.
//!
//! Comes in: a column. Goes out: for each group a struct of the value, NULL where the group has no row, and of
//! whether a second row was there, whatever the value is then. Nothing fails here: who reads the struct knows
//! whether a second row matters.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, StructArray, UInt8Array, UInt32Array, new_null_array,
};
use arrow::compute::{interleave, take};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, UInt8Type};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};

/// The columns of the struct.
pub(crate) const VALUE: usize = 0;
pub(crate) const MORE: usize = 1;

/// See the module.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct SingleValue {
    signature: Signature,
}

impl Default for SingleValue {
    fn default() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for SingleValue {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        "__single_value"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        internal_err!("the type depends on the field of the argument")
    }

    /// A field of the struct keeps what makes a VARIANT of text.
    fn return_field(&self, arguments: &[FieldRef]) -> DfResult<FieldRef> {
        let [argument] = arguments else { return internal_err!("a single value has one argument") };
        let value = argument.as_ref().clone().with_name("value").with_nullable(true);
        let fields = Fields::from(vec![value, Field::new("more", DataType::Boolean, false)]);
        Ok(Arc::new(Field::new(self.name(), DataType::Struct(fields), true)))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> DfResult<Vec<FieldRef>> {
        let value = fields_of(&args.return_field)?[VALUE].as_ref().clone();
        Ok(vec![
            Arc::new(value.with_name(format_state_name(args.name, "value"))),
            Arc::new(Field::new(format_state_name(args.name, "rows"), DataType::UInt8, false)),
        ])
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn Accumulator>> {
        Ok(Box::new(OfAll(Groups::new(fields_of(&args.return_field)?)?)))
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Groups::new(fields_of(&args.return_field)?)?))
    }
}

fn fields_of(field: &Field) -> DfResult<Fields> {
    match field.data_type() {
        DataType::Struct(fields) if fields.len() == 2 => Ok(fields.clone()),
        other => internal_err!("a single value is no {other}"),
    }
}

/// The first values of groups.
#[derive(Debug)]
struct Groups {
    fields: Fields,
    /// Values in the order in which they came. The first batch is one NULL, for groups without a row.
    batches: Vec<ArrayRef>,
    bytes: usize,
    /// Where in the batches the value of each group is.
    places: Vec<(usize, usize)>,
    /// How many rows each group has; 2 are any larger number.
    rows: Vec<u8>,
}

impl Groups {
    fn new(fields: Fields) -> DfResult<Self> {
        let null = new_null_array(fields[VALUE].data_type(), 1);
        Ok(Self { fields, batches: vec![null], bytes: 0, places: Vec::new(), rows: Vec::new() })
    }

    fn resize(&mut self, groups: usize) {
        self.places.resize(groups, (0, 0));
        self.rows.resize(groups, 0);
    }

    /// Adds rows, given as the group and the number of rows that each stands for.
    fn add(&mut self, values: &ArrayRef, rows: impl Iterator<Item = (usize, u8)>) -> DfResult<()> {
        let batch = self.batches.len();
        // Only first rows are kept, so that memory is that of the groups.
        let mut first = Vec::new();
        for (row, (group, count)) in rows.enumerate() {
            if count > 0 && self.rows[group] == 0 {
                self.places[group] = (batch, first.len());
                first.push(row as u32);
            }
            self.rows[group] = self.rows[group].saturating_add(count).min(2);
        }
        if first.is_empty() {
            return Ok(());
        }
        let kept = if first.len() == values.len() {
            Arc::clone(values)
        } else {
            take(values, &UInt32Array::from(first), None)?
        };
        self.bytes += kept.to_data().get_slice_memory_size()?;
        self.batches.push(kept);
        Ok(())
    }

    fn emit(&mut self, which: EmitTo) -> DfResult<(ArrayRef, Vec<u8>)> {
        let places = which.take_needed(&mut self.places);
        let rows = which.take_needed(&mut self.rows);
        let batches: Vec<&dyn Array> = self.batches.iter().map(AsRef::as_ref).collect();
        let values = interleave(&batches, &places)?;
        if self.places.is_empty() {
            self.batches.truncate(1);
            self.bytes = 0;
        }
        Ok((values, rows))
    }

    fn structs(&mut self, which: EmitTo) -> DfResult<StructArray> {
        let (values, rows) = self.emit(which)?;
        let more: BooleanArray = rows.iter().map(|rows| Some(*rows > 1)).collect();
        Ok(StructArray::try_new(self.fields.clone(), vec![values, Arc::new(more)], None)?)
    }
}

fn passes(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> DfResult<()> {
        self.resize(total);
        let rows = groups.iter().enumerate().map(|(row, group)| (*group, u8::from(passes(filter, row))));
        self.add(&values[0], rows)
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> DfResult<()> {
        self.resize(total);
        let counts = values[1].as_primitive::<UInt8Type>().values();
        let rows = groups.iter().zip(counts).enumerate();
        let rows = rows.map(|(row, (group, count))| (*group, if passes(filter, row) { *count } else { 0 }));
        self.add(&values[0], rows)
    }

    fn evaluate(&mut self, which: EmitTo) -> DfResult<ArrayRef> {
        Ok(Arc::new(self.structs(which)?))
    }

    fn state(&mut self, which: EmitTo) -> DfResult<Vec<ArrayRef>> {
        let (values, rows) = self.emit(which)?;
        Ok(vec![values, Arc::new(UInt8Array::from(rows))])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> DfResult<Vec<ArrayRef>> {
        let rows = (0..values[0].len()).map(|row| u8::from(passes(filter, row)));
        Ok(vec![Arc::clone(&values[0]), Arc::new(UInt8Array::from_iter_values(rows))])
    }

    fn supports_convert_to_state(&self) -> bool {
        true
    }

    fn size(&self) -> usize {
        let group = size_of::<(usize, usize)>() + size_of::<u8>();
        self.bytes + self.batches.capacity() * size_of::<ArrayRef>() + self.places.capacity() * group
    }
}

/// One group of all rows.
#[derive(Debug)]
struct OfAll(Groups);

impl Accumulator for OfAll {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.0.resize(1);
        self.0.add(&values[0], std::iter::repeat_n((0, 1), values[0].len()))
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        self.0.resize(1);
        let counts = states[1].as_primitive::<UInt8Type>().values();
        self.0.add(&states[0], counts.iter().map(|count| (0, *count)))
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        self.0.resize(1);
        Ok(ScalarValue::Struct(Arc::new(self.0.structs(EmitTo::All)?)))
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        self.0.resize(1);
        let (values, rows) = self.0.emit(EmitTo::All)?;
        Ok(vec![ScalarValue::try_from_array(&values, 0)?, ScalarValue::UInt8(rows.first().copied())])
    }

    fn size(&self) -> usize {
        size_of_val(self) + GroupsAccumulator::size(&self.0)
    }
}
