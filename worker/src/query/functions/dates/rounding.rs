//! `date_trunc('month', d)`, `to_start_of_month(d)`, `to_monday(d)`, `last_day(d)`, `next_day(d, 'friday')`.

use arrow::array::ArrayRef;
use chrono::{Datelike, Days, NaiveDate, Weekday};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};

use super::calendar::{MICROS_PER_SECOND, Moments, Unit, at_midnight, instants, last_of, moments, start_of};
use crate::query::functions::call::Call;
use crate::query::functions::definition::{Definition, Inputs, Kind};

/// Starts that are a DATE whatever they are the start of.
const STARTS: &[(&str, &[&str], Unit)] = &[
    ("to_start_of_year", &[], Unit::Year),
    ("to_start_of_iso_year", &[], Unit::IsoYear),
    ("to_start_of_quarter", &[], Unit::Quarter),
    ("to_start_of_month", &[], Unit::Month),
    ("to_monday", &[], Unit::Week),
];

const LASTS: &[(&str, Unit)] = &[
    ("to_last_of_year", Unit::Year),
    ("to_last_of_quarter", Unit::Quarter),
    ("to_last_of_month", Unit::Month),
    ("to_last_of_week", Unit::Week),
];

/// Steps of the clock, in seconds.
const STEPS: &[(&str, i64)] = &[
    ("to_start_of_second", 1),
    ("to_start_of_minute", 60),
    ("to_start_of_five_minutes", 300),
    ("to_start_of_ten_minutes", 600),
    ("to_start_of_fifteen_minutes", 900),
    ("time_slot", 1800),
    ("to_start_of_hour", 3600),
];

pub(super) fn definitions() -> Vec<Definition> {
    let date = |_: &Inputs<'_>| Ok(SqlType::Date);
    let timestamp = |_: &Inputs<'_>| Ok(SqlType::Timestamp);
    let mut all = vec![
        Definition::new(
            "date_trunc",
            &[Kind::Text, Kind::Moment],
            |inputs| Unit::argument(inputs, 0).map(|_| inputs.moment(1)),
            |call| truncate(call, Unit::of_call(call, 0)?, 1),
        )
        .or(&["datetrunc"]),
        Definition::new("to_start_of_day", &[Kind::Moment], timestamp, |call| truncate(call, Unit::Day, 0)),
        // The week begins on Sunday, or on Monday where a mode other than 0 is given.
        Definition::new("to_start_of_week", &[Kind::Moment, Kind::Int], date, |call| {
            let mode = call.optional_int(1)?;
            dates(call, |row, date| {
                let weekday = date.weekday();
                let back = match mode.as_ref().map_or(0, |mode| mode.at(row)) {
                    0 => weekday.num_days_from_sunday(),
                    _ => weekday.num_days_from_monday(),
                };
                Ok(date.checked_sub_days(Days::new(back.into())))
            })
        })
        .optional(1),
        Definition::new(
            "last_day",
            &[Kind::Moment, Kind::Text],
            move |inputs| {
                if inputs.has(1) {
                    calendar_unit(inputs.literal(1, "unit")?)?;
                }
                Ok(SqlType::Date)
            },
            |call| {
                let unit = match call.optional_text(1)? {
                    Some(unit) => calendar_unit(unit.at(0))?,
                    None => Unit::Month,
                };
                dates(call, |_, date| Ok(last_of(unit, date)))
            },
        )
        .optional(1),
    ];
    for (name, forward) in [("next_day", true), ("previous_day", false)] {
        all.push(Definition::new(name, &[Kind::Moment, Kind::Text], date, move |call| {
            let wanted = call.text(1)?;
            dates(call, |row, date| {
                let day = weekday(call, wanted.at(row))?.num_days_from_monday();
                let today = date.weekday().num_days_from_monday();
                let (from, to) = if forward { (today, day) } else { (day, today) };
                // The day itself never counts.
                let days = Days::new(((to + 6 - from) % 7 + 1).into());
                Ok(if forward { date.checked_add_days(days) } else { date.checked_sub_days(days) })
            })
        }));
    }
    for (name, aliases, unit) in STARTS {
        all.push(
            Definition::new(name, &[Kind::Moment], date, |call| {
                dates(call, |_, date| Ok(start_of(*unit, date)))
            })
            .or(aliases),
        );
    }
    for (name, unit) in LASTS {
        all.push(Definition::new(name, &[Kind::Moment], date, |call| {
            dates(call, |_, date| Ok(last_of(*unit, date)))
        }));
    }
    for (name, seconds) in STEPS {
        all.push(Definition::new(name, &[Kind::Moment], timestamp, move |call| {
            step(call, seconds * MICROS_PER_SECOND, 0)
        }));
    }
    all
}

/// Of `last_day`, the units that have days.
fn calendar_unit(text: &str) -> Result<Unit> {
    match Unit::parse("last_day", text)? {
        unit @ (Unit::Year | Unit::Quarter | Unit::Month | Unit::Week) => Ok(unit),
        _ => Err(Error::invalid(format!("'{text}' is no unit of last_day"))
            .hint("units are year, quarter, month, week")),
    }
}

fn weekday(call: &Call<'_>, text: &str) -> Result<Weekday> {
    text.trim().parse().map_err(|_| call.wrong(text, "no day of the week"))
}

fn dates(
    call: &Call<'_>,
    mut body: impl FnMut(usize, NaiveDate) -> Result<Option<NaiveDate>>,
) -> Result<ArrayRef> {
    let source = Moments::new(call, 0)?;
    moments(call, &source, |row| match body(row, source.local(row)?.date())? {
        Some(date) => Ok(Some(at_midnight(date))),
        None => Err(source.out_of_range(row)),
    })
}

fn truncate(call: &Call<'_>, unit: Unit, moment: usize) -> Result<ArrayRef> {
    let source = Moments::new(call, moment)?;
    if let Some(micros) = unit.micros() {
        if *call.returns == SqlType::Date {
            return moments(call, &source, |row| source.local(row).map(Some));
        }
        return step(call, micros, moment);
    }
    moments(call, &source, |row| match start_of(unit, source.local(row)?.date()) {
        Some(date) => Ok(Some(at_midnight(date))),
        None => Err(source.out_of_range(row)),
    })
}

/// Back to the last multiple of a step on the clock of the zone. The instant moves, so that an hour that
/// the clocks repeat stays itself.
fn step(call: &Call<'_>, micros: i64, moment: usize) -> Result<ArrayRef> {
    let source = Moments::new(call, moment)?;
    instants(call, |row| {
        let past = source.local(row)?.and_utc().timestamp_micros().rem_euclid(micros);
        Ok(Some(source.instant(row)?.saturating_sub(past)))
    })
}
