//! `now()`: the statement's start, in microseconds UTC as every TIMESTAMP is.

use std::any::Any;
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use chrono::{DateTime, Utc};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// `start`: that of the statement, where it is known; else what each planner says.
pub(super) fn function(start: Option<DateTime<Utc>>) -> ScalarUDF {
    ScalarUDF::new_from_impl(Now {
        aliases: vec!["current_timestamp".to_owned()],
        signature: Signature::nullary(Volatility::Stable),
        start,
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Now {
    aliases: Vec<String>,
    signature: Signature,
    start: Option<DateTime<Utc>>,
}

fn timestamp(micros: i64) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(micros), Some(Arc::from("UTC")))
}

impl ScalarUDFImpl for Now {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        "now"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Ok(ColumnarValue::Scalar(timestamp(self.start.unwrap_or_else(Utc::now).timestamp_micros())))
    }

    fn simplify(&self, _: Vec<Expr>, info: &SimplifyContext) -> DfResult<ExprSimplifyResult> {
        let start = self.start.or(info.query_execution_start_time()).unwrap_or_else(Utc::now);
        Ok(ExprSimplifyResult::Simplified(Expr::Literal(timestamp(start.timestamp_micros()), None)))
    }
}
