//! `date_add('month', 1, d)`, `date_sub`, and `add_months(d, 1)`, `subtract_months`, ….

use arrow::array::ArrayRef;
use stevedore_common::Result;
use stevedore_common::types::SqlType;

use super::calendar::{Moments, Unit, add_days, add_months, instants, moments};
use crate::query::functions::call::Call;
use crate::query::functions::definition::{Definition, Inputs, Kind};

const BY_UNIT: &[(&str, &str, Unit)] = &[
    ("add_years", "subtract_years", Unit::Year),
    ("add_quarters", "subtract_quarters", Unit::Quarter),
    ("add_months", "subtract_months", Unit::Month),
    ("add_weeks", "subtract_weeks", Unit::Week),
    ("add_days", "subtract_days", Unit::Day),
    ("add_hours", "subtract_hours", Unit::Hour),
    ("add_minutes", "subtract_minutes", Unit::Minute),
    ("add_seconds", "subtract_seconds", Unit::Second),
];

pub(super) fn definitions() -> Vec<Definition> {
    let mut all = Vec::new();
    for (name, aliases, sign) in
        [("date_add", &["dateadd", "timestampadd"] as &[&str], 1), ("date_sub", &["datesub"], -1)]
    {
        all.push(
            Definition::new(
                name,
                &[Kind::Text, Kind::Int, Kind::Moment],
                move |inputs| Ok(sum_type(inputs, Unit::argument(inputs, 0)?, 2)),
                move |call| add(call, Unit::of_call(call, 0)?, sign, 1, 2),
            )
            .or(aliases),
        );
    }
    for (plus, minus, unit) in BY_UNIT {
        for (name, sign) in [(plus, 1), (minus, -1)] {
            all.push(Definition::new(
                name,
                &[Kind::Moment, Kind::Int],
                |inputs| Ok(sum_type(inputs, *unit, 0)),
                move |call| add(call, *unit, sign, 1, 0),
            ));
        }
    }
    all
}

/// Hours make a TIMESTAMP of a DATE.
fn sum_type(inputs: &Inputs<'_>, unit: Unit, moment: usize) -> SqlType {
    if unit.micros().is_some() { SqlType::Timestamp } else { inputs.moment(moment) }
}

fn add(call: &Call<'_>, unit: Unit, sign: i64, count: usize, moment: usize) -> Result<ArrayRef> {
    let source = Moments::new(call, moment)?;
    let count = call.int(count)?;
    let amount = |row: usize, factor: i64| {
        let amount = count.at(row).checked_mul(sign).and_then(|n| n.checked_mul(factor));
        amount.ok_or_else(|| source.out_of_range(row))
    };
    if let Some(micros) = unit.micros() {
        return instants(call, |row| {
            let instant = source.instant(row)?.checked_add(amount(row, micros)?);
            instant
                .filter(|micros| super::calendar::in_range(*micros))
                .map(Some)
                .ok_or_else(|| source.out_of_range(row))
        });
    }
    moments(call, &source, |row| {
        let local = source.local(row)?;
        let sum = match unit {
            Unit::Year | Unit::IsoYear => add_months(local, amount(row, 12)?),
            Unit::Quarter => add_months(local, amount(row, 3)?),
            Unit::Month => add_months(local, amount(row, 1)?),
            Unit::Week => add_days(local, amount(row, 7)?),
            Unit::Day | Unit::Hour | Unit::Minute | Unit::Second => add_days(local, amount(row, 1)?),
        };
        sum.map(Some).ok_or_else(|| source.out_of_range(row))
    })
}
