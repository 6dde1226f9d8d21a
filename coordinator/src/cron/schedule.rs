//! When a schedule ticks: intervals on their grid, cron expressions in their time zone.
//!
//! Times are given, none is read. Where clocks are put forward, a tick within the hour that does not exist comes
//! at its end; where they are put back, a tick at a fixed time within the hour that comes twice is the first of
//! the two.

use chrono::{DateTime, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use stevedore_common::clock::UnixMillis;
use stevedore_common::{Error, Result};
use stevedore_state::tasks::Schedule;

/// Ticks that are counted one by one; of more it is only said that there were so many.
const MOST_COUNTED: u32 = 1_000;
const FIELDS: &str = "second, minute, hour, day of the month, month, day of the week";
/// What each field may hold, beside `*`, lists, ranges and steps.
const ALLOWED: [(&str, &str); 6] = [
    ("second", "0 to 59"),
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of the month", "1 to 31, L for the last, 15W for the weekday next to the 15th"),
    ("month", "1 to 12, JAN to DEC"),
    (
        "day of the week",
        "0 to 7 (0 and 7 are Sunday), SUN to SAT, FRI#2 for the second one, FRI#L for the last",
    ),
];

/// A schedule that can be computed with.
#[derive(Debug)]
pub enum Ticks {
    /// Each so many milliseconds.
    Interval(i64),
    /// By an expression.
    Cron(Box<Cron>, Tz),
}

/// Ticks that are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The last one.
    pub last_ms: UnixMillis,
    /// How many, up to a limit.
    pub count: u32,
    /// The one after them; none: there is none any more.
    pub next_ms: Option<UnixMillis>,
}

impl Ticks {
    /// Reads a schedule.
    ///
    /// # Errors
    /// Invalid input that names what is wrong with the expression or the time zone.
    pub fn of(schedule: &Schedule) -> Result<Self> {
        let (expression, timezone) = match schedule {
            Schedule::Interval { ms } => {
                return Ok(Self::Interval(i64::try_from(*ms).unwrap_or(i64::MAX).max(1)));
            }
            Schedule::Cron { expression, timezone } => (expression, timezone),
        };
        let known = |zone: &&Tz| zone.name().eq_ignore_ascii_case(timezone);
        let zone = *chrono_tz::TZ_VARIANTS.iter().find(known).ok_or_else(|| {
            Error::invalid(format!("'{timezone}' is not a time zone"))
                .about(timezone)
                .hint("use an IANA name such as UTC or America/Los_Angeles")
        })?;
        let fields = expression.split_whitespace().count();
        if fields != 6 {
            return Err(Error::invalid(format!(
                "the cron expression '{expression}' has {fields} fields, it needs 6: {FIELDS}"
            ))
            .about(expression)
            .hint(
                "'0 0 9 * * *' is each day at 9; a five-field expression gets a 0 for the second in front",
            ));
        }
        let cron = parser().parse(expression).map_err(|_| wrong_field(expression).about(expression))?;
        Ok(Self::Cron(Box::new(cron), zone))
    }

    /// The first tick of a schedule that is started now.
    ///
    /// # Errors
    /// Invalid input, for an expression that never comes.
    pub fn first(&self, now_ms: UnixMillis) -> Result<UnixMillis> {
        match self {
            Self::Interval(ms) => Ok(now_ms.saturating_add(*ms)),
            Self::Cron(cron, zone) => after(cron, *zone, now_ms).ok_or_else(|| {
                Error::invalid(format!("the cron expression '{}' never comes", cron.pattern.as_str()))
                    .about(cron.pattern.as_str())
            }),
        }
    }

    /// What is due now, of a schedule whose next tick has come.
    pub fn due(&self, first_ms: UnixMillis, now_ms: UnixMillis) -> Due {
        match self {
            Self::Interval(ms) => {
                let more = now_ms.saturating_sub(first_ms).max(0) / ms;
                let last_ms = first_ms.saturating_add(more.saturating_mul(*ms));
                Due {
                    last_ms,
                    count: u32::try_from(more).unwrap_or(u32::MAX).saturating_add(1),
                    next_ms: Some(last_ms.saturating_add(*ms)),
                }
            }
            Self::Cron(cron, zone) => {
                let (mut last_ms, mut count) = (first_ms, 1);
                let mut next_ms = after(cron, *zone, last_ms);
                while let Some(next) = next_ms.filter(|next| *next <= now_ms) {
                    last_ms = next;
                    count += 1;
                    if count == MOST_COUNTED {
                        last_ms = at_or_before(cron, *zone, now_ms).unwrap_or(last_ms);
                        next_ms = after(cron, *zone, last_ms);
                        break;
                    }
                    next_ms = after(cron, *zone, last_ms);
                }
                Due { last_ms, count, next_ms }
            }
        }
    }
}

fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Required).year(Year::Disallowed).build()
}

/// What is wrong with an expression of six fields: each is looked at by itself.
fn wrong_field(expression: &str) -> Error {
    let fields = expression.split_whitespace().zip(ALLOWED).enumerate();
    for (at, (field, (name, allowed))) in fields {
        let mut alone = ["*"; 6];
        if let Some(place) = alone.get_mut(at) {
            *place = field;
        }
        if parser().parse(&alone.join(" ")).is_err() {
            return Error::invalid(format!(
                "the {name} of the cron expression '{expression}' cannot be '{field}'"
            ))
            .hint(format!("allowed: {allowed}; '*', lists (1,2), ranges (1-5) and steps (*/5)"));
        }
    }
    Error::invalid(format!("the cron expression '{expression}' is not valid"))
        .hint(format!("its fields are {FIELDS}"))
}

/// A time of whole seconds, in a zone: ticks have no fractions.
fn in_zone(zone: Tz, ms: UnixMillis) -> Option<DateTime<Tz>> {
    let time = Utc.timestamp_opt(ms.div_euclid(1_000), 0).single()?;
    Some(time.with_timezone(&zone))
}

fn after(cron: &Cron, zone: Tz, ms: UnixMillis) -> Option<UnixMillis> {
    let time = in_zone(zone, ms)?;
    cron.find_next_occurrence(&time, false).ok().map(|next| next.timestamp_millis()).filter(|next| *next > ms)
}

fn at_or_before(cron: &Cron, zone: Tz, ms: UnixMillis) -> Option<UnixMillis> {
    let time = in_zone(zone, ms)?;
    cron.find_previous_occurrence(&time, true).ok().map(|last| last.timestamp_millis())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn cron(expression: &str, timezone: &str) -> Ticks {
        Ticks::of(&Schedule::Cron { expression: expression.into(), timezone: timezone.into() }).unwrap()
    }

    fn ms(time: &str) -> i64 {
        DateTime::parse_from_rfc3339(time).unwrap().timestamp_millis()
    }

    fn text(ms: i64) -> String {
        DateTime::from_timestamp_millis(ms).unwrap().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    }

    fn following(ticks: &Ticks, from: &str, count: usize) -> Vec<String> {
        let mut at = ms(from);
        (0..count)
            .map(|_| {
                at = ticks.first(at).unwrap();
                text(at)
            })
            .collect()
    }

    #[test]
    fn what_is_not_a_schedule_says_why() {
        let of = |expression: &str, timezone: &str| {
            let schedule = Schedule::Cron { expression: expression.into(), timezone: timezone.into() };
            Ticks::of(&schedule).and_then(|ticks| ticks.first(0)).unwrap_err().to_string()
        };
        assert!(of("0 9 * * *", "UTC").contains("has 5 fields, it needs 6"), "{}", of("0 9 * * *", "UTC"));
        assert!(of("0 0 9 * * *", "Mars/Olympus").contains("'Mars/Olympus' is not a time zone"));
        let hour = of("0 0 25 * * *", "UTC");
        assert!(hour.contains("the hour of the cron expression '0 0 25 * * *' cannot be '25'"), "{hour}");
        assert!(hour.contains("allowed: 0 to 23;"), "{hour}");
        assert!(
            of("0 H * * * *", "UTC")
                .contains("the minute of the cron expression '0 H * * * *' cannot be 'H'")
        );
        assert!(of("0 0 9 0 * *", "UTC").contains("the day of the month"), "{}", of("0 0 9 0 * *", "UTC"));
        assert!(of("0 0 0 30 2 *", "UTC").contains("never comes"));
        assert!(of("0 0 9 * * * 2030", "UTC").contains("has 7 fields"));
    }

    #[test]
    fn a_time_zone_is_known_in_any_case() {
        let first = |zone| following(&cron("0 30 8 * * *", zone), "2026-03-06T09:00:00Z", 1);
        assert_eq!(first("utc"), first("UTC"));
        assert_eq!(first("america/los_angeles"), first("America/Los_Angeles"));
    }

    #[test]
    fn days_of_the_week_count_from_sunday_and_have_names() {
        // 2026-03-01 is a Sunday.
        assert_eq!(
            following(&cron("0 0 12 * * 1", "UTC"), "2026-03-01T00:00:00Z", 1),
            ["2026-03-02T12:00:00Z"]
        );
        assert_eq!(
            following(&cron("0 0 12 * * SUN", "UTC"), "2026-03-01T00:00:00Z", 1),
            ["2026-03-01T12:00:00Z"]
        );
        assert_eq!(
            following(&cron("0 30 8 * * 1-5", "UTC"), "2026-03-06T09:00:00Z", 1),
            ["2026-03-09T08:30:00Z"]
        );
    }

    #[test]
    fn a_tick_in_the_hour_that_does_not_exist_comes_at_its_end() {
        // Los Angeles goes from 2:00 to 3:00 on 2026-03-08, when it is 10:00 UTC.
        let daily = cron("0 30 2 * * *", "America/Los_Angeles");
        assert_eq!(
            following(&daily, "2026-03-07T00:00:00Z", 3),
            ["2026-03-07T10:30:00Z", "2026-03-08T10:00:00Z", "2026-03-09T09:30:00Z"]
        );
    }

    #[test]
    fn a_fixed_time_in_the_hour_that_comes_twice_ticks_once() {
        // Los Angeles goes from 2:00 back to 1:00 on 2026-11-01, when it is 9:00 UTC.
        let daily = cron("0 30 1 * * *", "America/Los_Angeles");
        assert_eq!(
            following(&daily, "2026-10-31T00:00:00Z", 3),
            ["2026-10-31T08:30:00Z", "2026-11-01T08:30:00Z", "2026-11-02T09:30:00Z"]
        );
    }

    #[test]
    fn each_quarter_of_an_hour_goes_on_over_both_changes() {
        for day in ["2026-03-08", "2026-11-01"] {
            let ticks = cron("0 */15 * * * *", "America/Los_Angeles");
            let start = ms(&format!("{day}T07:00:00Z"));
            let due = ticks.due(start, start + 6 * 3_600_000);
            assert_eq!((due.count, due.last_ms), (25, start + 6 * 3_600_000), "{day}");
        }
    }

    #[test]
    fn an_interval_keeps_its_grid() {
        let ticks = Ticks::of(&Schedule::Interval { ms: 1_000 }).unwrap();
        assert_eq!(ticks.first(500).unwrap(), 1_500);
        assert_eq!(ticks.due(1_500, 1_600), Due { last_ms: 1_500, count: 1, next_ms: Some(2_500) });
        assert_eq!(ticks.due(1_500, 4_600), Due { last_ms: 4_500, count: 4, next_ms: Some(5_500) });
    }

    #[test]
    fn after_a_long_time_the_last_tick_is_still_the_last() {
        let ticks = cron("* * * * * *", "UTC");
        let start = ms("2026-01-01T00:00:00Z");
        let due = ticks.due(start, start + 86_400_500);
        assert_eq!(due.last_ms, start + 86_400_000);
        assert_eq!((due.count, due.next_ms), (MOST_COUNTED, Some(start + 86_401_000)));
    }
}
