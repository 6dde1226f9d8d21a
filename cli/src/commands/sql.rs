//! `stevedore sql`: statements to a server, or to an instance in this process.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use stevedore_common::{Error, Result};

use super::server::ServerArgs;
use crate::client::Client;
use crate::shell::{self, Format, Options};

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatArg {
    Table,
    Csv,
    Json,
}

#[derive(Debug, Args)]
pub(super) struct SqlArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Statements to run; without -e and -f a shell begins (or standard input is run, where it is no terminal).
    #[arg(short = 'e', long = "execute", conflicts_with = "file")]
    execute: Option<String>,
    /// A file of statements to run.
    #[arg(short = 'f', long = "file")]
    file: Option<PathBuf>,
    /// How rows are printed.
    #[arg(long, value_enum, default_value = "table")]
    format: FormatArg,
}

pub(super) async fn run(args: SqlArgs) -> Result<()> {
    args.server.run(None, async |client| speak(&args, client).await).await
}

async fn speak(args: &SqlArgs, client: Client) -> Result<()> {
    let options = Options {
        format: match args.format {
            FormatArg::Table => Format::Table,
            FormatArg::Csv => Format::Csv,
            FormatArg::Json => Format::Json,
        },
        ..Options::default()
    };
    let script = match (&args.execute, &args.file) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(file)) => Some(
            std::fs::read_to_string(file)
                .map_err(|e| Error::from(e).context(format!("file '{}'", file.display())))?,
        ),
        (None, None) if !std::io::IsTerminal::is_terminal(&std::io::stdin()) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            Some(text)
        }
        (None, None) => None,
    };
    let ran = match script {
        Some(text) => shell::run_script(&client, &text, &options, &mut std::io::stdout()).await,
        None => shell::prompt(&client, &options).await,
    };
    client.close().await;
    ran
}
