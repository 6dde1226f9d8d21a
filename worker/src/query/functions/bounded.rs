//! Functions of DataFusion's, and `space`, the size of whose results an argument says: `lpad('a', 1000000000)`.
//!
//! Comes in: any function. Goes out: the same, which looks at its arguments first where it is one of these,
//! and refuses what would take more than [`RESULT_BYTES`] for the rows at hand. Weighing may take a result
//! for larger than it is, but only by what a character, or an element, may take.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::compute::kernels::length::length;
use arrow::datatypes::{
    DataType, FieldRef, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit, UInt64Type,
};
use datafusion::common::config::ConfigOptions;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};
use stevedore_common::Error;
use stevedore_decode::spec::DecodeSpec;

use crate::query::error::to_datafusion;

/// What the results of a function may take for a batch of rows.
const RESULT_BYTES: usize = 8 * DecodeSpec::BATCH_BYTES;
/// What an element of a list takes beside text and the like.
const ELEMENT_BYTES: usize = 8;
const DAY_NANOSECONDS: i128 = 86_400_000_000_000;

/// How large the results for the rows at hand would be.
type Weigh = fn(&Arguments<'_>) -> DfResult<usize>;

/// The function, bounded if it is one of those that must be.
pub(crate) fn bounded(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    let weigh: Weigh = match function.name() {
        "repeat" => repeated_text,
        "lpad" | "rpad" | "space" => padded,
        "replace" => replaced,
        "array_repeat" => repeated_value,
        "array_resize" => resized,
        "array_replace_all" => replaced_elements,
        "array_to_string" => joined,
        "range" | "generate_series" => series,
        _ => return function,
    };
    Arc::new(ScalarUDF::new_from_impl(Bounded { function, weigh }))
}

fn repeated_text(arguments: &Arguments<'_>) -> DfResult<usize> {
    Ok(total(&arguments.sizes(0)?, &arguments.numbers(1)?))
}

fn padded(arguments: &Arguments<'_>) -> DfResult<usize> {
    // `space(n)` has its length first, and characters of one byte; of others one takes up to four.
    let (length, bytes) = if arguments.count() == 1 { (0, 1) } else { (1, arguments.character_bytes()?) };
    Ok(total(&arguments.numbers(length)?, &[bytes]))
}

fn replaced(arguments: &Arguments<'_>) -> DfResult<usize> {
    let (texts, parts, new) = (arguments.sizes(0)?, arguments.sizes(1)?, arguments.sizes(2)?);
    let most = |row: usize| at(&texts, row) / at(&parts, row).max(1) + 1;
    let counts: Vec<usize> = (0..arguments.rows()).map(most).collect();
    if total(&counts, &new) <= RESULT_BYTES {
        return Ok(0);
    }
    let (texts, parts) = (arguments.texts(0)?, arguments.texts(1)?);
    let (texts, parts) = (texts.as_string::<i64>(), parts.as_string::<i64>());
    let found = |row: usize| {
        let (text, part) = (texts.value(row.min(texts.len() - 1)), parts.value(row.min(parts.len() - 1)));
        text.matches(part).count()
    };
    let counts: Vec<usize> = (0..arguments.rows()).map(found).collect();
    Ok(total(&counts, &new))
}

fn repeated_value(arguments: &Arguments<'_>) -> DfResult<usize> {
    Ok(total(&arguments.element_sizes(0)?, &arguments.numbers(1)?))
}

fn resized(arguments: &Arguments<'_>) -> DfResult<usize> {
    let fill = if arguments.count() > 2 { arguments.element_sizes(2)? } else { vec![ELEMENT_BYTES] };
    Ok(total(&arguments.numbers(1)?, &fill))
}

fn replaced_elements(arguments: &Arguments<'_>) -> DfResult<usize> {
    Ok(total(&arguments.lengths(0)?, &arguments.element_sizes(2)?))
}

fn joined(arguments: &Arguments<'_>) -> DfResult<usize> {
    let lengths = arguments.lengths(0)?;
    (1..arguments.count())
        .try_fold(0_usize, |bytes, index| Ok(bytes.saturating_add(total(&lengths, &arguments.sizes(index)?))))
}

fn series(arguments: &Arguments<'_>) -> DfResult<usize> {
    let (start, stop, step) = match arguments.count() {
        1 => (vec![Some(0)], arguments.points(0)?, vec![Some(1)]),
        2 => (arguments.points(0)?, arguments.points(1)?, vec![Some(1)]),
        _ => (arguments.points(0)?, arguments.points(1)?, arguments.points(2)?),
    };
    let elements = (0..arguments.rows()).filter_map(|row| {
        let (start, stop, step) = (at(&start, row)?, at(&stop, row)?, at(&step, row)?);
        let span = stop - start;
        // A step of nothing is refused by the function, and one that leads away gives nothing.
        (step != 0 && (span < 0) == (step < 0))
            .then(|| usize::try_from(span / step + 1).unwrap_or(usize::MAX))
    });
    Ok(elements.fold(0_usize, usize::saturating_add).saturating_mul(ELEMENT_BYTES))
}

/// The sum of the products of two columns, one of which may be one value for every row.
fn total(left: &[usize], right: &[usize]) -> usize {
    let rows = left.len().max(right.len());
    (0..rows).fold(0, |sum: usize, row| sum.saturating_add(at(left, row).saturating_mul(at(right, row))))
}

/// The value of a row, of a column that may be one value for every row.
fn at<T: Copy + Default>(values: &[T], row: usize) -> T {
    let place = if values.len() == 1 { 0 } else { row };
    values.get(place).copied().unwrap_or_default()
}

/// The arguments of a call. Those that are constant are one value.
struct Arguments<'a>(&'a ScalarFunctionArgs);

impl Arguments<'_> {
    fn count(&self) -> usize {
        self.0.args.len()
    }

    fn rows(&self) -> usize {
        let constant = self.0.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        if constant { 1 } else { self.0.number_rows }
    }

    fn array(&self, index: usize) -> DfResult<ArrayRef> {
        match self.0.args.get(index) {
            Some(ColumnarValue::Array(array)) => Ok(Arc::clone(array)),
            Some(ColumnarValue::Scalar(value)) => value.to_array(),
            None => datafusion::common::plan_err!("argument {} is missing", index + 1),
        }
    }

    /// Counts; nothing where a row has none.
    fn numbers(&self, index: usize) -> DfResult<Vec<usize>> {
        let array = self.array(index)?;
        if let Some(numbers) = array.as_primitive_opt::<UInt64Type>() {
            let numbers = numbers.iter().map(|number| usize::try_from(number.unwrap_or(0)));
            return Ok(numbers.map(|number| number.unwrap_or(usize::MAX)).collect());
        }
        let numbers = cast(&array, &DataType::Int64)?;
        let numbers = numbers.as_primitive::<Int64Type>();
        Ok(numbers.iter().map(|number| usize::try_from(number.unwrap_or(0)).unwrap_or(0)).collect())
    }

    /// Elements of lists.
    fn lengths(&self, index: usize) -> DfResult<Vec<usize>> {
        let array = self.array(index)?;
        match array.data_type() {
            DataType::Null => Ok(vec![0; array.len()]),
            _ => counts(&length(&array)?),
        }
    }

    /// Bytes of the values.
    fn sizes(&self, index: usize) -> DfResult<Vec<usize>> {
        let array = self.array(index)?;
        Ok(match array.data_type() {
            DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView => counts(&length(&array)?)?,
            ty => match ty.primitive_width() {
                Some(width) => vec![width; array.len()],
                None => (0..array.len())
                    .map(|row| array.slice(row, 1).to_data().get_slice_memory_size().map_err(Into::into))
                    .collect::<DfResult<_>>()?,
            },
        })
    }

    /// Bytes of the values as elements of a list.
    fn element_sizes(&self, index: usize) -> DfResult<Vec<usize>> {
        let sizes = self.sizes(index)?;
        Ok(sizes.into_iter().map(|size| size.saturating_add(ELEMENT_BYTES)).collect())
    }

    fn texts(&self, index: usize) -> DfResult<ArrayRef> {
        Ok(cast(&self.array(index)?, &DataType::LargeUtf8)?)
    }

    /// What a character of the texts may take.
    fn character_bytes(&self) -> DfResult<usize> {
        for index in [0, 2] {
            if index < self.count() && !self.texts(index)?.as_string::<i64>().is_ascii() {
                return Ok(4);
            }
        }
        Ok(1)
    }

    /// Numbers as they are, times and spans of time in nanoseconds.
    fn points(&self, index: usize) -> DfResult<Vec<Option<i128>>> {
        let array = self.array(index)?;
        let scale = match array.data_type() {
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                let spans = array.as_primitive::<IntervalMonthDayNanoType>();
                return Ok(spans
                    .iter()
                    .map(|span| span.map(|span| step(span.months, span.days, span.nanoseconds)))
                    .collect());
            }
            DataType::Date32 => DAY_NANOSECONDS,
            DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
            DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
            DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
            _ => 1,
        };
        let numbers = match array.data_type() {
            DataType::Date32 => cast(&cast(&array, &DataType::Int32)?, &DataType::Int64)?,
            _ => cast(&array, &DataType::Int64)?,
        };
        let numbers = numbers.as_primitive::<Int64Type>();
        Ok(numbers.iter().map(|number| number.map(|number| i128::from(number) * scale)).collect())
    }
}

/// The least time that a step takes.
fn step(months: i32, days: i32, nanoseconds: i64) -> i128 {
    let parts = [
        i128::from(months) * 28 * DAY_NANOSECONDS,
        i128::from(days) * DAY_NANOSECONDS,
        i128::from(nanoseconds),
    ];
    let forward = parts.iter().any(|part| *part > 0);
    if forward && parts.iter().any(|part| *part < 0) {
        return 1;
    }
    parts.iter().sum()
}

fn counts(lengths: &ArrayRef) -> DfResult<Vec<usize>> {
    let lengths = cast(lengths, &DataType::Int64)?;
    let lengths = lengths.as_primitive::<Int64Type>();
    Ok(lengths.iter().map(|length| usize::try_from(length.unwrap_or(0)).unwrap_or(0)).collect())
}

#[derive(Debug)]
struct Bounded {
    function: Arc<ScalarUDF>,
    weigh: Weigh,
}

// How a function is weighed follows from what it is.
impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.function == other.function
    }
}

impl Eq for Bounded {}

impl std::hash::Hash for Bounded {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.function.hash(state);
    }
}

impl ScalarUDFImpl for Bounded {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        self.function.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        self.function.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        self.function.coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        self.function.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DfResult<FieldRef> {
        self.function.return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let arguments = Arguments(&args);
        if (self.weigh)(&arguments)? > RESULT_BYTES {
            let each = if arguments.rows() == 1 { "" } else { " for the rows of a batch" };
            let error = format!(
                "the result of {} would take more than {} MiB{each}",
                self.name(),
                RESULT_BYTES >> 20
            );
            return Err(to_datafusion(Error::invalid(error).hint("ask for less")));
        }
        self.function.invoke_with_args(args)
    }

    fn with_updated_config(&self, _: &ConfigOptions) -> Option<ScalarUDF> {
        None
    }

    fn simplify(&self, args: Vec<Expr>, context: &SimplifyContext) -> DfResult<ExprSimplifyResult> {
        self.function.simplify(args, context)
    }

    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.function.conditional_arguments(args)
    }

    fn short_circuits(&self) -> bool {
        self.function.short_circuits()
    }

    fn evaluate_bounds(&self, inputs: &[&Interval]) -> DfResult<Interval> {
        self.function.evaluate_bounds(inputs)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> DfResult<SortProperties> {
        self.function.output_ordering(inputs)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.function.documentation()
    }
}
