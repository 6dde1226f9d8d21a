//! `sum` of integers and decimals, where a sum that its type cannot hold is an error; DataFusion's wraps
//! around. A sum of BIGINT may not leave BIGINT on its way either. Sums of floating point and durations, and
//! those of DISTINCT values, are DataFusion's.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, ArrayRef, ArrowNumericType, ArrowPrimitiveType, AsArray, BooleanArray};
use arrow::datatypes::{ArrowNativeTypeOp, DataType, Decimal128Type, FieldRef, Int64Type, UInt64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature,
};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::prim_op::PrimitiveGroupsAccumulator;
use stevedore_common::Error;
use stevedore_common::types::SqlType;

use super::checked::within_precision;
use crate::query::error::to_datafusion;

pub(super) fn function() -> AggregateUDF {
    AggregateUDF::new_from_impl(CheckedSum { of_others: Sum::new() })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedSum {
    of_others: Sum,
}

/// The accumulator `$make` of the layout of a sum that is checked; `$other` for the rest.
macro_rules! checked_or {
    ($args:ident, $make:ident, $other:expr) => {
        match $args.return_field.data_type() {
            _ if $args.is_distinct => $other,
            ty @ DataType::Int64 => Ok(Box::new($make::<Int64Type>::new(ty))),
            ty @ DataType::UInt64 => Ok(Box::new($make::<UInt64Type>::new(ty))),
            ty @ DataType::Decimal128(..) => Ok(Box::new($make::<Decimal128Type>::new(ty))),
            _ => $other,
        }
    };
}

impl AggregateUDFImpl for CheckedSum {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        self.of_others.name()
    }

    fn signature(&self) -> &Signature {
        self.of_others.signature()
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        self.of_others.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        checked_or!(args, Total, self.of_others.accumulator(args))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        checked_or!(args, Total, self.of_others.create_sliding_accumulator(args))
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn GroupsAccumulator>> {
        checked_or!(args, Totals, self.of_others.create_groups_accumulator(args))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.of_others.groups_accumulator_supported(args)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DfResult<Vec<FieldRef>> {
        self.of_others.state_fields(args)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.of_others.reverse_expr()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.of_others.order_sensitivity()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.of_others.documentation()
    }

    fn set_monotonicity(&self, ty: &DataType) -> SetMonotonicity {
        self.of_others.set_monotonicity(ty)
    }
}

fn out_of_range(ty: &DataType) -> datafusion::error::DataFusionError {
    let (name, wider) = match ty {
        DataType::Decimal128(..) => ("its type".to_owned(), "DOUBLE"),
        _ => (SqlType::from_arrow(ty).map_or_else(|_| ty.to_string(), |ty| ty.to_string()), "DECIMAL(38, 0)"),
    };
    let error = Error::invalid(format!("the sum is out of the range of {name}"));
    to_datafusion(error.hint(format!("cast what is summed to {wider}")))
}

/// The sum of one group, or of a window, from which rows go as others come.
#[derive(Debug)]
struct Total<T> {
    ty: DataType,
    sum: i128,
    /// Values in it: none is NULL.
    count: u64,
    layout: std::marker::PhantomData<fn() -> T>,
}

impl<T> Total<T> {
    fn new(ty: &DataType) -> Self {
        Self { ty: ty.clone(), sum: 0, count: 0, layout: std::marker::PhantomData }
    }
}

impl<T: ArrowNumericType> Total<T>
where
    T::Native: Into<i128>,
{
    fn values<'a>(&self, arrays: &'a [ArrayRef]) -> (u64, impl Iterator<Item = i128> + use<'a, T>) {
        let values = arrays[0].as_primitive::<T>();
        ((values.len() - values.null_count()) as u64, values.iter().flatten().map(Into::into))
    }
}

impl<T> Accumulator for Total<T>
where
    T: ArrowNumericType + Debug,
    T::Native: Into<i128> + TryFrom<i128>,
{
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> DfResult<()> {
        let (count, mut values) = self.values(arrays);
        let sum = values.try_fold(self.sum, i128::checked_add);
        self.sum = sum.ok_or_else(|| out_of_range(&self.ty))?;
        self.count += count;
        Ok(())
    }

    fn retract_batch(&mut self, arrays: &[ArrayRef]) -> DfResult<()> {
        let (count, mut values) = self.values(arrays);
        let sum = values.try_fold(self.sum, i128::checked_sub);
        self.sum = sum.ok_or_else(|| out_of_range(&self.ty))?;
        self.count -= count;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        self.update_batch(states)
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        let sum = T::Native::try_from(self.sum).map_err(|_| out_of_range(&self.ty))?;
        let value = ScalarValue::new_primitive::<T>((self.count > 0).then_some(sum), &self.ty)?;
        within_precision(value.to_array()?).map_err(|_| out_of_range(&self.ty))?;
        Ok(value)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The sums of many groups.
struct Totals<T> {
    sums: Box<dyn GroupsAccumulator>,
    ty: DataType,
    /// A sum left its type.
    overflowed: Arc<AtomicBool>,
    layout: std::marker::PhantomData<fn() -> T>,
}

impl<T: ArrowPrimitiveType + Send> Totals<T> {
    fn new(ty: &DataType) -> Self {
        let overflowed = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&overflowed);
        let sums =
            PrimitiveGroupsAccumulator::<T, _>::new(ty, move |sum, value| match sum.add_checked(value) {
                Ok(total) => *sum = total,
                Err(_) => flag.store(true, Ordering::Relaxed),
            });
        Self { sums: Box::new(sums), ty: ty.clone(), overflowed, layout: std::marker::PhantomData }
    }

    fn check(&self) -> DfResult<()> {
        if self.overflowed.load(Ordering::Relaxed) { Err(out_of_range(&self.ty)) } else { Ok(()) }
    }
}

impl<T: ArrowPrimitiveType + Send> GroupsAccumulator for Totals<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> DfResult<()> {
        self.sums.update_batch(values, groups, filter, total)?;
        self.check()
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> DfResult<()> {
        self.sums.merge_batch(values, groups, filter, total)?;
        self.check()
    }

    fn evaluate(&mut self, emit: EmitTo) -> DfResult<ArrayRef> {
        within_precision(self.sums.evaluate(emit)?).map_err(|_| out_of_range(&self.ty))
    }

    fn state(&mut self, emit: EmitTo) -> DfResult<Vec<ArrayRef>> {
        self.sums.state(emit)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> DfResult<Vec<ArrayRef>> {
        self.sums.convert_to_state(values, filter)
    }

    fn supports_convert_to_state(&self) -> bool {
        self.sums.supports_convert_to_state()
    }

    fn size(&self) -> usize {
        self.sums.size()
    }
}
