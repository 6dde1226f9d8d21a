//! Dates and timestamps: parts, arithmetic, rounding, text by a format, today.
//!
//! A TIMESTAMP is an instant; its calendar is that of the session's `timezone`. A DATE has no zone, and
//! stays a DATE where the dialect says so. Hours, minutes and seconds are lengths of time, days and
//! longer ones go by the calendar.

mod arithmetic;
mod calendar;
mod difference;
mod format;
mod parts;
mod rounding;
mod today;

use datafusion::logical_expr::ScalarUDF;
use stevedore_decode::spec::CastOptions;

use super::definition::Definition;

pub(crate) use parts::LOCAL_TIME;
pub(super) use today::today_functions;

pub(super) fn definitions() -> Vec<Definition> {
    let mut all = parts::definitions();
    all.extend(arithmetic::definitions());
    all.extend(difference::definitions());
    all.extend(rounding::definitions());
    all
}

/// Those that take a format as a second argument and are plain casts without one.
pub(super) fn formatted(casts: &[ScalarUDF], options: &CastOptions) -> Vec<ScalarUDF> {
    format::functions(casts, options)
}
