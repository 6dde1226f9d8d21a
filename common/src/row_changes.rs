//! Whether what a snapshot of a table changed can be told row by row.
//!
//! Comes in: the summary of a snapshot. Goes out: yes, or why not. Rows that are only added are new ones. Whoever
//! writes rows in the place of others, or takes rows away, leaves the marker [`ROW_LINEAGE`] in the summary: it says
//! that every row in a file which the snapshot added is new or names the row that it was before, and that whole files
//! went, not single rows of them.

use iceberg::spec::{Operation, Summary};

/// The key of the marker in a snapshot's summary; its value is `true`.
pub const ROW_LINEAGE: &str = "stevedore.row-lineage";

/// Checks that what a snapshot changed can be told row by row.
///
/// # Errors
/// What stands in the way, as it follows «snapshot 1 of the table».
pub fn explain(summary: &Summary) -> Result<(), String> {
    let marked = summary.additional_properties.get(ROW_LINEAGE).is_some_and(|value| value == "true");
    if summary.operation == Operation::Append || marked {
        return Ok(());
    }
    Err(format!(
        "was written by something that does not say which rows changed ({})",
        summary.operation.as_str()
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn summary(operation: Operation, marker: Option<&str>) -> Summary {
        let marker = marker.map(|value| (ROW_LINEAGE.to_owned(), value.to_owned()));
        Summary { operation, additional_properties: marker.into_iter().collect() }
    }

    #[test]
    fn rows_that_are_only_added_need_no_marker_and_others_do() {
        assert_eq!(explain(&summary(Operation::Append, None)), Ok(()));
        for operation in [Operation::Overwrite, Operation::Delete, Operation::Replace] {
            assert_eq!(explain(&summary(operation.clone(), Some("true"))), Ok(()));
            for marker in [None, Some("false")] {
                let why = explain(&summary(operation.clone(), marker)).unwrap_err();
                assert!(why.contains(operation.as_str()), "{why}");
            }
        }
    }
}
