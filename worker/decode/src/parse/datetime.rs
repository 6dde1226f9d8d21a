//! DATE and TIMESTAMP from text and integers.
//!
//! A date is `YYYY-MM-DD`; a timestamp is a date, or a date, `T` or a space, `HH:MM[:SS[.fraction]]` and
//! perhaps a zone (`Z`, `UTC`, `±HH`, `±HH:MM`, `±HHMM`). Fractions finer than a microsecond are cut. Text
//! without a zone is read in the session's. An integer is seconds, milliseconds or microseconds since
//! 1970, by its size.

use chrono::{Offset, TimeZone};
use stevedore_common::{Error, Result as AnyResult};

use super::number::plain_integer;
use super::{OUT_OF_RANGE, Reason, trim};

/// The reason for text that is no date.
pub const INVALID_DATE: Reason = "invalid date, expected YYYY-MM-DD";
/// The reason for text that is no timestamp.
pub const INVALID_TIMESTAMP: Reason = "invalid timestamp, expected YYYY-MM-DD HH:MM:SS";

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// The zone that text without one is read in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// No offset, ever.
    Utc,
    /// An offset in seconds east of UTC.
    Fixed(i32),
    /// A zone with a history.
    Named(chrono_tz::Tz),
}

impl Zone {
    /// Finds a zone by its IANA name, or reads an offset (`+08:00`).
    ///
    /// # Errors
    /// Invalid input that names the setting.
    pub fn parse(name: &str) -> AnyResult<Self> {
        if name.eq_ignore_ascii_case("UTC") || name.eq_ignore_ascii_case("Z") {
            return Ok(Self::Utc);
        }
        if let Some(seconds) = offset(name.as_bytes()) {
            return Ok(if seconds == 0 { Self::Utc } else { Self::Fixed(seconds) });
        }
        chrono_tz::TZ_VARIANTS
            .iter()
            .find(|zone| zone.name().eq_ignore_ascii_case(name))
            .map(|zone| Self::Named(*zone))
            .ok_or_else(|| {
                Error::invalid(format!("setting timezone is '{name}', which is no time zone"))
                    .hint("use an IANA name such as 'Europe/Berlin' or an offset such as '+08:00'")
            })
    }

    /// The instant of a local time, in microseconds. A time that the clocks skip is read with the offset
    /// before the change, one that they repeat is the first of the two.
    #[inline]
    pub fn to_utc(self, local: i64) -> i64 {
        match self {
            Self::Utc => local,
            Self::Fixed(seconds) => local - i64::from(seconds) * MICROS_PER_SECOND,
            Self::Named(zone) => local - i64::from(named_offset(zone, local)) * MICROS_PER_SECOND,
        }
    }
}

fn named_offset(zone: chrono_tz::Tz, local: i64) -> i32 {
    // No clock ever skipped more than a day.
    for back in [0, 3 * 3600, 25 * 3600] {
        let at = local - back * MICROS_PER_SECOND;
        if let Some(at) = chrono::DateTime::from_timestamp_micros(at)
            && let Some(offset) = zone.offset_from_local_datetime(&at.naive_utc()).earliest()
        {
            return offset.fix().local_minus_utc();
        }
    }
    0
}

/// Days since 1970-01-01 of a date of the Gregorian calendar; `None` where there is no such day.
#[inline(always)]
pub fn days_from_date(year: u32, month: u32, day: u32) -> Option<i32> {
    const LENGTHS: [u8; 13] = [0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = match LENGTHS.get(month as usize) {
        Some(28) if leap => 29,
        Some(length) => u32::from(*length),
        None => 0,
    };
    if day == 0 || day > length || year > 9999 {
        return None;
    }
    // Years begin in March here, so that the leap day is the last one.
    let (y, m) = if month > 2 { (year + 400, month - 3) } else { (year + 399, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1;
    // 719468 days from 0000-03-01 to 1970-01-01, and the 400 years added above.
    Some(days as i32 - 719_468 - 146_097)
}

#[inline(always)]
fn two(a: u8, b: u8) -> Option<u32> {
    let (a, b) = (a.wrapping_sub(b'0'), b.wrapping_sub(b'0'));
    if a <= 9 && b <= 9 { Some(u32::from(a) * 10 + u32::from(b)) } else { None }
}

#[inline(always)]
fn fixed_date(text: &[u8; 10]) -> Option<i32> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *text else { return None };
    days_from_date(two(y1, y2)? * 100 + two(y3, y4)?, two(m1, m2)?, two(d1, d2)?)
}

/// Reads a date, as days since 1970-01-01. The time of a timestamp is cut off.
///
/// # Errors
/// Says what is expected.
#[inline]
pub fn parse_date(text: &[u8]) -> Result<i32, Reason> {
    if let Ok(text) = <&[u8; 10]>::try_from(text)
        && let Some(days) = fixed_date(text)
    {
        return Ok(days);
    }
    date_slowly(text)
}

#[cold]
fn date_slowly(text: &[u8]) -> Result<i32, Reason> {
    let (days, rest) = loose_date(trim(text)).ok_or(INVALID_DATE)?;
    if rest.is_empty() || time_of_day(rest).is_some() { Ok(days) } else { Err(INVALID_DATE) }
}

/// `Y-M-D` with one or two digits for month and day, and what follows it.
fn loose_date(text: &[u8]) -> Option<(i32, &[u8])> {
    let (year, rest) = digits(text, 4, 4)?;
    let (month, rest) = digits(rest.strip_prefix(b"-")?, 1, 2)?;
    let (day, rest) = digits(rest.strip_prefix(b"-")?, 1, 2)?;
    Some((days_from_date(year, month, day)?, rest))
}

fn digits(text: &[u8], least: usize, most: usize) -> Option<(u32, &[u8])> {
    let n = text.iter().take(most).take_while(|b| b.is_ascii_digit()).count();
    if n < least {
        return None;
    }
    Some((text[..n].iter().fold(0, |value, b| value * 10 + u32::from(b - b'0')), &text[n..]))
}

/// Microseconds of the day and the offset of what follows a date.
fn time_of_day(text: &[u8]) -> Option<(i64, Option<i32>)> {
    let text = match text {
        [b'T' | b't' | b' ', rest @ ..] => rest,
        _ => return None,
    };
    let (hour, rest) = digits(text, 1, 2)?;
    let (minute, rest) = digits(rest.strip_prefix(b":")?, 2, 2)?;
    let (second, rest) = match rest {
        [b':', rest @ ..] => digits(rest, 2, 2)?,
        _ => (0, rest),
    };
    let (micros, rest) = match rest {
        [b'.' | b',', rest @ ..] => fraction(rest)?,
        _ => (0, rest),
    };
    Some((micros_of(hour, minute, second, micros)?, zone_suffix(rest)?))
}

#[inline(always)]
fn micros_of(hour: u32, minute: u32, second: u32, micros: u32) -> Option<i64> {
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some(i64::from(hour * 3600 + minute * 60 + second) * MICROS_PER_SECOND + i64::from(micros))
}

/// One digit or more, cut at microseconds.
#[inline(always)]
fn fraction(text: &[u8]) -> Option<(u32, &[u8])> {
    let mut micros = 0;
    let mut n = 0;
    while n < text.len() && text[n].is_ascii_digit() {
        if n < 6 {
            micros = micros * 10 + u32::from(text[n] - b'0');
        }
        n += 1;
    }
    if n == 0 {
        return None;
    }
    for _ in n..6 {
        micros *= 10;
    }
    Some((micros, &text[n..]))
}

/// The outer `None`: not a zone. The inner one: no zone given.
#[inline(always)]
fn zone_suffix(text: &[u8]) -> Option<Option<i32>> {
    match text {
        [] => Some(None),
        [b'Z' | b'z'] => Some(Some(0)),
        _ => {
            let text = text.trim_ascii();
            if text.is_empty() {
                Some(None)
            } else if text.eq_ignore_ascii_case(b"UTC") || text.eq_ignore_ascii_case(b"Z") {
                Some(Some(0))
            } else {
                offset(text).map(Some)
            }
        }
    }
}

/// `±HH`, `±HH:MM` or `±HHMM` in seconds.
fn offset(text: &[u8]) -> Option<i32> {
    let (sign, rest) = match text {
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match *rest {
        [h1, h2] => (two(h1, h2)?, 0),
        [h1, h2, m1, m2] | [h1, h2, b':', m1, m2] => (two(h1, h2)?, two(m1, m2)?),
        _ => return None,
    };
    if hours > 18 || minutes > 59 {
        return None;
    }
    Some(sign * (hours * 3600 + minutes * 60) as i32)
}

/// Reads a timestamp, as microseconds since 1970-01-01 00:00:00 UTC.
///
/// # Errors
/// Says what is expected.
#[inline]
pub fn parse_timestamp(text: &[u8], zone: Zone) -> Result<i64, Reason> {
    if let Some((local, offset)) = fixed_timestamp(text) {
        return Ok(instant(local, offset, zone));
    }
    timestamp_slowly(text, zone)
}

#[inline(always)]
fn instant(local: i64, offset: Option<i32>, zone: Zone) -> i64 {
    match offset {
        Some(seconds) => local - i64::from(seconds) * MICROS_PER_SECOND,
        None => zone.to_utc(local),
    }
}

#[inline(always)]
fn fixed_timestamp(text: &[u8]) -> Option<(i64, Option<i32>)> {
    let (date, rest) = text.split_first_chunk::<10>()?;
    let (time, rest) = rest.split_first_chunk::<9>()?;
    let [b'T' | b' ', h1, h2, b':', m1, m2, b':', s1, s2] = *time else { return None };
    let (micros, rest) = match rest {
        [b'.', rest @ ..] => fraction(rest)?,
        _ => (0, rest),
    };
    let micros = micros_of(two(h1, h2)?, two(m1, m2)?, two(s1, s2)?, micros)?;
    Some((i64::from(fixed_date(date)?) * MICROS_PER_DAY + micros, zone_suffix(rest)?))
}

#[cold]
fn timestamp_slowly(text: &[u8], zone: Zone) -> Result<i64, Reason> {
    let text = trim(text);
    if let Some((days, rest)) = loose_date(text) {
        let day = i64::from(days) * MICROS_PER_DAY;
        if rest.is_empty() {
            return Ok(zone.to_utc(day));
        }
        let (time, offset) = time_of_day(rest).ok_or(INVALID_TIMESTAMP)?;
        return Ok(instant(day + time, offset, zone));
    }
    match plain_integer(text) {
        Some(value) => timestamp_from_integer(value),
        None => Err(INVALID_TIMESTAMP),
    }
}

/// The timestamp that an integer stands for: seconds within ±31,536,000,000 (about the years 970 to 2969),
/// else milliseconds within a thousand times that, else microseconds.
///
/// # Errors
/// `out of range` outside of the years 0 to 9999.
#[inline]
pub fn timestamp_from_integer(value: i64) -> Result<i64, Reason> {
    const SECONDS: u64 = 31_536_000_000;
    const FIRST: i64 = -62_167_219_200 * MICROS_PER_SECOND;
    const AFTER_LAST: i64 = 253_402_300_800 * MICROS_PER_SECOND;
    let size = value.unsigned_abs();
    let micros = if size < SECONDS {
        value * MICROS_PER_SECOND
    } else if size < SECONDS * 1000 {
        value * 1000
    } else {
        value
    };
    if (FIRST..AFTER_LAST).contains(&micros) { Ok(micros) } else { Err(OUT_OF_RANGE) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use chrono::{Datelike, NaiveDate};
    use proptest::prelude::*;

    fn micros(text: &str) -> i64 {
        chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f")
            .unwrap()
            .and_utc()
            .timestamp_micros()
    }

    #[test]
    fn timestamps_have_zones_fractions_and_a_default_zone() {
        let utc = |text: &str| parse_timestamp(text.as_bytes(), Zone::Utc);
        for (text, instant) in [
            ("2024-02-29 12:34:56", "2024-02-29 12:34:56"),
            ("2024-02-29T12:34:56Z", "2024-02-29 12:34:56"),
            ("2024-02-29T12:34:56.5z", "2024-02-29 12:34:56.5"),
            ("2024-02-29 12:34:56.123456789", "2024-02-29 12:34:56.123456"),
            ("2024-02-29 12:34:56+02:30", "2024-02-29 10:04:56"),
            ("2024-02-29 12:34:56 -0800", "2024-02-29 20:34:56"),
            ("2024-02-29 12:34:56.1-08", "2024-02-29 20:34:56.1"),
            ("2024-02-29 12:34:56 UTC", "2024-02-29 12:34:56"),
            ("2024-02-29 12:34", "2024-02-29 12:34:00"),
            ("2024-2-9", "2024-02-09 00:00:00"),
            (" 2024-02-09 ", "2024-02-09 00:00:00"),
            ("0001-01-01 00:00:00", "0001-01-01 00:00:00"),
            ("9999-12-31 23:59:59.999999", "9999-12-31 23:59:59.999999"),
            ("1700000000", "2023-11-14 22:13:20"),
            ("1700000000123", "2023-11-14 22:13:20.123"),
            ("1700000000123456", "2023-11-14 22:13:20.123456"),
            ("-1", "1969-12-31 23:59:59"),
        ] {
            assert_eq!(utc(text), Ok(micros(instant)), "{text}");
        }
        for text in [
            "",
            "x",
            "2023-02-29 00:00:00",
            "2024-13-01",
            "2024-00-01",
            "2024-01-00",
            "2024-01-01 24:00:00",
            "2024-01-01 00:60:00",
            "2024-01-01 00:00:00.",
            "2024-01-01 00:00:00+25",
            "2024-01-01x",
            "2024/01/01",
            "2024-01-01 00:00:00 Mars",
            "99999999999999999999",
            "20240-01-01",
        ] {
            assert!(utc(text).is_err(), "{text}");
        }
        assert_eq!(utc("999999999999999999"), Err(OUT_OF_RANGE));
    }

    #[test]
    fn text_without_a_zone_is_local() {
        let berlin = Zone::parse("Europe/Berlin").unwrap();
        let local = |text: &str| parse_timestamp(text.as_bytes(), berlin).unwrap();
        assert_eq!(local("2024-07-01 12:00:00"), micros("2024-07-01 10:00:00"));
        assert_eq!(local("2024-07-01 12:00:00Z"), micros("2024-07-01 12:00:00"));
        assert_eq!(local("2024-01-01"), micros("2023-12-31 23:00:00"));
        // The clocks skip from 02:00 to 03:00, and go back from 03:00 to 02:00.
        assert_eq!(local("2024-03-31 02:30:00"), micros("2024-03-31 01:30:00"));
        assert_eq!(local("2024-10-27 02:30:00"), micros("2024-10-27 00:30:00"));
        let fixed = Zone::parse("+08:00").unwrap();
        assert_eq!(parse_timestamp(b"2024-01-01 08:00:00", fixed), Ok(micros("2024-01-01 00:00:00")));
        assert!(Zone::parse("Mars/Olympus").is_err());
    }

    #[test]
    fn dates_may_carry_a_time_that_is_cut() {
        assert_eq!(parse_date(b"1970-01-02"), Ok(1));
        assert_eq!(parse_date(b"1969-12-31 23:59:59"), Ok(-1));
        assert_eq!(parse_date(b"2000-2-29"), Ok(11_016));
        for text in ["", "1900-02-29", "2024-01-32", "01-02-2024", "2024-01-01 noon", "20240101"] {
            assert_eq!(parse_date(text.as_bytes()), Err(INVALID_DATE), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_calendar_is_the_gregorian_one(days in -719_528i32..2_932_897) {
            let date = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap() + chrono::Duration::days(days.into());
            prop_assert_eq!(days_from_date(date.year() as u32, date.month(), date.day()), Some(days));
            prop_assert_eq!(parse_date(date.format("%Y-%m-%d").to_string().as_bytes()), Ok(days));
        }

        #[test]
        fn any_bytes_are_an_answer(text in "[0-9:TZ +.-]{0,32}") {
            let _ = parse_timestamp(text.as_bytes(), Zone::Utc);
            let _ = parse_date(text.as_bytes());
        }
    }
}
