//! Dates and timestamps: instants, civil time in a zone, their text.
//!
//! A TIMESTAMP is microseconds since 1970-01-01 in UTC. Where a date or a time without zone meets an
//! instant, the session's time zone is between them.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, PrimitiveArray};
use arrow::datatypes::{DataType, Date32Type, Int32Type, Int64Type, TimestampMicrosecondType as Micros};
use chrono::{DateTime, Offset, TimeZone};
use stevedore_common::error::Result;
use stevedore_common::types::SqlType;

use super::{Env, Reject, arrow_cast, numeric, wrong_layout};
use crate::parse::datetime::{Zone, timestamp_from_integer};

/// Microseconds of a day.
pub const MICROS_PER_DAY: i64 = 86_400_000_000;
/// The instant of a civil time in a zone; `None` on overflow.
pub fn local_to_utc(local: i64, zone: Zone) -> Option<i64> {
    // No offset reaches two days, so what is further from the ends cannot overflow.
    let margin = 2 * MICROS_PER_DAY;
    if zone == Zone::Utc || (i64::MIN + margin..=i64::MAX - margin).contains(&local) {
        Some(zone.to_utc(local))
    } else {
        None
    }
}

/// The civil time of an instant in a zone.
pub fn utc_to_local(micros: i64, zone: Zone) -> i64 {
    let seconds = match zone {
        Zone::Utc => return micros,
        Zone::Fixed(seconds) => seconds,
        // Beyond chrono's years zones are unknown; the time is shown in UTC.
        Zone::Named(zone) => match DateTime::from_timestamp_micros(micros) {
            Some(instant) => zone.offset_from_utc_datetime(&instant.naive_utc()).fix().local_minus_utc(),
            None => 0,
        },
    };
    micros.saturating_add(i64::from(seconds) * 1_000_000)
}

/// Appends a date as `2024-01-31`.
pub fn push_date(days: i64, out: &mut String) {
    use std::fmt::Write as _;
    let (year, month, day) = civil(days);
    let _ = if year < 0 {
        write!(out, "-{:04}-{month:02}-{day:02}", -year)
    } else {
        write!(out, "{year:04}-{month:02}-{day:02}")
    };
}

/// Appends a TIMESTAMP as `2024-01-31 12:34:56.000000` in a zone.
pub fn push_timestamp(micros: i64, zone: Zone, out: &mut String) {
    use std::fmt::Write as _;
    let local = utc_to_local(micros, zone);
    push_date(local.div_euclid(MICROS_PER_DAY), out);
    let time = local.rem_euclid(MICROS_PER_DAY);
    let (seconds, fraction) = (time / 1_000_000, time % 1_000_000);
    let _ = write!(out, " {:02}:{:02}:{:02}.{fraction:06}", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

/// Year, month and day of a day number (days since 1970-01-01, proleptic Gregorian).
fn civil(days: i64) -> (i64, i64, i64) {
    // Eras of 400 years that start on 1 March of the year 0.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Everything with DATE or TIMESTAMP on one side and no text.
pub(super) fn convert(
    array: &ArrayRef,
    from: &SqlType,
    to: &SqlType,
    env: &Env<'_>,
    rejects: &mut Vec<Reject>,
) -> Result<ArrayRef> {
    use SqlType::{Date, Timestamp, TimestampTz};
    let zone = env.zone;
    let instants =
        |values: PrimitiveArray<Micros>| -> Result<ArrayRef> { Ok(Arc::new(values.with_timezone("UTC"))) };
    match (from, to) {
        (Timestamp | TimestampTz, Timestamp | TimestampTz) | (Date, Date) => Ok(array.clone()),
        (Date, Timestamp | TimestampTz) => {
            let dates = array.as_primitive::<Date32Type>();
            instants(numeric::map::<Date32Type, Micros>(dates, rejects, |days| {
                i64::from(days)
                    .checked_mul(MICROS_PER_DAY)
                    .and_then(|local| local_to_utc(local, zone))
                    .ok_or("out of range")
            }))
        }
        (Timestamp | TimestampTz, Date) => {
            let instants = array.as_primitive::<Micros>();
            Ok(Arc::new(numeric::map::<Micros, Date32Type>(instants, rejects, |micros| {
                i32::try_from(utc_to_local(micros, zone).div_euclid(MICROS_PER_DAY))
                    .map_err(|_| "out of range")
            })))
        }
        (Date, to) if to.is_integer() => {
            let days: ArrayRef = Arc::new(array.as_primitive::<Date32Type>().reinterpret_cast::<Int32Type>());
            arrow_cast(&days, &to.to_arrow(), "out of range", rejects)
        }
        (Timestamp | TimestampTz, to) if to.is_integer() => {
            let micros: ArrayRef = Arc::new(array.as_primitive::<Micros>().reinterpret_cast::<Int64Type>());
            arrow_cast(&micros, &to.to_arrow(), "out of range", rejects)
        }
        (from, Date) if from.is_integer() => {
            let days = arrow_cast(array, &DataType::Int32, "out of range", rejects)?;
            Ok(Arc::new(days.as_primitive::<Int32Type>().reinterpret_cast::<Date32Type>()))
        }
        (from, Timestamp | TimestampTz) if from.is_integer() => {
            let integers = arrow_cast(array, &DataType::Int64, "out of range", rejects)?;
            let integers = integers.as_primitive::<Int64Type>();
            instants(numeric::map::<Int64Type, Micros>(integers, rejects, timestamp_from_integer))
        }
        _ => Err(wrong_layout(array, "a date, a timestamp or an integer")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn text(micros: i64, zone: &str) -> String {
        let mut out = String::new();
        push_timestamp(micros, Zone::parse(zone).unwrap(), &mut out);
        out
    }

    #[test]
    fn timestamps_print_in_a_zone() {
        for (micros, zone, expected) in [
            (0, "UTC", "1970-01-01 00:00:00.000000"),
            (-1, "UTC", "1969-12-31 23:59:59.999999"),
            (1_704_067_200_123_456, "Asia/Tokyo", "2024-01-01 09:00:00.123456"),
            (1_709_164_800_000_000, "UTC", "2024-02-29 00:00:00.000000"),
            (-62_135_596_800_000_000, "UTC", "0001-01-01 00:00:00.000000"),
            (253_402_300_799_999_999, "+00:00", "9999-12-31 23:59:59.999999"),
            (0, "-03:30", "1969-12-31 20:30:00.000000"),
            (i64::MAX, "Asia/Tokyo", "294247-01-10 04:00:54.775807"),
            (i64::MIN, "UTC", "-290308-12-21 19:59:05.224192"),
        ] {
            assert_eq!(text(micros, zone), expected);
        }
    }

    #[test]
    fn local_times_become_instants_across_clock_changes() {
        let berlin = Zone::parse("Europe/Berlin").unwrap();
        let hour = 3_600_000_000i64;
        // 2024-03-31 02:30 does not exist there, 2024-10-27 02:30 exists twice.
        let spring = 1_711_852_200_000_000i64;
        assert_eq!(local_to_utc(spring, berlin), Some(spring - hour));
        let autumn = 1_729_996_200_000_000i64;
        assert_eq!(local_to_utc(autumn, berlin), Some(autumn - 2 * hour));
        assert_eq!(utc_to_local(autumn - 2 * hour, berlin), autumn);
    }
}
