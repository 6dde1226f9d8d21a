//! `to_date(s, '%d.%m.%Y')`, `to_timestamp(s, format)`, `to_string(d, format)` and their relatives: text
//! by a format of strftime. Without a format they are the casts of the same name.
//!
//! Text without an offset is civil time of the session's zone, a time of day that the format lacks is
//! midnight. What a DATE or TIMESTAMP is written as is its civil time in that zone.

use std::any::Any;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Date32Type, FieldRef};
use chrono::format::{Item, Parsed, StrftimeItems, parse};
use chrono::{DateTime, FixedOffset, NaiveDateTime};
use datafusion::common::internal_err;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::cast::temporal::{MICROS_PER_DAY, local_to_utc, utc_to_local};
use stevedore_decode::spec::CastOptions;

use super::calendar::{Moments, days_of, in_range, instants};
use crate::query::functions::call::Call;
use crate::query::functions::definition::{Definition, Kind};

const TO_DATE: &[&str] = &["str_to_date", "date"];
const TRY_TO_DATE: &[&str] = &["try_str_to_date"];
const TO_TIMESTAMP: &[&str] = &["to_datetime", "str_to_timestamp"];
const TRY_TO_TIMESTAMP: &[&str] = &["try_to_datetime", "try_str_to_timestamp"];
const TO_STRING: &[&str] = &["to_varchar", "to_char", "to_text", "date_format"];
const TRY_TO_STRING: &[&str] = &["try_to_varchar"];

pub(super) fn functions(casts: &[ScalarUDF], options: &CastOptions) -> Vec<ScalarUDF> {
    let date = Definition::new("to_date", &[Kind::Text, Kind::Text], |_| Ok(SqlType::Date), parse_dates);
    let timestamp = Definition::new(
        "to_timestamp",
        &[Kind::Key, Kind::Key],
        |inputs| match (inputs.ty(0).is_integer(), inputs.ty(1).is_integer()) {
            (true, false) if !inputs.is_null(1) => {
                Err(Error::invalid(format!("the scale of {} is 0, 3 or 6", inputs.name())))
            }
            (false, true) if !inputs.is_null(0) => {
                Err(Error::invalid(format!("the format of {} is text", inputs.name())))
            }
            _ => Ok(SqlType::Timestamp),
        },
        parse_timestamps,
    );
    let text = Definition::new(
        "to_string",
        &[Kind::Moment, Kind::Text],
        |inputs| match inputs.ty(0) {
            ty if ty.is_numeric() => Err(Error::not_supported_yet("a number by a format")
                .hint("to_string(n) gives its digits, round(n, d) rounds it")),
            _ => Ok(SqlType::String),
        },
        write_texts,
    );
    [
        (date.clone(), TO_DATE),
        (date.lenient("try_to_date", &[]), TRY_TO_DATE),
        (timestamp.clone(), TO_TIMESTAMP),
        (timestamp.lenient("try_to_timestamp", &[]), TRY_TO_TIMESTAMP),
        (text.clone(), TO_STRING),
        (text.lenient("try_to_string", &[]), TRY_TO_STRING),
    ]
    .into_iter()
    .flat_map(|(definition, aliases)| definition.or(aliases).functions(options))
    .filter_map(|formatted| {
        let cast = cast_of(formatted.name());
        let plain = casts.iter().find(|known| known.name() == cast)?.clone();
        Some(ScalarUDF::new_from_impl(OneOrTwo {
            plain,
            formatted,
            signature: Signature::one_of(
                vec![
                    datafusion::logical_expr::TypeSignature::Any(1),
                    datafusion::logical_expr::TypeSignature::Any(2),
                ],
                Volatility::Immutable,
            ),
        }))
    })
    .collect()
}

/// The cast that a function is without a format.
fn cast_of(name: &str) -> String {
    let (prefix, bare) = match name.strip_prefix("try_") {
        Some(bare) => ("try_", bare),
        None => ("", name),
    };
    let cast = match bare {
        "to_date" | "str_to_date" | "date" => "to_date",
        "to_timestamp" | "to_datetime" | "str_to_timestamp" => "to_timestamp",
        _ => "to_string",
    };
    format!("{prefix}{cast}")
}

/// One function of two, by the number of arguments.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OneOrTwo {
    plain: ScalarUDF,
    formatted: ScalarUDF,
    signature: Signature,
}

impl OneOrTwo {
    fn chosen(&self, arguments: usize) -> &Arc<dyn ScalarUDFImpl> {
        if arguments == 1 { self.plain.inner() } else { self.formatted.inner() }
    }
}

impl ScalarUDFImpl for OneOrTwo {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        self.formatted.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        internal_err!("{} has its type from its arguments", self.name())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DfResult<FieldRef> {
        self.chosen(args.arg_fields.len()).return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        self.chosen(args.args.len()).invoke_with_args(args)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> DfResult<ExprSimplifyResult> {
        self.chosen(args.len()).simplify(args, info)
    }
}

/// The last format that was read; mostly there is but one.
#[derive(Default)]
struct Formats {
    text: Option<String>,
    items: Vec<Item<'static>>,
}

impl Formats {
    fn items(&mut self, call: &Call<'_>, format: &str) -> Result<&[Item<'static>]> {
        if self.text.as_deref() != Some(format) {
            self.items = StrftimeItems::new(format)
                .parse_to_owned()
                .map_err(|_| Error::invalid(format!("'{format}' is no format of {}", call.name)))?;
            self.text = Some(format.to_owned());
        }
        Ok(&self.items)
    }
}

/// What text says: civil time, with an offset where it has one.
fn read(
    call: &Call<'_>,
    text: &str,
    items: &[Item<'_>],
    format: &str,
) -> Result<(NaiveDateTime, Option<i32>)> {
    let fail = |_| call.wrong(text, format_args!("not as '{format}' says"));
    let mut parsed = Parsed::new();
    parse(&mut parsed, text.trim(), items.iter()).map_err(fail)?;
    if parsed.timestamp().is_some() {
        return Ok((parsed.to_naive_datetime_with_offset(0).map_err(fail)?, Some(0)));
    }
    if parsed.hour_mod_12().is_none() {
        parsed.set_hour(0).map_err(fail)?;
    }
    if parsed.minute().is_none() {
        parsed.set_minute(0).map_err(fail)?;
    }
    let date = parsed.to_naive_date().map_err(fail)?;
    Ok((date.and_time(parsed.to_naive_time().map_err(fail)?), parsed.offset()))
}

fn parse_dates(call: &Call<'_>) -> Result<ArrayRef> {
    let (texts, formats) = (call.text(0)?, call.text(1)?);
    let mut known = Formats::default();
    call.values::<Date32Type>(|row| {
        let (text, format) = (texts.at(row), formats.at(row));
        let (time, offset) = read(call, text, known.items(call, format)?, format)?;
        let Some(seconds) = offset else { return Ok(Some(days_of(time.date()))) };
        // An instant has a date in the session's zone.
        let instant = time.and_utc().timestamp_micros().saturating_sub(i64::from(seconds) * 1_000_000);
        let days = utc_to_local(instant, call.zone).div_euclid(MICROS_PER_DAY);
        i32::try_from(days).map(Some).map_err(|_| call.wrong(text, "out of range"))
    })
}

/// By a format, or of an integer of so many decimal places of a second.
fn parse_timestamps(call: &Call<'_>) -> Result<ArrayRef> {
    if *call.raw(0)?.0.data_type() == DataType::Int64 {
        let (numbers, scales) = (call.int(0)?, call.int(1)?);
        return instants(call, |row| {
            let (number, scale) = (numbers.at(row), scales.at(row));
            let micros = match scale {
                0 => number.checked_mul(1_000_000),
                3 => number.checked_mul(1_000),
                6 => Some(number),
                _ => return Err(call.wrong(number, format_args!("the scale {scale} is not 0, 3 or 6"))),
            };
            micros
                .filter(|micros| in_range(*micros))
                .map(Some)
                .ok_or_else(|| call.wrong(number, "out of range"))
        });
    }
    let (texts, formats) = (call.text(0)?, call.text(1)?);
    let mut known = Formats::default();
    instants(call, |row| {
        let (text, format) = (texts.at(row), formats.at(row));
        let (time, offset) = read(call, text, known.items(call, format)?, format)?;
        let local = time.and_utc().timestamp_micros();
        let micros = match offset {
            Some(seconds) => local.checked_sub(i64::from(seconds) * 1_000_000),
            None => local_to_utc(local, call.zone),
        };
        micros.filter(|micros| in_range(*micros)).map(Some).ok_or_else(|| call.wrong(text, "out of range"))
    })
}

fn write_texts(call: &Call<'_>) -> Result<ArrayRef> {
    let (source, formats) = (Moments::new(call, 0)?, call.text(1)?);
    let mut known = Formats::default();
    call.texts(|row, out| {
        let format = formats.at(row);
        let items = known.items(call, format)?;
        let local = source.local(row)?;
        let offset = (local.and_utc().timestamp_micros() - source.instant(row)?) / 1_000_000;
        let offset = i32::try_from(offset).ok().and_then(FixedOffset::east_opt);
        let offset = offset.ok_or_else(|| source.out_of_range(row))?;
        let time = DateTime::<FixedOffset>::from_naive_utc_and_offset(local - offset, offset);
        write!(out, "{}", time.format_with_items(items.iter()))
            .map_err(|_| call.wrong(source.text(row), format_args!("'{format}' cannot be written")))?;
        Ok(true)
    })
}
