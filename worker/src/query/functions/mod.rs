//! The functions of the dialect that DataFusion lacks or does differently.
//!
//! Comes in: the settings of a statement. Goes out: scalar functions to register in its session. Casts,
//! VARIANT paths and vectors are computed by `stevedore_decode`, so that a query, a transform and a
//! decoder agree on every value.

mod arithmetic;
mod bounded;
mod call;
mod cast;
mod checked;
mod dates;
mod definition;
mod hashes;
mod json;
pub(crate) mod kernel;
mod nested;
mod now;
mod sum;
#[cfg(test)]
mod tests;
mod text;
mod types;
mod variant;
mod vector;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use stevedore_common::{Error, Result};
use stevedore_decode::spec::CastOptions;

pub(crate) use arithmetic::{DIVIDE, divides_as_double};
pub(crate) use bounded::bounded;
pub(crate) use cast::{CAST, TRY_CAST};
pub(crate) use checked::Arithmetic;
pub(crate) use dates::LOCAL_TIME;
pub(crate) use variant::VARIANT_TEXT;

/// The settings of casts: `timezone` and `numeric_cast_option`.
///
/// # Errors
/// Invalid input for a value that the dialect does not know.
pub fn cast_options(settings: &HashMap<String, String>) -> Result<CastOptions> {
    let mut options = CastOptions::default();
    if let Some(timezone) = settings.get("timezone").filter(|text| !text.is_empty()) {
        options.timezone.clone_from(timezone);
    }
    match settings.get("numeric_cast_option").map(|text| text.to_ascii_lowercase()).as_deref() {
        None | Some("" | "rounding") => {}
        Some("truncating" | "truncate") => options.truncate = true,
        Some(other) => {
            return Err(Error::invalid(format!(
                "setting numeric_cast_option is '{other}'; allowed: rounding, truncating"
            )));
        }
    }
    Ok(options)
}

/// Every function to register for a statement with these settings.
pub(crate) fn all(options: &CastOptions) -> Vec<ScalarUDF> {
    let mut functions = cast::functions(options);
    functions.extend(dates::formatted(&functions, options));
    functions.extend(arithmetic::functions());
    functions.extend(checked::functions());
    functions.extend(variant::functions());
    functions.extend(vector::functions());
    functions.push(now::function(None));
    functions.extend(dates::today_functions(options));
    let mut definitions = dates::definitions();
    definitions.extend(hashes::definitions());
    definitions.extend(text::definitions());
    definitions.extend(json::definitions());
    definitions.extend(types::definitions());
    functions.extend(definitions.iter().flat_map(|definition| definition.functions(options)));
    functions
}

/// Every aggregate to register.
pub(crate) fn aggregates() -> Vec<AggregateUDF> {
    vec![sum::function()]
}

/// `now()` of a statement that began then: the same wherever the statement says it, and whoever evaluates it.
pub(crate) fn now_at(start: DateTime<Utc>) -> ScalarUDF {
    now::function(Some(start))
}
