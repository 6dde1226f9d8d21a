//! The calendar of a DATE or TIMESTAMP: units, and the way between instants and civil time.

use arrow::array::ArrayRef;
use arrow::datatypes::{Date32Type, TimestampMicrosecondType};
use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, Weekday};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::cast::temporal::{
    MICROS_PER_DAY, local_to_utc, push_date, push_timestamp, utc_to_local,
};
use stevedore_decode::parse::datetime::Zone;

use crate::query::functions::call::{Call, MomentColumn};
use crate::query::functions::definition::Inputs;

pub(super) const MICROS_PER_SECOND: i64 = 1_000_000;
/// Of chrono's day numbers, 1970-01-01.
const EPOCH: i32 = 719_163;

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Year,
    IsoYear,
    Quarter,
    Month,
    Week,
    Day,
    Hour,
    Minute,
    Second,
}

impl Unit {
    /// Reads `month`, `MONTHS`, `'mm'` is none.
    pub(super) fn parse(function: &str, text: &str) -> Result<Self> {
        let lower = text.trim().to_ascii_lowercase();
        Ok(match lower.strip_suffix('s').unwrap_or(&lower) {
            "year" => Self::Year,
            "isoyear" => Self::IsoYear,
            "quarter" => Self::Quarter,
            "month" => Self::Month,
            "week" => Self::Week,
            "day" => Self::Day,
            "hour" => Self::Hour,
            "minute" => Self::Minute,
            "second" => Self::Second,
            _ => {
                return Err(Error::invalid(format!("'{text}' is no unit of {function}"))
                    .hint("units are year, quarter, month, week, day, hour, minute, second"));
            }
        })
    }

    /// The unit that an argument names.
    pub(super) fn argument(inputs: &Inputs<'_>, index: usize) -> Result<Self> {
        Self::parse(inputs.name(), inputs.literal(index, "unit")?)
    }

    /// The unit that an argument of a call names.
    pub(super) fn of_call(call: &Call<'_>, index: usize) -> Result<Self> {
        match call.text(index)?.get(0) {
            Some(text) => Self::parse(call.name, text),
            None => Err(Error::invalid(format!("the unit of {} is NULL", call.name))),
        }
    }

    /// The microseconds of a unit of the clock.
    pub(super) fn micros(self) -> Option<i64> {
        match self {
            Self::Hour => Some(3600 * MICROS_PER_SECOND),
            Self::Minute => Some(60 * MICROS_PER_SECOND),
            Self::Second => Some(MICROS_PER_SECOND),
            _ => None,
        }
    }
}

/// A DATE or TIMESTAMP argument, read row by row.
pub(super) struct Moments<'a> {
    column: MomentColumn<'a>,
    name: &'a str,
    zone: Zone,
}

impl<'a> Moments<'a> {
    pub(super) fn new(call: &'a Call<'_>, index: usize) -> Result<Self> {
        Ok(Self { column: call.moment(index)?, name: call.name, zone: call.zone })
    }

    /// Microseconds of civil time since 1970-01-01.
    pub(super) fn local_micros(&self, row: usize) -> i64 {
        match &self.column {
            MomentColumn::Date(dates) => i64::from(dates.at(row)) * MICROS_PER_DAY,
            MomentColumn::Timestamp(instants) => utc_to_local(instants.at(row), self.zone),
        }
    }

    /// The instant; of a DATE its midnight.
    pub(super) fn instant(&self, row: usize) -> Result<i64> {
        match &self.column {
            MomentColumn::Date(_) => {
                local_to_utc(self.local_micros(row), self.zone).ok_or_else(|| self.out_of_range(row))
            }
            MomentColumn::Timestamp(instants) => Ok(instants.at(row)),
        }
    }

    /// The civil time.
    pub(super) fn local(&self, row: usize) -> Result<NaiveDateTime> {
        DateTime::from_timestamp_micros(self.local_micros(row))
            .map(|time| time.naive_utc())
            .ok_or_else(|| self.out_of_range(row))
    }

    pub(super) fn text(&self, row: usize) -> String {
        let mut out = String::new();
        match &self.column {
            MomentColumn::Date(dates) => push_date(dates.at(row).into(), &mut out),
            MomentColumn::Timestamp(instants) => push_timestamp(instants.at(row), self.zone, &mut out),
        }
        out
    }

    pub(super) fn out_of_range(&self, row: usize) -> Error {
        Error::invalid(format!("{} of '{}': out of range", self.name, self.text(row)))
    }
}

/// Values of the type that the call returns, from civil times; what leaves the years 0 to 9999 fails.
pub(super) fn moments(
    call: &Call<'_>,
    source: &Moments<'_>,
    mut body: impl FnMut(usize) -> Result<Option<NaiveDateTime>>,
) -> Result<ArrayRef> {
    let checked = |row: usize, time: NaiveDateTime| {
        if (0..=9999).contains(&time.year()) { Ok(time) } else { Err(source.out_of_range(row)) }
    };
    if *call.returns == SqlType::Date {
        return call.values::<Date32Type>(|row| {
            body(row)?.map(|time| Ok(days_of(checked(row, time)?.date()))).transpose()
        });
    }
    instants(call, |row| {
        let Some(time) = body(row)? else { return Ok(None) };
        let micros = checked(row, time)?.and_utc().timestamp_micros();
        local_to_utc(micros, call.zone).map(Some).ok_or_else(|| source.out_of_range(row))
    })
}

/// TIMESTAMPs from microseconds.
pub(super) fn instants(call: &Call<'_>, body: impl FnMut(usize) -> Result<Option<i64>>) -> Result<ArrayRef> {
    call.values::<TimestampMicrosecondType>(body)
}

/// Days since 1970-01-01.
pub(super) fn days_of(date: NaiveDate) -> i32 {
    date.num_days_from_ce() - EPOCH
}

pub(super) fn at_midnight(date: NaiveDate) -> NaiveDateTime {
    date.and_time(NaiveTime::MIN)
}

/// Months later (earlier, where negative), on the last day of the month where it has no such day.
pub(super) fn add_months(time: NaiveDateTime, months: i64) -> Option<NaiveDateTime> {
    let count = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
    if months < 0 { time.checked_sub_months(count) } else { time.checked_add_months(count) }
}

pub(super) fn add_days(time: NaiveDateTime, days: i64) -> Option<NaiveDateTime> {
    let count = Days::new(days.unsigned_abs());
    if days < 0 { time.checked_sub_days(count) } else { time.checked_add_days(count) }
}

/// The first day of the unit that a date lies in.
pub(super) fn start_of(unit: Unit, date: NaiveDate) -> Option<NaiveDate> {
    match unit {
        Unit::Year => NaiveDate::from_ymd_opt(date.year(), 1, 1),
        Unit::IsoYear => NaiveDate::from_isoywd_opt(date.iso_week().year(), 1, Weekday::Mon),
        Unit::Quarter => NaiveDate::from_ymd_opt(date.year(), date.month0() / 3 * 3 + 1, 1),
        Unit::Month => date.with_day(1),
        Unit::Week => date.checked_sub_days(Days::new(date.weekday().num_days_from_monday().into())),
        Unit::Day | Unit::Hour | Unit::Minute | Unit::Second => Some(date),
    }
}

/// The last day of the unit that a date lies in.
pub(super) fn last_of(unit: Unit, date: NaiveDate) -> Option<NaiveDate> {
    let first = start_of(unit, date)?;
    let next = match unit {
        Unit::Year => first.checked_add_months(Months::new(12)),
        Unit::IsoYear => NaiveDate::from_isoywd_opt(date.iso_week().year() + 1, 1, Weekday::Mon),
        Unit::Quarter => first.checked_add_months(Months::new(3)),
        Unit::Month => first.checked_add_months(Months::new(1)),
        Unit::Week => first.checked_add_days(Days::new(7)),
        Unit::Day | Unit::Hour | Unit::Minute | Unit::Second => first.succ_opt(),
    };
    next?.pred_opt()
}

/// Whether an instant lies in the years 0 to 9999.
pub(super) fn in_range(micros: i64) -> bool {
    DateTime::from_timestamp_micros(micros).is_some_and(|time| (0..=9999).contains(&time.year()))
}
