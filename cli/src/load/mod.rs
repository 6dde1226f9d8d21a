//! `stevedore load`: files into a table in one command, by SQL alone.
//!
//! Comes in: what the user named, the table, a client. Goes out: a table made to fit the files where there
//! is none, a COPY INTO with its progress and report. A stage with a name of its own stands for the files
//! meanwhile; it is dropped in the end, after a failure too, and so is a table that was made for a load that
//! failed. Must never: look into files itself (the server may run elsewhere), leave a table half loaded (COPY
//! INTO is one transaction). Fails as the statements do, without places in texts that nobody wrote.

mod format;
mod source;

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use stevedore_common::error::ResultExt;
use stevedore_common::file_format::FormatKind;
use stevedore_common::{Error, ErrorKind, Result};
use uuid::Uuid;

use crate::client::Client;
use crate::shell::{self, Options};
use crate::sql_text;
use format::FormatOptions;
use source::format_of;
pub(crate) use source::{Source, absolute};

/// Files of a folder whose extensions are looked at.
const FILES_LISTED: usize = 10_000;

/// Whether the first record of CSV and TSV files names the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Header {
    /// Found out from the files.
    #[default]
    Auto,
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// What to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// A local path or glob, or a URL.
    pub source: String,
    /// The table, perhaps with its database.
    pub table: String,
    /// The format; `None`: by extension.
    pub format: Option<FormatKind>,
    /// Options of the format, as CREATE FILE FORMAT takes them.
    pub format_options: Option<String>,
    /// Header of CSV and TSV.
    pub header: Header,
    /// Whether a table that does not exist is created.
    pub create: bool,
    /// ON_ERROR.
    pub on_error: Option<String>,
    /// The connection that a URL is reached by.
    pub connection: Option<String>,
}

/// A column as infer_schema tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    name: String,
    ty: String,
}

/// `[database.]table` as a name in SQL: as written where it has quotes, else in lower case.
fn table_name(table: &str) -> String {
    if table.contains('"') {
        return table.to_owned();
    }
    table.split('.').map(|part| sql_text::name(&part.to_lowercase())).collect::<Vec<_>>().join(".")
}

/// An error of a statement that the user did not write: without the place in it.
fn unplaced(error: Error) -> Error {
    let plain = Error::new(error.kind(), error.message_with_context()).retryable(error.is_retryable());
    match error.hint_text() {
        Some(hint) => plain.hint(hint),
        None => plain,
    }
}

/// The local folder that the files are in, if they are local.
///
/// # Errors
/// Invalid input for a path or glob that is none.
pub fn local_folder(source: &str, current: &Path) -> Result<Option<PathBuf>> {
    Ok(Source::parse(source, current)?.local)
}

/// Loads, and prints the report of the load; notes go to standard error.
///
/// # Errors
/// What is wrong with the request, the files or their rows.
pub async fn run(
    client: &Client,
    load: &Load,
    options: &Options,
    out: &mut (dyn Write + Send),
) -> Result<()> {
    let current = std::env::current_dir().context(|| "the current folder".to_owned())?;
    let source = Source::parse(&load.source, &current)?;
    let options_text = load.format_options.as_deref().unwrap_or_default();
    let connection = match &load.connection {
        Some(name) => format!(" CONNECTION = (CONNECTION_NAME = {})", sql_text::literal(name)),
        None => String::new(),
    };
    let by_name = load.format.or_else(|| format_of(&load.source));
    let format = match FormatOptions::parse(options_text, load.format, by_name)? {
        Some(format) => format,
        None => {
            let by_files = format_of_files(client, &source, &connection).await?;
            FormatOptions::parse(options_text, None, by_files)?.ok_or_else(|| {
                Error::invalid(format!("the format of '{}' cannot be told by one extension", load.source))
                    .hint("name it with --format csv, tsv, ndjson, json, parquet, …")
            })?
        }
    };
    let kind = format.kind;
    if load.header != Header::Auto && !has_header_option(kind) {
        return Err(Error::invalid(format!("{kind} files have no header; --header is for CSV and TSV")));
    }
    let table = table_name(&load.table);
    let known = known_columns(client, &table).await?;
    if known.is_none() && !load.create {
        return Err(Error::not_found(format!("table '{}' does not exist", load.table))
            .hint("create it first, or leave --no-create out"));
    }
    let stage = stage_name();
    // The stage's own format is the one with a header; the built-in ones have none.
    let create = format!(
        "CREATE STAGE {stage} URL = {}{connection} FILE_FORMAT = ({})",
        sql_text::literal(&source.url),
        format.in_sql(has_header_option(kind))
    );
    client.query(&create).await.map_err(unplaced)?;
    let work = Work { client, load, source: &source, format: &format, table: &table, stage: &stage };
    let result = tokio::select! {
        result = work.run_with_format(known, options, out) => result,
        _ = tokio::signal::ctrl_c() => Err(Error::cancelled("interrupted")
            .hint("a load that had begun goes on in the server")),
    };
    let dropped = client.query(&format!("DROP STAGE IF EXISTS {stage}")).await.map_err(unplaced);
    // The first failure is the one to tell.
    result.and(dropped.map(drop).context(|| format!("dropping the stage {stage} that the load used")))
}

fn stage_name() -> String {
    format!("load_{}", Uuid::new_v4().simple())
}

/// The format that the extensions of a folder's files agree on.
async fn format_of_files(client: &Client, source: &Source, connection: &str) -> Result<Option<FormatKind>> {
    let stage = stage_name();
    let create = format!("CREATE STAGE {stage} URL = {}{connection}", sql_text::literal(&source.url));
    client.query(&create).await.map_err(unplaced)?;
    let location = sql_text::literal(&format!("@{stage}/{}", source.path));
    let pattern = source.pattern.as_ref();
    let pattern = pattern.map(|pattern| format!(", pattern => {}", sql_text::literal(pattern)));
    let list = format!(
        "SELECT name FROM list_stage(location => {location}{}) WHERE size > 0 LIMIT {FILES_LISTED}",
        pattern.unwrap_or_default()
    );
    let listed = tokio::select! {
        listed = client.query(&list) => listed.map_err(unplaced),
        _ = tokio::signal::ctrl_c() => Err(Error::cancelled("interrupted")),
    };
    let dropped = client.query(&format!("DROP STAGE IF EXISTS {stage}")).await.map_err(unplaced);
    let rows = rows_of(&listed?)?;
    dropped?;
    let mut formats = rows.iter().map(|row| row.first().and_then(|name| format_of(name)));
    let first = formats.next().flatten();
    Ok(first.filter(|first| formats.all(|format| format == Some(*first))))
}

fn has_header_option(kind: FormatKind) -> bool {
    matches!(kind, FormatKind::Csv | FormatKind::Tsv)
}

/// The columns of a table; `None` if it does not exist.
async fn known_columns(client: &Client, table: &str) -> Result<Option<Vec<String>>> {
    match client.query(&format!("DESC TABLE {table}")).await {
        Ok(batches) => {
            Ok(Some(rows_of(&batches)?.into_iter().filter_map(|row| row.into_iter().next()).collect()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unplaced(error)),
    }
}

fn rows_of(batches: &[RecordBatch]) -> Result<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    for batch in batches {
        let columns = shell::cells(batch)?;
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().filter_map(|column| column.get(row).cloned()).collect());
        }
    }
    Ok(rows)
}

/// A load with its stage.
struct Work<'a> {
    client: &'a Client,
    load: &'a Load,
    source: &'a Source,
    format: &'a FormatOptions,
    table: &'a str,
    stage: &'a str,
}

impl Work<'_> {
    /// Runs, with a file format of the same name where there are options: the one without a header.
    async fn run_with_format(
        &self,
        known: Option<Vec<String>>,
        options: &Options,
        out: &mut (dyn Write + Send),
    ) -> Result<()> {
        if !self.needs_format() {
            return self.run(known, options, out).await;
        }
        let create = format!("CREATE FILE FORMAT {} {}", self.stage, self.format.in_sql(false));
        self.client.query(&create).await.map_err(unplaced)?;
        let result = self.run(known, options, out).await;
        let dropped = self.client.query(&format!("DROP FILE FORMAT IF EXISTS {}", self.stage)).await;
        result.and(dropped.map(drop).map_err(unplaced))
    }

    fn needs_format(&self) -> bool {
        has_header_option(self.format.kind) && !self.format.is_built_in()
    }

    async fn run(
        &self,
        known: Option<Vec<String>>,
        options: &Options,
        out: &mut (dyn Write + Send),
    ) -> Result<()> {
        let (header, columns) = self.look(known.as_deref()).await?;
        let mut created = false;
        let mut target = self.table.to_owned();
        match &known {
            None => {
                self.create(&columns).await?;
                created = true;
            }
            // Names of a header that are the table's say where the columns go.
            Some(known) if header => {
                if let Some(names) = matching(known, &columns) {
                    target.push_str(&format!(" ({})", names.join(", ")));
                }
            }
            Some(_) => {}
        }
        let on_error = match &self.load.on_error {
            Some(mode) => format!(" ON_ERROR = {}", sql_text::literal(mode)),
            None => String::new(),
        };
        let copy = format!(
            "COPY INTO {target} FROM {}{} FILE_FORMAT = ({}){on_error}",
            sql_text::literal(&self.location()),
            self.pattern()
                .map(|pattern| format!(" PATTERN = {}", sql_text::literal(pattern)))
                .unwrap_or_default(),
            self.format.in_sql(header)
        );
        let Err(error) = shell::run_statement(self.client, &copy, options, out).await else { return Ok(()) };
        let error = unplaced(error);
        if !created || error.kind() == ErrorKind::OutcomeUnknown {
            return Err(error);
        }
        // Nothing was loaded, and the next try shall look at the files anew.
        match self.client.query(&format!("DROP TABLE {}", self.table)).await {
            Ok(_) => Err(error),
            Err(_) => Err(error.context(format!("table {} was created and is empty", self.table))),
        }
    }

    fn location(&self) -> String {
        format!("@{}/{}", self.stage, self.source.path)
    }

    fn pattern(&self) -> Option<&str> {
        self.source.pattern.as_deref()
    }

    /// Whether the files have a header, and their columns where somebody needs them.
    async fn look(&self, known: Option<&[String]>) -> Result<(bool, Vec<Column>)> {
        if !has_header_option(self.format.kind) {
            let columns = if known.is_none() { self.infer(None).await? } else { Vec::new() };
            return Ok((false, columns));
        }
        let plain_format = match self.needs_format() {
            true => self.stage.to_owned(),
            false => self.format.kind.as_str().to_lowercase(),
        };
        match self.load.header {
            Header::Yes => Ok((true, self.infer(None).await?)),
            Header::No if known.is_some() => Ok((false, Vec::new())),
            Header::No => Ok((false, self.infer(Some(&plain_format)).await?)),
            Header::Auto => {
                let named = self.infer(None).await?;
                let plain = self.infer(Some(&plain_format)).await?;
                if is_header(&named, &plain, known) {
                    return Ok((true, named));
                }
                if plain.iter().all(|column| column.ty == "VARCHAR") {
                    eprintln!(
                        "note: all columns are text, so the first line counts as data; --header if it is one"
                    );
                }
                Ok((false, plain))
            }
        }
    }

    async fn infer(&self, format: Option<&str>) -> Result<Vec<Column>> {
        let mut arguments = format!("location => {}", sql_text::literal(&self.location()));
        if let Some(pattern) = self.pattern() {
            arguments.push_str(&format!(", pattern => {}", sql_text::literal(pattern)));
        }
        if let Some(format) = format {
            arguments.push_str(&format!(", file_format => {}", sql_text::literal(format)));
        }
        let sql = format!("SELECT column_name, type FROM infer_schema({arguments}) ORDER BY order_id");
        let batches = self.client.query(&sql).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                Error::not_found(format!("no file that holds anything matches '{}'", self.load.source))
                    .hint("the path is looked for by the server")
            }
            _ => unplaced(error),
        })?;
        let column = |row: Vec<String>| {
            let mut cells = row.into_iter();
            Some(Column { name: cells.next()?, ty: cells.next()? })
        };
        Ok(rows_of(&batches)?.into_iter().filter_map(column).collect())
    }

    async fn create(&self, columns: &[Column]) -> Result<()> {
        if columns.is_empty() {
            return Err(Error::bad_data(format!("the files of '{}' have no columns", self.load.source))
                .hint("create the table first"));
        }
        if let Some((first, second)) = alike(columns) {
            return Err(Error::bad_data(format!(
                "the files of '{}' have the columns '{first}' and '{second}', and a table has no two columns whose \
                 names differ in case only",
                self.load.source
            ))
            .hint(
                "create the table first, and load with COPY INTO t FROM (SELECT $1:a, $1:A, … FROM …), where $1 is \
                 the whole row",
            ));
        }
        let list: Vec<String> =
            columns.iter().map(|column| format!("{} {}", sql_text::name(&column.name), column.ty)).collect();
        let list = list.join(", ");
        self.client.query(&format!("CREATE TABLE {} ({list})", self.table)).await.map_err(unplaced)?;
        eprintln!("created table {} ({list})", self.load.table);
        Ok(())
    }
}

/// Two columns whose names differ in case only.
fn alike(columns: &[Column]) -> Option<(&str, &str)> {
    let mut names: HashMap<String, &str> = HashMap::new();
    columns.iter().find_map(|column| {
        let before = names.insert(column.name.to_lowercase(), &column.name)?;
        Some((before, column.name.as_str()))
    })
}

/// The table's columns that a header names, all of them different; `None` where a name is not the table's.
fn matching(known: &[String], columns: &[Column]) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for column in columns {
        let exact = known.iter().find(|name| **name == column.name);
        let name = exact.or_else(|| known.iter().find(|name| name.eq_ignore_ascii_case(&column.name)))?;
        let name = sql_text::name(name);
        if names.contains(&name) {
            return None;
        }
        names.push(name);
    }
    (!names.is_empty()).then_some(names)
}

/// Whether the first record is a header: it names the table's columns, or makes text of a column that is
/// something else without it.
fn is_header(named: &[Column], plain: &[Column], known: Option<&[String]>) -> bool {
    known.is_some_and(|known| matching(known, named).is_some())
        || named.iter().zip(plain).any(|(named, plain)| named.ty != "VARCHAR" && plain.ty == "VARCHAR")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(columns: &[(&str, &str)]) -> Vec<Column> {
        columns.iter().map(|(name, ty)| Column { name: (*name).into(), ty: (*ty).into() }).collect()
    }

    #[test]
    fn names_and_literals_survive_sql() {
        assert_eq!(table_name("Shop.Orders"), "\"shop\".\"orders\"");
        assert_eq!(table_name("\"My Table\""), "\"My Table\"");
        assert_eq!(sql_text::literal("it's [^/]*\\.csv"), "'it''s [^/]*\\\\.csv'");
        assert_eq!(sql_text::name("a\"b"), "\"a\"\"b\"");
    }

    #[test]
    fn two_columns_of_one_name_are_found() {
        assert_eq!(alike(&columns(&[("a", "INT"), ("b", "INT"), ("A", "INT")])), Some(("a", "A")));
        assert_eq!(alike(&columns(&[("a", "INT"), ("b", "INT")])), None);
    }

    #[test]
    fn a_header_is_a_record_unlike_the_others() {
        let plain = columns(&[("c1", "VARCHAR"), ("c2", "VARCHAR")]);
        assert!(is_header(&columns(&[("id", "BIGINT"), ("name", "VARCHAR")]), &plain, None));
        assert!(!is_header(&columns(&[("Ada", "VARCHAR"), ("Bob", "VARCHAR")]), &plain, None));
        let known = ["Name".to_owned(), "city".to_owned(), "id".to_owned()];
        let named = columns(&[("city", "VARCHAR"), ("name", "VARCHAR")]);
        assert!(is_header(&named, &plain, Some(&known)));
        assert_eq!(matching(&known, &named), Some(vec!["\"city\"".to_owned(), "\"Name\"".to_owned()]));
        assert_eq!(matching(&known, &columns(&[("id", "VARCHAR"), ("ID", "VARCHAR")])), None);
        assert_eq!(matching(&known, &columns(&[("id", "VARCHAR"), ("other", "VARCHAR")])), None);
    }
}
