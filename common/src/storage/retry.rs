//! When a request that failed is sent again: the decision, apart from sending.
//!
//! A store that is busy (429, 503) is asked again until a budget of time is spent, at the pace that it names in
//! Retry-After, otherwise with growing pauses. Other failures of the store or the way to it (500, 502, 504, a reset)
//! are tried a few times only. All pauses have jitter, so that many readers do not come back at once.

use std::time::Duration;

use chrono::{DateTime, Utc};
use http::{HeaderMap, StatusCode};
use rand::Rng as _;

/// How long a store may go on being busy.
pub(crate) const BUSY_BUDGET: Duration = Duration::from_secs(90);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const FAILURES: u32 = 4;

/// What a failure says about trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The store asks to slow down; perhaps it says for how long.
    Busy { retry_after: Option<Duration> },
    /// The store, or the way to it, failed.
    Broken,
}

impl Failure {
    /// What a status means; `None` for an answer that stands.
    pub(crate) fn of(status: StatusCode, headers: &HeaderMap, now: DateTime<Utc>) -> Option<Self> {
        match status.as_u16() {
            429 | 503 => Some(Self::Busy { retry_after: retry_after(headers, now) }),
            408 | 425 | 500 | 502 | 504 => Some(Self::Broken),
            _ => None,
        }
    }
}

/// Retry-After: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => (DateTime::parse_from_rfc2822(text).ok()?.to_utc() - now).to_std().ok(),
    }
}

/// The attempts of one request.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attempts {
    failed: u32,
    broken: u32,
}

impl Attempts {
    /// The pause before the next attempt; `None` where it is time to give up. `spent` is the time since the first
    /// attempt.
    pub(crate) fn pause(&mut self, failure: Failure, spent: Duration) -> Option<Duration> {
        self.failed += 1;
        let ceiling = LONGEST_PAUSE.min(Duration::from_millis(100 << self.failed.min(10)));
        let pause = ceiling.mul_f64(rand::rng().random_range(0.5..=1.0));
        match failure {
            Failure::Broken => {
                self.broken += 1;
                (self.broken < FAILURES).then_some(pause)
            }
            Failure::Busy { retry_after } => {
                // A little later than asked for, so that not everyone comes back in the same moment.
                let pause = retry_after.map_or(pause, |asked| asked + pause.min(Duration::from_millis(500)));
                (spent + pause <= BUSY_BUDGET).then_some(pause)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn answer(status: u16, retry_after: &str) -> Option<Failure> {
        let mut headers = HeaderMap::new();
        if !retry_after.is_empty() {
            headers.insert(http::header::RETRY_AFTER, retry_after.parse().unwrap());
        }
        let now = DateTime::parse_from_rfc3339("2024-05-01T10:00:00Z").unwrap().to_utc();
        Failure::of(StatusCode::from_u16(status).unwrap(), &headers, now)
    }

    #[test]
    fn only_failures_that_may_pass_are_tried_again() {
        let busy = |seconds| Some(Failure::Busy { retry_after: Some(Duration::from_secs(seconds)) });
        assert_eq!(answer(503, "7"), busy(7));
        assert_eq!(answer(429, "Wed, 01 May 2024 10:00:30 GMT"), busy(30));
        // A moment that has passed, and nonsense, say nothing.
        assert_eq!(answer(503, "Wed, 01 May 2024 09:00:00 GMT"), Some(Failure::Busy { retry_after: None }));
        assert_eq!(answer(503, "soon"), Some(Failure::Busy { retry_after: None }));
        assert_eq!(answer(500, "7"), Some(Failure::Broken));
        for status in [200, 206, 304, 400, 401, 403, 404, 412, 416, 501] {
            assert_eq!(answer(status, "7"), None, "{status}");
        }
    }

    #[test]
    fn a_busy_store_is_asked_at_its_pace_until_the_budget_is_spent() {
        let mut attempts = Attempts::default();
        let asked = Failure::Busy { retry_after: Some(Duration::from_secs(20)) };
        let pause = attempts.pause(asked, Duration::ZERO).unwrap();
        assert!(pause >= Duration::from_secs(20) && pause < Duration::from_secs(21), "{pause:?}");
        assert_eq!(attempts.pause(asked, Duration::from_secs(80)), None);

        let mut attempts = Attempts::default();
        let mut spent = Duration::ZERO;
        let mut asked = 0;
        while let Some(pause) = attempts.pause(Failure::Busy { retry_after: None }, spent) {
            assert!(pause <= LONGEST_PAUSE);
            spent += pause;
            asked += 1;
        }
        assert!(spent > Duration::from_secs(60) && asked < 40, "{asked} attempts in {spent:?}");
    }

    #[test]
    fn a_broken_store_is_tried_a_few_times() {
        let mut attempts = Attempts::default();
        let tried = std::iter::from_fn(|| attempts.pause(Failure::Broken, Duration::ZERO)).count();
        assert_eq!(tried, 3);
    }
}
