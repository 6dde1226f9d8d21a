//! Compilation: the SELECT of a COPY to expressions over decoded columns.
//!
//! A column that is only cast (or loaded as it is) is decoded straight to its type, so that text is
//! parsed once. With a WHERE that is left alone: rows that it drops must not be rejected for a value that
//! nobody asked for.
//!
//! Where the types or the number of a file's columns matter to the SELECT, the transform is good for files of those
//! columns only, and the decoder is told so.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use chrono::{DateTime, Utc};
use datafusion::catalog::MemorySchemaProvider;
use datafusion::catalog::SchemaProvider;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column as DfColumn, DFSchema};
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::Statement;
use stevedore_common::file_format::MissingFieldAs;
use stevedore_common::schema::{Column, TableSchema};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::spec::{ColumnSource, DecodeSpec, ExpectedColumns, OutputColumn};

use super::defaults::DefaultValue;
use super::{Output, OutputSource, Transform, TransformRequest};
use crate::query::from_datafusion;
use crate::query::functions::{self, CAST};
use crate::query::names::{self, RelationColumns, Relations};
use crate::query::row_filter::row_filter;
use crate::query::session::{QueryEngine, parse, with_tables};
use crate::query::spelling::planned_names;
use crate::query::stage_scan::{Metadata, WHOLE_ROW, is_positional, position};

impl Transform {
    /// Compiles what a COPY does to its rows.
    ///
    /// # Errors
    /// Invalid input for unknown columns, a wrong number of expressions, types that can never be cast;
    /// not supported for anything but a plain SELECT … WHERE.
    pub async fn compile(engine: &QueryEngine, request: TransformRequest<'_>) -> Result<Self> {
        let state = engine.session(request.settings)?;
        let mut cast = functions::cast_options(request.settings)?;
        cast.invalid_json_as_null = request.disable_variant_check;
        let now = Utc::now();
        let targets = target_columns(request.table, request.field_ids)?;
        let mut compiled = if request.sql.is_empty() {
            by_match(&state, &request, &targets, now)?
        } else {
            by_select(&state, &request, &targets, now).await?
        };
        compiled.spec.case_sensitive = request.case_sensitive;
        compiled.spec.evolves = request.evolves;
        compiled.spec.cast = cast.clone();
        let mut sources: HashMap<i32, (usize, OutputSource)> = targets
            .iter()
            .zip(compiled.sources)
            .enumerate()
            .map(|(index, (column, source))| (column.id, (index + 1, source)))
            .collect();
        let outputs = request
            .table
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                let (number, source) =
                    sources.remove(&column.id).unwrap_or((index + 1, OutputSource::Default));
                let default = DefaultValue::compile(&state, column, number, &cast, now)?;
                Ok(Output { column: column.clone(), number, source, default })
            })
            .collect::<Result<Vec<_>>>()?;
        let decoded: Vec<Option<usize>> = (0..compiled.input.fields().len())
            .map(|column| (column < compiled.spec.columns.len()).then_some(column))
            .collect();
        let filter = compiled.filter.as_ref();
        let row_filter = filter.and_then(|filter| row_filter(filter, &compiled.input, &decoded));
        Ok(Self {
            row_filter,
            spec: compiled.spec,
            metadata: compiled.metadata,
            input: compiled.input,
            filter: compiled.filter,
            outputs,
            schema: request.table.to_arrow(),
            cast,
            scan_start_us: now.timestamp_micros(),
        })
    }
}

/// What the two ways of compiling have in common.
struct Compiled {
    spec: DecodeSpec,
    metadata: Vec<Metadata>,
    input: SchemaRef,
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// One for each target column.
    sources: Vec<OutputSource>,
}

/// The columns of a table with these ids; all of them where there are none.
pub(crate) fn target_columns<'a>(table: &'a TableSchema, field_ids: &[i32]) -> Result<Vec<&'a Column>> {
    if field_ids.is_empty() {
        return Ok(table.columns.iter().collect());
    }
    let column = |id: &i32| {
        let mut columns = table.columns.iter();
        columns
            .find(|column| column.id == *id)
            .ok_or_else(|| Error::internal(format!("the table has no column of id {id}")))
    };
    field_ids.iter().map(column).collect()
}

fn by_match(
    state: &SessionState,
    request: &TransformRequest<'_>,
    targets: &[&Column],
    now: DateTime<Utc>,
) -> Result<Compiled> {
    let positional = is_positional(request.format.kind);
    let columns: Vec<OutputColumn> = targets
        .iter()
        .enumerate()
        .map(|(index, column)| OutputColumn {
            name: column.name.clone(),
            ty: Some(column.ty.clone()),
            source: if positional {
                ColumnSource::Position(index)
            } else {
                ColumnSource::Name(column.name.clone())
            },
            nullable: column.nullable,
            has_default: column.default.is_some(),
        })
        .collect();
    let fields: Vec<Field> = targets
        .iter()
        .enumerate()
        .map(|(index, column)| column.ty.to_field(&format!("c{index}"), true))
        .collect();
    let input: SchemaRef = Arc::new(Schema::new(fields));
    let df_schema = DFSchema::try_from(Arc::clone(&input)).map_err(|e| from_datafusion(&e))?;
    let sources = (0..targets.len())
        .map(|index| {
            let column = Expr::Column(DfColumn::new_unqualified(format!("c{index}")));
            let (expr, _) = physical(state, column, &df_schema, now)?;
            Ok(OutputSource::Expression { expr, direct: Some(index) })
        })
        .collect::<Result<Vec<_>>>()?;
    let mut spec = DecodeSpec::new(request.format.clone(), columns);
    if positional && request.format.error_on_column_count_mismatch {
        spec.record_fields = Some(targets.len());
    }
    Ok(Compiled { spec, metadata: Vec::new(), input, filter: None, sources })
}

/// A column that the SELECT may name.
#[derive(Debug, Clone)]
enum SourceColumn {
    Decoded(OutputColumn),
    Metadata(Metadata),
}

impl SourceColumn {
    fn sql_type(&self) -> SqlType {
        match self {
            Self::Decoded(column) => column.ty.clone().unwrap_or(SqlType::String),
            Self::Metadata(metadata) => metadata.sql_type(),
        }
    }
}

async fn by_select(
    state: &SessionState,
    request: &TransformRequest<'_>,
    targets: &[&Column],
    now: DateTime<Utc>,
) -> Result<Compiled> {
    let mut statement = parse(request.sql)?;
    let has_star = names::has_star(&statement);
    let mut sources = source_columns(&statement, request);
    let (projection, filter) = analyzed(state, &mut statement, request, &sources).await?;
    if projection.len() != targets.len() {
        return Err(Error::invalid(format!(
            "the SELECT of the COPY gives {} columns where {} are expected",
            projection.len(),
            targets.len()
        )));
    }

    let mut uses: HashMap<String, usize> = HashMap::new();
    for expr in projection.iter().chain(&filter) {
        count_columns(expr, &mut uses)?;
    }
    let mut projection: Vec<Expr> = projection.into_iter().map(Expr::unalias).collect();
    let mut direct: Vec<Option<String>> = vec![None; projection.len()];
    // People know a column that is decoded for one target by that one's number.
    let mut numbers: HashMap<String, usize> = HashMap::new();
    if filter.is_none() {
        for (index, ((expr, target), direct)) in
            projection.iter_mut().zip(targets).zip(&mut direct).enumerate()
        {
            let Some((name, innermost)) = cast_chain(expr) else { continue };
            let Some(SourceColumn::Decoded(column)) = sources.get_mut(&name) else { continue };
            if uses.get(&name) != Some(&1) || column.source == ColumnSource::WholeRow {
                continue;
            }
            numbers.insert(name.clone(), index + 1);
            match innermost {
                Some(ty) => {
                    column.ty = Some(ty);
                    *expr = drop_innermost_cast(expr.clone())?;
                }
                None => {
                    column.ty = Some(target.ty.clone());
                    column.name.clone_from(&target.name);
                    column.nullable = target.nullable;
                    column.has_default = target.default.is_some();
                    *direct = Some(name);
                }
            }
        }
    }

    let fields: Vec<Field> =
        sources.iter().map(|(name, column)| column.sql_type().to_field(name, true)).collect();
    let all = Arc::new(Schema::new(fields));
    let df_schema = DFSchema::try_from(Arc::clone(&all)).map_err(|e| from_datafusion(&e))?;
    let mut exprs = Vec::with_capacity(projection.len());
    for (expr, target) in projection.into_iter().zip(targets) {
        let (expr, field) = physical(state, expr, &df_schema, now)?;
        stevedore_decode::cast::check_field(&field, &target.ty)
            .map_err(|e| e.context(format!("column '{}'", target.name)))?;
        exprs.push(expr);
    }
    let filter =
        filter.map(|filter| Ok::<_, Error>(physical(state, filter, &df_schema, now)?.0)).transpose()?;

    // Only what is used is decoded, so the places of the columns change.
    let used: HashSet<usize> =
        exprs.iter().chain(&filter).flat_map(collect_columns).map(|column| column.index()).collect();
    let mut columns = Vec::new();
    let mut column_numbers = Vec::new();
    let mut own_types = false;
    let mut metadata = Vec::new();
    let mut kept = Vec::new();
    for pass_metadata in [false, true] {
        for (index, (name, source)) in sources.iter().enumerate() {
            match source {
                _ if !used.contains(&index) => {}
                SourceColumn::Decoded(column) if !pass_metadata => {
                    // The others have the type that is asked for, whatever that of the file.
                    own_types |= column.source != ColumnSource::WholeRow && !numbers.contains_key(name);
                    columns.push(column.clone());
                    column_numbers.push(numbers.get(name).copied().unwrap_or(columns.len()));
                    kept.push((name.clone(), source.sql_type()));
                }
                SourceColumn::Metadata(which) if pass_metadata => {
                    metadata.push(*which);
                    kept.push((name.clone(), source.sql_type()));
                }
                _ => {}
            }
        }
    }
    let input: SchemaRef =
        Arc::new(Schema::new(kept.iter().map(|(name, ty)| ty.to_field(name, true)).collect::<Vec<_>>()));
    let place = |expr: Arc<dyn PhysicalExpr>| {
        datafusion::physical_expr::utils::reassign_expr_columns(expr, &input).map_err(|e| from_datafusion(&e))
    };
    let sources = exprs
        .into_iter()
        .zip(direct)
        .map(|(expr, direct)| {
            let direct = direct.and_then(|name| input.index_of(&name).ok());
            Ok(OutputSource::Expression { expr: place(expr)?, direct })
        })
        .collect::<Result<Vec<_>>>()?;
    let filter = filter.map(place).transpose()?;
    let by_own_types = own_types || has_star;
    let mut spec = DecodeSpec::new(request.format.clone(), columns);
    spec.numbers = column_numbers;
    if by_own_types && request.format.kind.says_columns() {
        spec.expected = Some(Arc::new(ExpectedColumns::Same(request.source_columns.to_vec())));
    }
    Ok(Compiled { spec, metadata, input, filter, sources })
}

/// Source columns in order, by the name that the SELECT has for them.
#[derive(Debug, Default)]
struct Sources {
    columns: Vec<(String, SourceColumn)>,
    /// Names of those that the file lacks, which * does not stand for.
    lacking: HashSet<String>,
}

impl Sources {
    fn iter(&self) -> impl Iterator<Item = &(String, SourceColumn)> {
        self.columns.iter()
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut SourceColumn> {
        self.columns.iter_mut().find(|(known, _)| known == name).map(|(_, column)| column)
    }

    fn add(&mut self, planned: &str, name: &str, ty: SqlType, source: ColumnSource) {
        let column =
            OutputColumn { name: name.to_owned(), ty: Some(ty), source, nullable: true, has_default: false };
        self.columns.push((planned.to_owned(), SourceColumn::Decoded(column)));
    }
}

/// Whether the name may be that of a column in a file that has named ones.
fn may_be_named(name: &str) -> bool {
    let numbered = name.strip_prefix('$').is_some_and(|n| n.bytes().all(|byte| byte.is_ascii_digit()));
    !numbered && Metadata::of_name(name).is_none()
}

fn source_columns(statement: &Statement, request: &TransformRequest<'_>) -> Sources {
    let mentioned = names::mentioned(statement);
    let mut sources = Sources::default();
    if is_positional(request.format.kind) {
        let last = mentioned.iter().filter_map(|name| position(name)).max().unwrap_or(0);
        for n in 1..=last {
            let name = format!("${n}");
            sources.add(&name, &name, SqlType::String, ColumnSource::Position(n - 1));
        }
    } else {
        if request.format.kind.is_json() {
            for name in &mentioned {
                if may_be_named(name) {
                    sources.add(name, name, SqlType::Variant, ColumnSource::Name(name.clone()));
                }
            }
        } else {
            let planned = planned_names(request.source_columns.iter().map(|(name, _)| name.as_str()));
            for ((name, ty), planned) in request.source_columns.iter().zip(planned) {
                sources.add(&planned, name, ty.clone(), ColumnSource::Name(name.clone()));
            }
            // Whether a file may lack a column is for MISSING_FIELD_AS to say.
            let may_lack = request.format.missing_field_as != MissingFieldAs::Error;
            for name in mentioned.iter().filter(|name| may_lack && may_be_named(name)) {
                let planned = name.to_lowercase();
                if sources.get_mut(&planned).is_none() {
                    sources.add(&planned, name, SqlType::Variant, ColumnSource::Name(name.clone()));
                    sources.lacking.insert(planned);
                }
            }
        }
        if mentioned.contains(WHOLE_ROW) {
            sources.add(WHOLE_ROW, WHOLE_ROW, SqlType::Variant, ColumnSource::WholeRow);
        }
    }
    for (name, metadata) in Metadata::ALL {
        if mentioned.iter().any(|mentioned| mentioned.eq_ignore_ascii_case(name)) {
            sources.columns.push((name.to_owned(), SourceColumn::Metadata(metadata)));
        }
    }
    sources
}

/// The projection and the filter of the SELECT, types coerced, columns unqualified.
async fn analyzed(
    state: &SessionState,
    statement: &mut Statement,
    request: &TransformRequest<'_>,
    sources: &Sources,
) -> Result<(Vec<Expr>, Option<Expr>)> {
    let error = |e| from_datafusion(&e);
    let fields: Vec<Field> =
        sources.iter().map(|(name, column)| column.sql_type().to_field(name, true)).collect();
    let hidden = sources
        .iter()
        .filter(|(name, column)| {
            let is_extra = name == WHOLE_ROW || matches!(column, SourceColumn::Metadata(_));
            is_extra || sources.lacking.contains(name)
        })
        .map(|(name, _)| name.clone())
        .collect();
    let columns = RelationColumns {
        columns: fields.iter().map(|field| field.name().clone()).collect(),
        hidden,
        star_refused: is_positional(request.format.kind).then_some("CSV and TSV files have no named columns"),
    };
    let relations: Relations = [(request.relation.to_owned(), columns)].into();
    names::resolve(statement, &relations)?;
    let tables = MemorySchemaProvider::new();
    let table = Arc::new(EmptyTable::new(Arc::new(Schema::new(fields))));
    tables.register_table(request.relation.to_owned(), table).map_err(error)?;
    let state = with_tables(state.clone(), tables)?;
    let plan =
        state.statement_to_plan(DfStatement::Statement(Box::new(statement.clone()))).await.map_err(error)?;
    let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {}).map_err(error)?;
    let LogicalPlan::Projection(projection) = plan else {
        return Err(refused(&plan));
    };
    let mut filter = None;
    let mut input = projection.input.as_ref();
    loop {
        match input {
            LogicalPlan::Filter(node) if filter.is_none() => {
                filter = Some(node.predicate.clone());
                input = node.input.as_ref();
            }
            LogicalPlan::SubqueryAlias(node) => input = node.input.as_ref(),
            LogicalPlan::TableScan(_) => break,
            other => return Err(refused(other)),
        }
    }
    let projection = projection.expr.into_iter().map(unqualified).collect::<Result<Vec<_>>>()?;
    Ok((projection, filter.map(unqualified).transpose()?))
}

fn refused(plan: &LogicalPlan) -> Error {
    let what = match plan {
        LogicalPlan::Aggregate(_) => "an aggregate",
        LogicalPlan::Window(_) => "a window function",
        LogicalPlan::Join(_) => "a join",
        LogicalPlan::Union(_) => "a set operation",
        LogicalPlan::Distinct(_) => "DISTINCT",
        LogicalPlan::Sort(_) => "ORDER BY",
        LogicalPlan::Limit(_) => "LIMIT",
        LogicalPlan::Unnest(_) => "a set-returning function",
        LogicalPlan::Projection(_) | LogicalPlan::Subquery(_) => "a subquery",
        _ => "this kind of query",
    };
    Error::not_supported(format!("{what} in the SELECT of a COPY"))
        .hint("load into a table first, then INSERT … SELECT from it")
}

fn unqualified(expr: Expr) -> Result<Expr> {
    expr.transform(|expr| {
        Ok(match expr {
            Expr::Column(column) if column.relation.is_some() => {
                Transformed::yes(Expr::Column(DfColumn::new_unqualified(column.name)))
            }
            other => Transformed::no(other),
        })
    })
    .data()
    .map_err(|e| from_datafusion(&e))
}

fn count_columns(expr: &Expr, uses: &mut HashMap<String, usize>) -> Result<()> {
    expr.apply(|expr| {
        if let Expr::Column(column) = expr {
            *uses.entry(column.name.clone()).or_default() += 1;
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map(drop)
    .map_err(|e| from_datafusion(&e))
}

/// For a column under nothing but casts: its name, and the type of the innermost cast.
fn cast_chain(expr: &Expr) -> Option<(String, Option<SqlType>)> {
    match expr {
        Expr::Column(column) => Some((column.name.clone(), None)),
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == CAST => {
            let [inner, Expr::Literal(ty, _)] = args.as_slice() else { return None };
            let (name, innermost) = cast_chain(inner)?;
            match innermost {
                Some(_) => Some((name, innermost)),
                None => Some((name, Some(SqlType::parse(ty.try_as_str().flatten()?).ok()?))),
            }
        }
        _ => None,
    }
}

fn drop_innermost_cast(expr: Expr) -> Result<Expr> {
    expr.transform_up(|expr| {
        Ok(match expr {
            Expr::ScalarFunction(ScalarFunction { func, mut args })
                if func.name() == CAST && matches!(args.first(), Some(Expr::Column(_))) =>
            {
                Transformed::new(args.swap_remove(0), true, TreeNodeRecursion::Stop)
            }
            other => Transformed::no(other),
        })
    })
    .data()
    .map_err(|e| from_datafusion(&e))
}

/// An expression ready to be evaluated, and the field that describes its values.
pub(super) fn physical(
    state: &SessionState,
    expr: Expr,
    schema: &DFSchema,
    now: DateTime<Utc>,
) -> Result<(Arc<dyn PhysicalExpr>, Field)> {
    let error = |e| from_datafusion(&e);
    let context = SimplifyContext::default()
        .with_schema(Arc::new(schema.clone()))
        .with_config_options(Arc::clone(state.config_options()))
        .with_query_execution_start_time(Some(now));
    let simplifier = ExprSimplifier::new(context);
    let expr = simplifier.coerce(expr, schema).map_err(error)?;
    let expr = simplifier.simplify(expr).map_err(error)?;
    let expr = state.create_physical_expr(expr, schema).map_err(error)?;
    let field = expr.return_field(schema.as_arrow()).map_err(error)?;
    Ok((expr, field.as_ref().clone()))
}
