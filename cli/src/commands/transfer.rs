//! `stevedore put` and `stevedore get`: files between this machine and stages.

use clap::Args;
use stevedore_common::Result;

use super::server::ServerArgs;
use crate::client::Client;
use crate::load::absolute;
use crate::shell::{self, Options};
use crate::sql_text::literal;

#[derive(Debug, Args)]
pub(super) struct PutArgs {
    /// A local file, or a glob in quotes ('orders/*.csv').
    local: String,
    /// The stage and the folder in it: @stage/path/, or @~/ for your own.
    stage: String,
    /// Compress the files with gzip on their way, unless they are compressed.
    #[arg(long)]
    auto_compress: bool,
    #[command(flatten)]
    common: TransferArgs,
}

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// A file, a folder (@stage/path/) or the beginning of paths.
    stage: String,
    /// The local folder.
    local: String,
    /// A regular expression for the rest of the path.
    #[arg(long)]
    pattern: Option<String>,
    #[command(flatten)]
    common: TransferArgs,
}

#[derive(Debug, Args)]
struct TransferArgs {
    /// Files at a time.
    #[arg(long)]
    parallel: Option<u32>,
    #[command(flatten)]
    server: ServerArgs,
}

/// A local path as PUT and GET have it; relative ones are below the current folder.
fn local_url(text: &str) -> Result<String> {
    if text.contains("://") {
        return Ok(text.to_owned());
    }
    let path = absolute(text, &std::env::current_dir()?)?;
    let is_folder = path != "/" && matches!(text.rsplit('/').next(), Some("" | "." | ".."));
    Ok(format!("fs://{path}{}", if is_folder { "/" } else { "" }))
}

impl TransferArgs {
    fn option(&self) -> String {
        self.parallel.map(|files| format!(" PARALLEL = {files}")).unwrap_or_default()
    }

    async fn run(&self, sql: String) -> Result<()> {
        let speak = async |client: Client| {
            let options = Options::default();
            shell::run_statement(&client, &sql, &options, &mut std::io::stdout()).await.map(drop)
        };
        self.server.run(None, speak).await
    }
}

pub(super) async fn put(args: PutArgs) -> Result<()> {
    let compress = if args.auto_compress { " AUTO_COMPRESS = true" } else { "" };
    let (local, stage) = (literal(&local_url(&args.local)?), literal(&args.stage));
    let sql = format!("PUT {local} {stage}{compress}{}", args.common.option());
    args.common.run(sql).await
}

pub(super) async fn get(args: GetArgs) -> Result<()> {
    let pattern =
        args.pattern.as_deref().map(|text| format!(" PATTERN = {}", literal(text))).unwrap_or_default();
    let (local, stage) = (literal(&local_url(&args.local)?), literal(&args.stage));
    let sql = format!("GET {stage} {local}{pattern}{}", args.common.option());
    args.common.run(sql).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn local_paths_become_urls_of_whole_paths() {
        let here = std::env::current_dir().unwrap();
        let here = here.to_str().unwrap();
        for (text, url) in [
            ("a/*.csv", format!("fs://{here}/a/*.csv")),
            ("./a/../b.csv", format!("fs://{here}/b.csv")),
            ("/x/y/", "fs:///x/y/".to_owned()),
            (".", format!("fs://{here}/")),
            ("/", "fs:///".to_owned()),
            ("/x/y.", "fs:///x/y.".to_owned()),
            ("fs:///x/*.csv", "fs:///x/*.csv".to_owned()),
        ] {
            assert_eq!(local_url(text).unwrap(), url, "{text}");
        }
    }

    #[test]
    fn what_the_shell_gave_is_literal() {
        let sql = format!("PUT {} {}", literal("fs:///a/it's \\d.csv"), literal("@s/p"));
        let statement = crate::transfer::of_statement(&sql).unwrap();
        let stevedore_sql::ast::Statement::Put(put) = statement else { panic!() };
        assert_eq!((put.local.as_str(), put.location.to_string().as_str()), ("fs:///a/it's \\d.csv", "@s/p"));
    }
}
