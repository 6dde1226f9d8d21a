//! `year(d)`, `to_yyyymmdd(d)` and the other numbers that a date or timestamp has.

use chrono::{Datelike, NaiveDateTime, Timelike};
use stevedore_common::types::SqlType;

use super::calendar::{MICROS_PER_SECOND, Moments, instants};
use crate::query::functions::definition::{Definition, Kind};

/// The name of the function that gives the civil time of an instant.
pub(crate) const LOCAL_TIME: &str = "__local_time";

type Part = fn(&NaiveDateTime) -> i64;

const PARTS: &[(&str, &[&str], SqlType, Part)] = &[
    ("to_year", &["year"], SqlType::UInt16, |t| t.year().into()),
    ("to_quarter", &["quarter"], SqlType::UInt8, |t| i64::from(t.month0() / 3 + 1)),
    ("to_month", &["month"], SqlType::UInt8, |t| t.month().into()),
    ("to_day_of_month", &["day", "dayofmonth"], SqlType::UInt8, |t| t.day().into()),
    ("to_day_of_year", &["dayofyear"], SqlType::UInt16, |t| t.ordinal().into()),
    // Monday is 1, Sunday 7.
    ("to_day_of_week", &["dayofweek", "weekday"], SqlType::UInt8, |t| {
        t.weekday().number_from_monday().into()
    }),
    ("to_week_of_year", &["week", "weekofyear"], SqlType::UInt32, |t| t.iso_week().week().into()),
    ("to_iso_year", &["yearofweekiso"], SqlType::UInt16, |t| t.iso_week().year().into()),
    ("to_hour", &["hour"], SqlType::UInt8, |t| t.hour().into()),
    ("to_minute", &["minute"], SqlType::UInt8, |t| t.minute().into()),
    ("to_second", &["second"], SqlType::UInt8, |t| t.second().into()),
    ("to_yyyymm", &[], SqlType::UInt32, |t| yyyymm(t)),
    ("to_yyyymmdd", &[], SqlType::UInt32, |t| yyyymmdd(t)),
    ("to_yyyymmddhh", &[], SqlType::UInt64, |t| yyyymmdd(t) * 100 + i64::from(t.hour())),
    ("to_yyyymmddhhmmss", &[], SqlType::UInt64, |t| {
        let clock = t.hour() * 10_000 + t.minute() * 100 + t.second();
        yyyymmdd(t) * 1_000_000 + i64::from(clock)
    }),
];

fn yyyymm(time: &NaiveDateTime) -> i64 {
    i64::from(time.year()) * 100 + i64::from(time.month())
}

fn yyyymmdd(time: &NaiveDateTime) -> i64 {
    yyyymm(time) * 100 + i64::from(time.day())
}

pub(super) fn definitions() -> Vec<Definition> {
    let mut all: Vec<Definition> = PARTS
        .iter()
        .map(|(name, aliases, ty, part)| {
            Definition::new(
                name,
                &[Kind::Moment],
                |_| Ok(ty.clone()),
                |call| {
                    let moments = Moments::new(call, 0)?;
                    call.integers(|row| Ok(Some(part(&moments.local(row)?))))
                },
            )
            .or(aliases)
        })
        .collect();
    // The civil time as if it were UTC, for functions that know no zone.
    all.push(Definition::new(
        LOCAL_TIME,
        &[Kind::Moment],
        |_| Ok(SqlType::Timestamp),
        |call| {
            let moments = Moments::new(call, 0)?;
            instants(call, |row| Ok(Some(moments.local_micros(row))))
        },
    ));
    all.push(Definition::new(
        "to_unix_timestamp",
        &[Kind::Moment],
        |_| Ok(SqlType::Int64),
        |call| {
            let moments = Moments::new(call, 0)?;
            call.integers(|row| Ok(Some(moments.instant(row)?.div_euclid(MICROS_PER_SECOND))))
        },
    ));
    all
}
