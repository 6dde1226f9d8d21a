//! SELECT and EXPLAIN: planned and run by a worker, relayed to the client.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use dashmap::DashMap;
use futures::StreamExt;
use futures::stream::BoxStream;
use stevedore_common::{Error, ErrorKind, Result};
use stevedore_proto::v1;
use stevedore_sql::ast::AnalyzedQuery;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::streams::consumed_by_query;
use super::{Description, Engine, Execution, StatementHandle, StatementKind};
use crate::planner::plan::{PlacePlan, RelationPlan, RelationTarget};

/// EXPLAIN's flags: ANALYZE, VERBOSE.
type Explain = Option<(bool, bool)>;

fn text_of(query: &AnalyzedQuery, explain: Explain) -> String {
    match explain {
        None => query.sql.clone(),
        Some((analyze, verbose)) => format!(
            "EXPLAIN {}{}{}",
            if analyze { "ANALYZE " } else { "" },
            if verbose { "VERBOSE " } else { "" },
            query.sql
        ),
    }
}

/// Whether the values of a statement's parameters are there.
pub(super) fn check_parameters(handle: &StatementHandle, parameters: usize) -> Result<()> {
    if parameters > 0 && handle.parameters.is_none() {
        return Err(Error::invalid(format!("the statement has {parameters} parameters, none were bound"))
            .hint("prepare the statement and bind a value to each ?"));
    }
    Ok(())
}

impl Engine {
    pub(super) async fn describe_query(
        &self,
        handle: &StatementHandle,
        query: &AnalyzedQuery,
        explain: Explain,
    ) -> Result<Description> {
        let relations = self.plan_relations(handle, query).await?;
        let spec = self.query_spec(handle, text_of(query, explain), &relations).await?;
        let schema = self
            .workers
            .describe(&handle.group()?, &spec)
            .await
            .map_err(|e| about_empty(e, &spec, &relations))?;
        Ok(Description {
            kind: StatementKind::Query,
            schema,
            parameters: query.parameters,
            pins: Self::pins_of(&relations),
            is_job: false,
        })
    }

    pub(super) async fn run_query(
        &self,
        handle: &StatementHandle,
        query: &AnalyzedQuery,
        explain: Explain,
    ) -> Result<Execution> {
        check_parameters(handle, query.parameters)?;
        let relations = self.plan_relations(handle, query).await?;
        let spec = self.query_spec(handle, text_of(query, explain), &relations).await?;
        let mut execution = self.relay(handle, &spec).await?;
        let moves = consumed_by_query(&relations);
        if explain.is_none() && !moves.is_empty() {
            execution.batches = self.consuming(handle, moves, execution.batches);
        }
        Ok(execution)
    }

    /// Runs a query on a worker, until the handle is cancelled.
    pub(super) async fn relay(&self, handle: &StatementHandle, spec: &v1::QuerySpec) -> Result<Execution> {
        let (schema, batches) = self.workers.run(&handle.group()?, spec).await?;
        let token = CancellationToken::new();
        self.running.insert(handle.id, token.clone());
        let running = Running { queries: self.running.clone(), id: handle.id };
        let batches = until_cancelled(batches, token, running);
        Ok(Execution { schema, batches, affected: None, session_change: None })
    }

    /// The columns that a query gives.
    pub(super) async fn query_schema(
        &self,
        handle: &StatementHandle,
        query: &AnalyzedQuery,
    ) -> Result<(SchemaRef, Vec<RelationPlan>, BTreeMap<String, String>)> {
        check_parameters(handle, query.parameters)?;
        let relations = self.plan_relations(handle, query).await?;
        let spec = self.query_spec(handle, query.sql.clone(), &relations).await?;
        let schema = self
            .workers
            .describe(&handle.group()?, &spec)
            .await
            .map_err(|e| about_empty(e, &spec, &relations))?;
        let pins = Self::pins_of(&relations);
        Ok((schema, relations, pins))
    }
}

/// A column that is not found in files that are not there: says which place is empty.
fn about_empty(error: Error, spec: &v1::QuerySpec, relations: &[RelationPlan]) -> Error {
    if error.kind() != ErrorKind::NotFound {
        return error;
    }
    let empty = spec.relations.iter().zip(relations).find_map(|(sent, planned)| {
        match (&sent.relation, &planned.target) {
            (Some(v1::relation::Relation::Stage(scan)), RelationTarget::Stage { source, .. })
                if scan.files.is_empty() =>
            {
                Some(source)
            }
            _ => None,
        }
    });
    match empty {
        Some(source) => {
            let url = match &source.place {
                PlacePlan::Internal(_) | PlacePlan::User(_) => "",
                PlacePlan::Connection { url, .. } | PlacePlan::Inline { url, .. } => url,
            };
            error.context(format!("no file matches '{url}{}'", source.path))
        }
        None => error,
    }
}

/// A query that can be cancelled as long as its stream is there.
struct Running {
    queries: Arc<DashMap<Uuid, CancellationToken>>,
    id: Uuid,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.queries.remove(&self.id);
    }
}

fn until_cancelled(
    batches: BoxStream<'static, Result<RecordBatch>>,
    token: CancellationToken,
    running: Running,
) -> BoxStream<'static, Result<RecordBatch>> {
    futures::stream::unfold(Some((batches, token, running)), |state| async move {
        let (mut batches, token, running) = state?;
        tokio::select! {
            biased;
            () = token.cancelled() => Some((Err(Error::cancelled("the query was cancelled")), None)),
            batch = batches.next() => batch.map(|batch| (batch, Some((batches, token, running)))),
        }
    })
    .boxed()
}
