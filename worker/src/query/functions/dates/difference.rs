//! `date_diff('day', a, b)`, which counts the boundaries of a unit that are crossed from a to b,
//! `date_between`, which counts the whole units that have passed, and `months_between`.

use arrow::array::ArrayRef;
use arrow::datatypes::Float64Type;
use chrono::{Datelike, NaiveDateTime, Timelike};
use stevedore_common::Result;
use stevedore_common::types::SqlType;

use super::calendar::{Moments, Unit, add_months, days_of, last_of, start_of};
use crate::query::functions::call::Call;
use crate::query::functions::definition::{Definition, Kind};

const SECONDS_PER_DAY: i64 = 86_400;

pub(super) fn definitions() -> Vec<Definition> {
    let arguments: &[Kind] = &[Kind::Text, Kind::Moment, Kind::Moment];
    vec![
        Definition::new(
            "date_diff",
            arguments,
            |inputs| Unit::argument(inputs, 0).map(|_| SqlType::Int64),
            |call| between(call, crossed),
        )
        .or(&["datediff", "timestamp_diff", "timestampdiff"]),
        Definition::new(
            "date_between",
            arguments,
            |inputs| Unit::argument(inputs, 0).map(|_| SqlType::Int64),
            |call| between(call, passed),
        )
        .or(&["datebetween", "timestamp_between"]),
        Definition::new(
            "months_between",
            &[Kind::Moment, Kind::Moment],
            |_| Ok(SqlType::Float64),
            |call| {
                let (a, b) = (Moments::new(call, 0)?, Moments::new(call, 1)?);
                call.values::<Float64Type>(|row| Ok(Some(fractional_months(a.local(row)?, b.local(row)?))))
            },
        ),
    ]
}

type Count = fn(Unit, NaiveDateTime, NaiveDateTime) -> Option<i64>;

fn between(call: &Call<'_>, count: Count) -> Result<ArrayRef> {
    let unit = Unit::of_call(call, 0)?;
    let (from, to) = (Moments::new(call, 1)?, Moments::new(call, 2)?);
    call.integers(|row| {
        let ends = if unit.micros().is_some() {
            // A length of time does not depend on the clocks of the zone: both ends in UTC, shifted so
            // that hours begin where they do in the zone.
            let shift = from.local(row)?.and_utc().timestamp_micros() - from.instant(row)?;
            let at = |micros: i64| {
                chrono::DateTime::from_timestamp_micros(micros.saturating_add(shift))
                    .map(|time| time.naive_utc())
            };
            (at(from.instant(row)?), at(to.instant(row)?))
        } else {
            (Some(from.local(row)?), Some(to.local(row)?))
        };
        let (Some(from_time), Some(to_time)) = ends else { return Err(from.out_of_range(row)) };
        count(unit, from_time, to_time).map(Some).ok_or_else(|| to.out_of_range(row))
    })
}

fn months_of(time: &NaiveDateTime) -> i64 {
    i64::from(time.year()) * 12 + i64::from(time.month0())
}

fn crossed(unit: Unit, from: NaiveDateTime, to: NaiveDateTime) -> Option<i64> {
    let seconds = |unit_seconds: i64| {
        let number = |time: &NaiveDateTime| time.and_utc().timestamp().div_euclid(unit_seconds);
        number(&to) - number(&from)
    };
    Some(match unit {
        Unit::Year => i64::from(to.year()) - i64::from(from.year()),
        Unit::IsoYear => i64::from(to.iso_week().year()) - i64::from(from.iso_week().year()),
        Unit::Quarter => months_of(&to).div_euclid(3) - months_of(&from).div_euclid(3),
        Unit::Month => months_of(&to) - months_of(&from),
        Unit::Week => {
            let monday = |time: &NaiveDateTime| Some(i64::from(days_of(start_of(unit, time.date())?)));
            (monday(&to)? - monday(&from)?) / 7
        }
        Unit::Day => seconds(SECONDS_PER_DAY),
        Unit::Hour => seconds(3600),
        Unit::Minute => seconds(60),
        Unit::Second => seconds(1),
    })
}

fn passed(unit: Unit, from: NaiveDateTime, to: NaiveDateTime) -> Option<i64> {
    if to < from {
        return passed(unit, to, from).map(|count| -count);
    }
    let whole_months = || {
        let months = months_of(&to) - months_of(&from);
        if add_months(from, months)? > to { Some(months - 1) } else { Some(months) }
    };
    let seconds = (to - from).num_seconds();
    Some(match unit {
        Unit::Year | Unit::IsoYear => whole_months()? / 12,
        Unit::Quarter => whole_months()? / 3,
        Unit::Month => whole_months()?,
        Unit::Week => seconds / (7 * SECONDS_PER_DAY),
        Unit::Day => seconds / SECONDS_PER_DAY,
        Unit::Hour => seconds / 3600,
        Unit::Minute => seconds / 60,
        Unit::Second => seconds,
    })
}

/// Months from `b` to `a`: whole where both are the same day of their months or both the last; else a
/// day is a thirty-first of a month.
fn fractional_months(a: NaiveDateTime, b: NaiveDateTime) -> f64 {
    let months = (months_of(&a) - months_of(&b)) as f64;
    let is_last = |time: &NaiveDateTime| last_of(Unit::Month, time.date()) == Some(time.date());
    if a.day() == b.day() || (is_last(&a) && is_last(&b)) {
        return months;
    }
    let day = |time: &NaiveDateTime| {
        f64::from(time.day()) + f64::from(time.num_seconds_from_midnight()) / SECONDS_PER_DAY as f64
    };
    months + (day(&a) - day(&b)) / 31.0
}
