//! `today()`, `yesterday()`, `tomorrow()`, `current_date`: the date at the start of the
//! statement, in the session's zone.

use std::any::Any;

use arrow::datatypes::DataType;
use chrono::Utc;
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use stevedore_decode::cast::temporal::{MICROS_PER_DAY, utc_to_local};
use stevedore_decode::parse::datetime::Zone;
use stevedore_decode::spec::CastOptions;

use crate::query::error::to_datafusion;

pub(in crate::query::functions) fn today_functions(options: &CastOptions) -> Vec<ScalarUDF> {
    [("today", 0), ("current_date", 0), ("curdate", 0), ("yesterday", -1), ("tomorrow", 1)]
        .into_iter()
        .map(|(name, days)| {
            ScalarUDF::new_from_impl(Today {
                name,
                days,
                timezone: options.timezone.clone(),
                signature: Signature::nullary(Volatility::Stable),
            })
        })
        .collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Today {
    name: &'static str,
    /// From today.
    days: i64,
    timezone: String,
    signature: Signature,
}

impl ScalarUDFImpl for Today {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Date32)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        internal_err!("{} is known when a statement is planned", self.name)
    }

    fn simplify(&self, _: Vec<Expr>, info: &SimplifyContext) -> DfResult<ExprSimplifyResult> {
        let start = info.query_execution_start_time().unwrap_or_else(Utc::now);
        let zone = Zone::parse(&self.timezone).map_err(to_datafusion)?;
        let today = utc_to_local(start.timestamp_micros(), zone).div_euclid(MICROS_PER_DAY);
        let day = i32::try_from(today + self.days).ok();
        Ok(ExprSimplifyResult::Simplified(Expr::Literal(ScalarValue::Date32(day), None)))
    }
}
