//! The engine that plans and runs queries.
//!
//! Comes in: a `QuerySpec`. Goes out: a plan with its result schema, and a stream of batches in the
//! dialect's types. One engine serves a worker: memory is one pool with a limit, spills go below the
//! data folder, computing runs on threads of its own, and a stream that is dropped stops its query.
//! Only SELECT (and EXPLAIN of one) is ever planned.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
    MemorySchemaProvider, SchemaProvider,
};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryReservation};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::execution::{FunctionRegistry, SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::planner::ExprPlanner;
use datafusion::logical_expr::{AggregateUDF, LogicalPlan, ScalarUDF};
use datafusion::optimizer::{Analyzer, AnalyzerRule};
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::{DFParserBuilder, Statement as DfStatement};
use datafusion::sql::sqlparser::ast::{DescribeAlias, Statement};
use futures::{Stream, StreamExt};
use object_store::memory::InMemory;
use stevedore_common::storage::Stores;
use stevedore_common::{Error, Result};
use stevedore_decode::parse::datetime::Zone;
use stevedore_proto::v1::{QuerySpec, TableScan};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::batch_rows;
use super::error::from_datafusion;
use super::functions;
use super::manifests::MetadataCache;
use super::names::{self, Relations};
use super::normalize::{natural_batch, natural_schema};
use super::origins::Origins;
use super::relations::{Mentions, Sources, read_ipc};
use super::runtime::CpuRuntime;
use super::scalar_subqueries::ScalarSubqueries;
use super::spelling::Spelling;
use super::stage_scan::StageReader;
use super::table_scan::{DataFileFacts, STORE_URL};
use super::variant_coercion::VariantCoercion;

/// Batches that may wait between the computing threads and whoever takes the results.
const RESULT_BATCHES: usize = 2;
/// Bytes of manifests kept.
const METADATA_CACHE_BYTES: u64 = 256 << 20;
/// Each sort may set aside this part of a thread's share of the memory.
const SORT_SHARE: usize = 8;
const CATALOG: &str = "stevedore";
const SCHEMA: &str = "query";

/// How an engine is set up.
pub struct EngineConfig {
    /// Threads that compute, and partitions of a plan; normally the cores.
    pub cores: usize,
    /// The memory that all queries share, in bytes.
    pub memory_bytes: usize,
    /// Where sorts and joins spill to.
    pub spill_dir: PathBuf,
    /// The largest total of spilled bytes.
    pub spill_bytes: u64,
    /// The stores that tables and stages are read from.
    pub stores: Arc<Stores>,
    /// Reads stage files.
    pub stages: Arc<dyn StageReader>,
}

/// Plans and runs queries.
pub struct QueryEngine {
    base: SessionState,
    cpu: Arc<CpuRuntime>,
    io: Handle,
    sources: Arc<Sources>,
}

/// A query that was planned.
pub struct PlannedQuery {
    schema: SchemaRef,
    plan: LogicalPlan,
    state: SessionState,
    origins: Arc<Origins>,
}

impl PlannedQuery {
    /// What the numbers of files mean that numbered rows come from, as far as they were read.
    pub(crate) fn origins(&self) -> Arc<Origins> {
        Arc::clone(&self.origins)
    }

    /// The schema of the result.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

impl std::fmt::Debug for PlannedQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.plan.display_indent())
    }
}

impl QueryEngine {
    /// Builds the engine; call it on the runtime that does I/O.
    ///
    /// # Errors
    /// Where the spill folder or the threads cannot be made.
    pub fn new(config: EngineConfig) -> Result<Self> {
        let io = Handle::try_current()
            .map_err(|_| Error::internal("the query engine must be built on the I/O runtime"))?;
        std::fs::create_dir_all(&config.spill_dir)?;
        let runtime = runtime_env(&config)?;
        let cores = config.cores.max(1);
        let mut session = SessionConfig::new()
            .with_target_partitions(cores)
            .with_information_schema(false)
            .with_default_catalog_and_schema(CATALOG, SCHEMA)
            .with_create_default_catalog_and_schema(false);
        let options = session.options_mut();
        options.sql_parser.enable_ident_normalization = false;
        options.sql_parser.map_string_types_to_utf8view = false;
        options.sql_parser.parse_float_as_decimal = false;
        options.execution.batch_size = 8192;
        // To share a build side of this size costs less than to deal out both sides by their keys.
        options.optimizer.hash_join_single_partition_threshold = 16 << 20;
        // What each sort sets aside for merging what it spilled: not all that there is.
        let share = config.memory_bytes / (SORT_SHARE * cores);
        let merging = &mut options.execution.sort_spill_reservation_bytes;
        *merging = share.min(*merging);
        let base = SessionStateBuilder::new()
            .with_config(session)
            .with_runtime_env(runtime)
            .with_default_features()
            .build();
        let sources = Sources {
            stores: config.stores,
            cache: Arc::new(MetadataCache::new(METADATA_CACHE_BYTES)),
            stages: config.stages,
            io: io.clone(),
        };
        Ok(Self { base, cpu: Arc::new(CpuRuntime::new(cores)?), io, sources: Arc::new(sources) })
    }

    /// A session with the functions of the dialect under some settings, and no relations.
    ///
    /// # Errors
    /// Invalid input for a setting that the dialect does not know.
    pub(crate) fn session(&self, settings: &HashMap<String, String>) -> Result<SessionState> {
        session_state(&self.base, settings)
    }

    /// Memory of queries for something else; none yet.
    pub(crate) fn reservation(&self, what: &str) -> MemoryReservation {
        MemoryConsumer::new(what).register(&self.base.runtime_env().memory_pool)
    }

    /// Plans a query. Reads table metadata and, for stages, what their columns are; runs nothing.
    ///
    /// # Errors
    /// What is wrong with the statement; what cannot be read.
    pub async fn plan(&self, spec: &QuerySpec) -> Result<PlannedQuery> {
        let mut state = self.session(&spec.settings)?;
        let start = started_on(spec);
        state.execution_props_mut().query_execution_start_time = Some(start);
        state.register_udf(Arc::new(functions::now_at(start))).map_err(|e| from_datafusion(&e))?;
        let mut statement = parse(&spec.sql)?;
        let mentions = Mentions { names: names::mentioned(&statement), star: names::has_star(&statement) };
        let mut relations = Relations::new();
        let mut spelling = Spelling::default();
        let schema = MemorySchemaProvider::new();
        let origins = Arc::<Origins>::default();
        for relation in &spec.relations {
            let provided = self.provide(relation.clone(), &mentions, &spec.settings, &origins).await?;
            spelling.add(&provided.name, provided.spelling);
            relations.insert(provided.name.clone(), provided.columns);
            schema.register_table(provided.name, provided.provider).map_err(|e| from_datafusion(&e))?;
        }
        let state = with_tables(state, schema)?;
        names::resolve(&mut statement, &relations)?;
        spelling.aliases(&statement);
        let parameters = parameters(&spec.parameters)?;
        self.cpu
            .run(async move {
                let plan =
                    logical_plan(&state, statement, parameters).await.map_err(|e| from_datafusion(&e))?;
                SQLOptions::new()
                    .with_allow_ddl(false)
                    .with_allow_dml(false)
                    .with_allow_statements(false)
                    .verify_plan(&plan)
                    .map_err(|e| from_datafusion(&e))?;
                let schema = natural_schema(&spelling.output(plan.schema()));
                Ok(PlannedQuery { schema, plan, state, origins })
            })
            .await
    }

    async fn provide(
        &self,
        relation: stevedore_proto::v1::Relation,
        mentions: &Mentions,
        settings: &HashMap<String, String>,
        origins: &Arc<Origins>,
    ) -> Result<super::relations::Provided> {
        // The caller may be on any runtime; stores belong to the I/O one.
        let sources = Arc::clone(&self.sources);
        let mentions = Mentions { names: mentions.names.clone(), star: mentions.star };
        let (settings, origins) = (settings.clone(), Arc::clone(origins));
        let task =
            self.io.spawn(async move { sources.provide(relation, &mentions, &settings, &origins).await });
        match AbortOnDropHandle::new(task).await {
            Ok(result) => result,
            Err(e) => Err(Error::internal(format!("reading a relation failed: {e}"))),
        }
    }

    /// The data files of a numbered scan, in the order of their numbers.
    ///
    /// # Errors
    /// Where the table's metadata cannot be read.
    pub(crate) async fn data_files(&self, scan: &TableScan) -> Result<Vec<DataFileFacts>> {
        let (sources, scan) = (Arc::clone(&self.sources), scan.clone());
        let task = self.io.spawn(async move { sources.table(&scan).await?.file_list().await });
        match AbortOnDropHandle::new(task).await {
            Ok(files) => files,
            Err(e) => Err(Error::internal(format!("listing the files of a table failed: {e}"))),
        }
    }

    /// Runs a planned query. The stream stops the query when it is dropped.
    ///
    /// # Errors
    /// Where no physical plan can be made (a relation that cannot be read).
    pub async fn execute(&self, planned: PlannedQuery) -> Result<ResultStream> {
        let PlannedQuery { schema, plan, state, .. } = planned;
        let (sender, receiver) = mpsc::channel(RESULT_BATCHES);
        let target = Arc::clone(&schema);
        let mut stream =
            self.cpu.run(async move { run(&state, &plan).await.map_err(|e| from_datafusion(&e)) }).await?;
        let task = self.cpu.spawn(async move {
            while let Some(batch) = stream.next().await {
                let batch =
                    batch.map_err(|e| from_datafusion(&e)).and_then(|batch| natural_batch(&batch, &target));
                let failed = batch.is_err();
                if sender.send(batch).await.is_err() || failed {
                    break;
                }
            }
        });
        Ok(ResultStream { schema, receiver, task: Some(task), done: false, _cpu: Arc::clone(&self.cpu) })
    }

    /// Plans and runs.
    ///
    /// # Errors
    /// As [`QueryEngine::plan`] and [`QueryEngine::execute`].
    pub async fn query(&self, spec: &QuerySpec) -> Result<ResultStream> {
        self.execute(self.plan(spec).await?).await
    }
}

async fn run(state: &SessionState, plan: &LogicalPlan) -> DfResult<SendableRecordBatchStream> {
    let physical = state.create_physical_plan(plan).await?;
    let (physical, rows) = batch_rows::fit(physical, state.config().batch_size()).await?;
    let config = state.config().clone().with_batch_size(rows);
    execute_stream(physical, Arc::new(TaskContext::from(state).with_session_config(config)))
}

/// What `now()` and its like are in a query.
fn started_on(spec: &QuerySpec) -> DateTime<Utc> {
    let given = DateTime::from_timestamp_millis(spec.started_on_ms);
    given.filter(|_| spec.started_on_ms != 0).unwrap_or_else(Utc::now)
}

fn runtime_env(config: &EngineConfig) -> Result<Arc<RuntimeEnv>> {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(config.memory_bytes)))
        .with_temp_file_path(&config.spill_dir)
        .with_max_temp_directory_size(config.spill_bytes)
        .build_arc()
        .map_err(|e| from_datafusion(&e))?;
    let url = url::Url::parse(STORE_URL).map_err(|e| Error::internal(e.to_string()))?;
    runtime.register_object_store(&url, Arc::new(InMemory::new()));
    Ok(runtime)
}

fn session_state(base: &SessionState, settings: &HashMap<String, String>) -> Result<SessionState> {
    let options = functions::cast_options(settings)?;
    let ours: Vec<Arc<ScalarUDF>> = functions::all(&options).into_iter().map(Arc::new).collect();
    let is_utc = Zone::parse(&options.timezone).is_ok_and(|zone| zone == Zone::Utc);
    let coercion = VariantCoercion::new(&ours, is_utc)
        .ok_or_else(|| Error::internal("the functions of VARIANT are not registered"))?;
    let coercion = Arc::new(coercion);
    let mut rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>> = vec![Arc::clone(&coercion) as _];
    rules.extend(Analyzer::new().rules);
    rules.push(Arc::new(ScalarSubqueries::default()));
    let mut planners: Vec<Arc<dyn ExprPlanner>> = vec![coercion];
    planners.extend(base.expr_planners().iter().cloned());
    let mut scalars: Vec<Arc<ScalarUDF>> = base.scalar_functions().values().cloned().collect();
    scalars.extend(ours);
    let scalars = scalars.into_iter().map(functions::bounded).collect();
    let mut aggregates: Vec<Arc<AggregateUDF>> = base.aggregate_functions().values().cloned().collect();
    aggregates.extend(functions::aggregates().into_iter().map(Arc::new));
    Ok(SessionStateBuilder::new_from_existing(base.clone())
        .with_session_id(uuid::Uuid::new_v4().to_string())
        .with_analyzer_rules(rules)
        .with_expr_planners(planners)
        .with_scalar_functions(scalars)
        .with_aggregate_functions(aggregates)
        .build())
}

/// The session with these relations.
pub(crate) fn with_tables(state: SessionState, schema: MemorySchemaProvider) -> Result<SessionState> {
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(SCHEMA, Arc::new(schema)).map_err(|e| from_datafusion(&e))?;
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(CATALOG.to_owned(), Arc::new(catalog));
    Ok(SessionStateBuilder::new_from_existing(state).with_catalog_list(Arc::new(catalogs)).build())
}

/// Parses one SELECT, or EXPLAIN of one.
///
/// # Errors
/// Invalid input; not supported for every other statement.
pub(crate) fn parse(sql: &str) -> Result<Statement> {
    let error = |e| from_datafusion(&e);
    let mut statements =
        DFParserBuilder::new(sql).build().map_err(error)?.parse_statements().map_err(error)?;
    let (Some(statement), true) = (statements.pop_front(), statements.is_empty()) else {
        return Err(Error::invalid("a query must be one statement"));
    };
    match statement {
        DfStatement::Statement(statement)
            if matches!(*statement, Statement::Query(_) | Statement::Explain { .. }) =>
        {
            Ok(*statement)
        }
        // DataFusion's parser makes a statement of its own of every EXPLAIN.
        DfStatement::Explain(explain) if explain.format.is_none() => match *explain.statement {
            DfStatement::Statement(query) if matches!(*query, Statement::Query(_)) => {
                Ok(Statement::Explain {
                    describe_alias: DescribeAlias::Explain,
                    analyze: explain.analyze,
                    verbose: explain.verbose,
                    query_plan: false,
                    estimate: false,
                    statement: query,
                    format: None,
                    options: None,
                })
            }
            _ => Err(Error::not_supported("EXPLAIN of anything but a query")),
        },
        DfStatement::Explain(_) => Err(Error::not_supported_yet("EXPLAIN with a format")),
        other => {
            let text = other.to_string();
            let first = text.split_whitespace().next().unwrap_or("").to_ascii_uppercase();
            Err(Error::not_supported(format!("{first} as a query: workers only run SELECT")))
        }
    }
}

async fn logical_plan(
    state: &SessionState,
    statement: Statement,
    parameters: Vec<ScalarValue>,
) -> datafusion::error::Result<LogicalPlan> {
    let plan = state.statement_to_plan(DfStatement::Statement(Box::new(statement))).await?;
    if parameters.is_empty() && plan.get_parameter_names().is_ok_and(|names| !names.is_empty()) {
        // Only described: the values come with the execution.
        return Ok(plan);
    }
    let plan = if parameters.is_empty() { plan } else { plan.with_param_values(parameters)? };
    state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})
}

/// The values of `$1`, `$2`, …
fn parameters(messages: &[Vec<u8>]) -> Result<Vec<ScalarValue>> {
    let Some(bytes) = messages.first() else { return Ok(Vec::new()) };
    let (_, batches) = read_ipc(bytes).map_err(|e| e.context("the parameters of the query"))?;
    let Some(row) = batches.iter().find(|batch| batch.num_rows() > 0) else {
        return Ok(Vec::new());
    };
    if messages.len() > 1 || row.num_rows() > 1 || batches.len() > 1 {
        return Err(Error::not_supported("several rows of parameters for one query"));
    }
    row.columns()
        .iter()
        .map(|column| ScalarValue::try_from_array(column, 0).map_err(|e| from_datafusion(&e)))
        .collect()
}

/// The result of a query. Dropping it stops the query.
pub struct ResultStream {
    schema: SchemaRef,
    receiver: mpsc::Receiver<Result<RecordBatch>>,
    task: Option<AbortOnDropHandle<()>>,
    done: bool,
    /// The threads live as long as what they compute is wanted. After the task, which must stop first.
    _cpu: Arc<CpuRuntime>,
}

impl ResultStream {
    /// The schema of every batch.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

impl Stream for ResultStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.done {
            return Poll::Ready(None);
        }
        match self.receiver.poll_recv(context) {
            Poll::Ready(Some(batch)) => {
                self.done = batch.is_err();
                Poll::Ready(Some(batch))
            }
            Poll::Pending => Poll::Pending,
            // The sender is gone: the end, or a panic that must not pass for one.
            Poll::Ready(None) => match self.task.as_mut().map(|task| Pin::new(task).poll(context)) {
                Some(Poll::Pending) => Poll::Pending,
                Some(Poll::Ready(Err(e))) => {
                    self.done = true;
                    self.task = None;
                    Poll::Ready(Some(Err(Error::internal(format!("the query failed: {e}")))))
                }
                Some(Poll::Ready(Ok(()))) | None => {
                    self.done = true;
                    self.task = None;
                    Poll::Ready(None)
                }
            },
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
