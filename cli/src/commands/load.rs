//! `stevedore load`: files into a table in one command.

use clap::{Args, ValueEnum};
use stevedore_common::Result;
use stevedore_common::file_format::FormatKind;

use super::server::ServerArgs;
use crate::client::Client;
use crate::load::{self, Header, Load};
use crate::shell::Options;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum HeaderArg {
    Auto,
    Yes,
    No,
}

#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// A local file, folder or glob in quotes ('orders/*.csv'), or a URL (s3://bucket/path/*.parquet).
    source: String,
    /// The table, created to fit the files if it does not exist.
    #[arg(long, value_name = "TABLE")]
    into: String,
    #[command(flatten)]
    server: ServerArgs,
    /// The format of the files: csv, tsv, ndjson, json, parquet, orc, avro, arrow, arrow_stream; by default
    /// that of their extension, of a folder that of all of its files.
    #[arg(long, value_parser = format_kind)]
    format: Option<FormatKind>,
    /// Options of the format, as CREATE FILE FORMAT takes them: "FIELD_DELIMITER = ';' NULL_DISPLAY = ''".
    #[arg(long, value_name = "OPTIONS")]
    format_options: Option<String>,
    /// Whether the first line of CSV and TSV files names the columns: --header (it does), --header=no.
    #[arg(long, value_enum, default_value = "auto", num_args = 0..=1, require_equals = true, default_missing_value = "yes")]
    header: HeaderArg,
    /// Create the table if it does not exist (the default).
    #[arg(long, overrides_with = "no_create")]
    create: bool,
    /// Fail if the table does not exist.
    #[arg(long, overrides_with = "create")]
    no_create: bool,
    /// What a bad row does: abort, abort_N, continue, skip_file, skip_file_N, skip_file_N%.
    #[arg(long, value_name = "MODE")]
    on_error: Option<String>,
    /// The connection (CREATE CONNECTION) that the URL is reached by.
    #[arg(long, value_name = "NAME")]
    connection: Option<String>,
}

/// A format by its name.
fn format_kind(name: &str) -> std::result::Result<FormatKind, String> {
    FormatKind::parse("--format", name).map_err(|error| error.message().to_owned())
}

impl LoadArgs {
    fn load(&self) -> Load {
        Load {
            source: self.source.clone(),
            table: self.into.clone(),
            format: self.format,
            format_options: self.format_options.clone(),
            header: match self.header {
                HeaderArg::Auto => Header::Auto,
                HeaderArg::Yes => Header::Yes,
                HeaderArg::No => Header::No,
            },
            create: self.create || !self.no_create,
            on_error: self.on_error.clone(),
            connection: self.connection.clone(),
        }
    }
}

pub(super) async fn run(args: LoadArgs) -> Result<()> {
    let load = args.load();
    // Who names files on the command line allows them.
    let folder = load::local_folder(&load.source, &std::env::current_dir()?)?;
    args.server.run(folder, async |client| speak(&load, client).await).await
}

async fn speak(load: &Load, client: Client) -> Result<()> {
    load::run(&client, load, &Options::default(), &mut std::io::stdout()).await
}
