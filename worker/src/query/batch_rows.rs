//! How many rows the batches of a query have.
//!
//! DataFusion's operators gather, merge and join by rows: 8192 rows of a number are nothing, 8192 documents of a
//! megabyte are more memory than a machine has. Comes in: a physical plan. Goes out: the same plan for batches of
//! fewer rows where its rows are wide, and how many that are. Rows of tables are as wide as their manifests let expect,
//! those of a stage as the first that are read. Must never read a stage ahead that the query does not read at once:
//! what is read ahead holds memory that others may wait for.

use std::sync::Arc;

use datafusion::common::Statistics;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DfResult;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use stevedore_decode::spec::DecodeSpec;

use super::stage_scan::StageExec;

/// Makes a plan gather no more rows than fit [`DecodeSpec::BATCH_BYTES`], and no more than `most`. Its context must
/// be given the same number.
///
/// # Errors
/// Where DataFusion cannot make the plan anew.
pub(super) async fn fit(
    plan: Arc<dyn ExecutionPlan>,
    most: usize,
) -> DfResult<(Arc<dyn ExecutionPlan>, usize)> {
    let mut leaves = Vec::new();
    plan.apply(|node| {
        if node.children().is_empty() {
            leaves.push(Arc::clone(node));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let mut widest = leaves
        .iter()
        .filter_map(|leaf| leaf.partition_statistics(None).ok().and_then(|known| row_bytes(&known)))
        .max()
        .unwrap_or(0);
    if let [leaf] = leaves.as_slice()
        && let Some(stage) = leaf.as_any().downcast_ref::<StageExec>()
    {
        widest = stage.row_bytes().await;
    }
    let rows = (DecodeSpec::BATCH_BYTES / widest.max(1)).clamp(1, most);
    if rows == most {
        return Ok((plan, most));
    }
    let plan = plan.transform_up(|node| {
        Ok(match node.as_any().downcast_ref::<FilterExec>() {
            // All others ask their context.
            Some(filter) => Transformed::yes(Arc::new(filter.with_batch_size(rows)?) as _),
            None => Transformed::no(node),
        })
    });
    Ok((plan.data()?, rows))
}

fn row_bytes(known: &Statistics) -> Option<usize> {
    let (bytes, rows) = (known.total_byte_size.get_value()?, known.num_rows.get_value()?);
    bytes.checked_div(*rows)
}

#[cfg(test)]
#[path = "batch_rows_tests.rs"]
mod tests;
