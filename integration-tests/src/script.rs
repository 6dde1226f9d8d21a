//! sqllogictest files, run through Flight SQL against an instance of their own.
//!
//! On top of the format: comment lines that begin with `#file`, `#parquet`, … make the files that the
//! statements load, from the `#| ` lines below them.
//!
//! ```text
//! #file people/a.csv            written as it stands, each line ended
//! #file unended people/c.csv    without a line end at its end
//! #file gzip people/b.csv.gz    compressed; the codecs are those of files::compress, also as
//!                               truncated-gzip, …: without the end
//! #parquet events/e.parquet     from JSON lines; also: #parquet corrupt …, whose footer is damaged
//! #arrow events/e.arrow         from JSON lines, as are #avro and #orc; also: stream, truncated,
//!                               truncated-stream
//! #| 1,Ada
//! ```
//!
//! `${FILES}` stands for their folder (without a slash at the end), `${S3}` for the endpoint of an S3
//! server whose bucket `bucket` is that folder, `${KEY}` and `${SECRET}` for its credentials, `${HTTP}` for
//! a web server over that folder (see [`crate::web`]), `${HUB}` for a Hub whose repositories are that folder
//! ([`crate::hub`]) and `${HUB_TOKEN}` for its token, `${IPFS}` for a gateway to it, whose CID is `${CID}`
//! ([`crate::ipfs`]), `${CLOSED}` for an endpoint where nobody listens. `columns of <statement>` answers the names and Arrow types of
//! the columns that a statement announces, without running it. `let x = <query>` keeps the first value of
//! the query for the statements below, where `${x}` stands for it.
//!
//! Stages with `URL = 'fs://${FILES}/…'` may be run over S3 or Azure Blob Storage instead ([`run_folder_over_s3`],
//! [`run_folder_over_azure`]): they become stages over the same files there, and nothing else of the script changes.
//! `#fs only` says of a script that it speaks of local files, `#shared files` that it reaches the files of a stage in
//! another way as well. A container does not show what is done to them there: such scripts stay away from it, as do
//! those with `system` commands.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::path::Path as ObjectPath;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Record, Runner};
use stevedore::client::Client;
use stevedore::transfer;
use stevedore_common::{Error, Result};

use crate::hub::{self, HubServer};
use crate::instance::TestInstance;
use crate::ipfs::IpfsGateway;
use crate::objectstore::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::web::WebServer;
use crate::{files, show};

/// A statement that takes longer has hung.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

struct Session {
    client: Client,
    /// What `let` kept.
    kept: Vec<(String, String)>,
}

impl Session {
    async fn execute(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>> {
        let kept =
            |sql: String, (name, value): &(String, String)| sql.replace(&format!("${{{name}}}"), value);
        let sql = self.kept.iter().fold(sql.to_owned(), kept);
        if let Some((name, query)) = sql.strip_prefix("let ").and_then(|rest| rest.split_once(" = ")) {
            let statement = self.client.prepare(query).await?;
            let batches: Vec<_> = self.client.run(&statement).await?.batches.try_collect().await?;
            let value = show::rows(&batches).into_iter().flatten().next();
            let value = value.unwrap_or_else(|| panic!("no value to keep: {query}"));
            self.kept.retain(|(known, _)| known != name);
            self.kept.push((name.to_owned(), value));
            return Ok(DBOutput::StatementComplete(0));
        }
        let sql = sql.as_str();
        if let Some(described) = sql.strip_prefix("columns of ") {
            let schema = self.client.prepare(described).await?.schema()?;
            let rows = show::columns(schema.fields().iter());
            return Ok(DBOutput::Rows { types: vec![DefaultColumnType::Text; 2], rows });
        }
        if let Some(transfer) = transfer::of_statement(sql) {
            let batch = transfer::run(&self.client, &transfer, false).await?;
            let types = vec![DefaultColumnType::Any; batch.num_columns()];
            return Ok(DBOutput::Rows { types, rows: show::rows(&[batch]) });
        }
        let statement = self.client.prepare(sql).await?;
        let rows = self.client.run(&statement).await?;
        let columns = rows.schema.fields().len();
        let batches: Vec<_> = rows.batches.try_collect().await?;
        if columns == 0 {
            return Ok(DBOutput::StatementComplete(0));
        }
        Ok(DBOutput::Rows { types: vec![DefaultColumnType::Any; columns], rows: show::rows(&batches) })
    }
}

#[async_trait]
impl AsyncDB for Session {
    type Error = Error;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>> {
        match tokio::time::timeout(STATEMENT_TIMEOUT, self.execute(sql)).await {
            Ok(result) => result,
            Err(_) => panic!("the statement did not end within {STATEMENT_TIMEOUT:?}: {sql}"),
        }
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "stevedore"
    }
}

/// Writes the files that a script declares, and says where they lie in it.
fn write_files(script: &str, folder: &Path) {
    let mut lines = script.lines().peekable();
    while let Some(line) = lines.next() {
        let formats = ["file", "parquet", "avro", "orc", "arrow"].into_iter();
        let mut declared = formats.filter_map(|format| {
            Some((format, line.strip_prefix('#')?.strip_prefix(format)?.strip_prefix(' ')?))
        });
        let Some((format, words)) = declared.next() else { continue };
        let (kind, name) = words.trim().rsplit_once(' ').unwrap_or(("", words.trim()));
        let mut content = String::new();
        while let Some(line) = lines.next_if(|line| line.starts_with("#|")) {
            content.push_str(line.strip_prefix("#| ").unwrap_or(""));
            content.push('\n');
        }
        let path = folder.join(name);
        match (format, kind) {
            ("file", "") => files::write(&path, content),
            ("file", "unended") => files::write(&path, content.trim_end_matches('\n')),
            ("file", codec) => {
                let (truncated, codec) = match codec.strip_prefix("truncated-") {
                    Some(codec) => (true, codec),
                    None => (false, codec),
                };
                let packed = files::compress(codec, content.as_bytes());
                let packed = packed.unwrap_or_else(|| panic!("unknown kind of file '{kind}'"));
                files::write(&path, &packed[..packed.len() - if truncated { 12 } else { 0 }]);
            }
            ("parquet", "") => files::write(&path, files::parquet_of_json(&content)),
            ("parquet", "corrupt") => {
                let mut whole = files::parquet_of_json(&content);
                let end = whole.len() - 8;
                // The thrift bytes of the footer; its length and the magic stay.
                whole[end - 60..end].fill(0xEE);
                files::write(&path, &whole);
            }
            ("avro", "") => files::write(&path, files::avro_of_json(&content)),
            ("orc", "") => files::write(&path, files::orc_of_json(&content)),
            ("avro", "truncated") => {
                let whole = files::avro_of_json(&content);
                files::write(&path, &whole[..whole.len() - 20]);
            }
            ("orc", "truncated") => {
                let whole = files::orc_of_json(&content);
                files::write(&path, &whole[..whole.len() - 20]);
            }
            ("arrow", kind) => {
                let whole = match kind.trim_start_matches("truncated-") {
                    "" | "truncated" => files::arrow_of_json(&content, false),
                    "stream" => files::arrow_of_json(&content, true),
                    other => panic!("unknown kind of arrow file '{other}'"),
                };
                let cut = if kind.starts_with("truncated") { 40 } else { 0 };
                files::write(&path, &whole[..whole.len() - cut]);
            }
            (format, other) => panic!("unknown kind of {format} file '{other}'"),
        }
    }
}

/// Where the files lie that stages name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Medium {
    Fs,
    S3,
    Azure(Container),
}

impl Medium {
    fn shown(&self) -> &'static str {
        match self {
            Self::Fs => "",
            Self::S3 => " over S3",
            Self::Azure(_) => " over Azure",
        }
    }
}

/// A container that is there, in a blob store that others started.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Container {
    endpoint: String,
    account: String,
    key: String,
    name: String,
}

impl Container {
    /// From `STEVEDORE_AZURE_ENDPOINT`, `…_ACCOUNT`, `…_KEY` and `…_CONTAINER`.
    fn of_environment() -> Self {
        let variable = |name: &str| {
            let name = format!("STEVEDORE_AZURE_{name}");
            std::env::var(&name).unwrap_or_else(|_| panic!("{name} says where the blob store is"))
        };
        Self {
            endpoint: variable("ENDPOINT"),
            account: variable("ACCOUNT"),
            key: variable("KEY"),
            name: variable("CONTAINER"),
        }
    }

    /// Puts the files of a folder below a prefix.
    async fn upload(&self, folder: &Path, prefix: &str) {
        let store = MicrosoftAzureBuilder::new()
            .with_account(&self.account)
            .with_access_key(&self.key)
            .with_container_name(&self.name)
            .with_endpoint(self.endpoint.clone())
            .with_allow_http(true)
            .build()
            .unwrap();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
                let name = ObjectPath::parse(format!("{prefix}/{name}")).unwrap();
                store.put(&name, std::fs::read(&path).unwrap().into()).await.unwrap();
            }
        }
    }
}

const FS_STAGE: &str = "URL = 'fs://${FILES}/";

/// The script with its stages over local files as stages over this URL, reached by this connection.
fn over(script: &str, url: &str, connection: &str) -> String {
    let mut parts = script.split(FS_STAGE);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (path, rest) = part.split_once('\'').expect("the URL's quote is closed");
        text.push_str(&format!("URL = '{url}/{path}' CONNECTION = ({connection}){rest}"));
    }
    text
}

/// Runs one script from beginning to end, and answers what did not hold.
async fn run_file(path: PathBuf, medium: Medium) -> Vec<String> {
    let instance = TestInstance::start().await;
    let s3 = S3Server::start(&[]).await;
    // The bucket is the very folder that the fs stages see.
    std::os::unix::fs::symlink(instance.files(), s3.root().join("bucket")).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    write_files(&text, instance.files());
    let text = match &medium {
        Medium::Fs => text,
        Medium::S3 => over(
            &text,
            "s3://bucket",
            "ENDPOINT_URL = '${S3}' ACCESS_KEY_ID = '${KEY}' SECRET_ACCESS_KEY = '${SECRET}' REGION = 'us-east-1'",
        ),
        Medium::Azure(container) => {
            let prefix = uuid::Uuid::new_v4().to_string();
            container.upload(instance.files(), &prefix).await;
            let Container { endpoint, account, key, name } = container;
            let connection =
                format!("ENDPOINT_URL = '{endpoint}' ACCOUNT_NAME = '{account}' ACCOUNT_KEY = '{key}'");
            over(&text, &format!("azblob://{name}/{prefix}"), &connection)
        }
    };
    let web = WebServer::start(instance.files().to_owned()).await;
    let hub = HubServer::start(instance.files().to_owned()).await;
    let ipfs = IpfsGateway::start(instance.files()).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = text
        .replace("${FILES}", instance.files().to_str().unwrap())
        .replace("${S3}", &s3.endpoint())
        .replace("${KEY}", ACCESS_KEY)
        .replace("${SECRET}", SECRET_KEY)
        .replace("${HTTP}", &web.url())
        .replace("${HUB}", &hub.url())
        .replace("${HUB_TOKEN}", hub::TOKEN)
        .replace("${IPFS}", &ipfs.url())
        .replace("${CID}", ipfs.root())
        .replace("${CLOSED}", &format!("http://{closed}"));
    let name: Arc<str> = format!("{}{}", path.file_name().unwrap().to_string_lossy(), medium.shown()).into();
    let records: Vec<Record<DefaultColumnType>> = sqllogictest::parse_with_name(&text, name.clone()).unwrap();
    let mut runner =
        Runner::new(|| async { Ok(Session { client: instance.client().await, kept: Vec::new() }) });
    let mut failures = Vec::new();
    for record in records {
        // Later records may still say something: a whole run is one report.
        if let Err(error) = runner.run_async(record).await {
            failures.push(error.display(false).to_string());
        }
    }
    runner.shutdown_async().await;
    drop(runner);
    instance.stop().await;
    failures
}

/// Runs every script in a folder below `slt/`, two at a time, and fails with all that did not hold.
/// `SLT=part-of-a-name` runs some of them.
pub async fn run_folder(folder: &str) {
    run_scripts(folder, Medium::Fs, |_| true).await;
}

/// Whether a script has stages over local files that may lie elsewhere.
fn may_move(text: &str) -> bool {
    text.contains(FS_STAGE) && !text.contains("\n#fs only\n")
}

/// The same over S3, for the scripts that have stages over local files.
pub async fn run_folder_over_s3(folder: &str) {
    run_scripts(folder, Medium::S3, may_move).await;
}

/// The same over Azure Blob Storage, in the container that the environment names.
pub async fn run_folder_over_azure(folder: &str) {
    let medium = Medium::Azure(Container::of_environment());
    let shared = |text: &str| text.contains("\nsystem ") || text.contains("\n#shared files\n");
    run_scripts(folder, medium, |text| may_move(text) && !shared(text)).await;
}

async fn run_scripts(folder: &str, medium: Medium, is_meant: impl Fn(&str) -> bool) {
    use futures::StreamExt;
    let wanted = std::env::var("SLT").unwrap_or_default();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("slt").join(folder);
    let mut scripts: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "slt"))
        .filter(|path| path.to_string_lossy().contains(&wanted))
        .filter(|path| is_meant(&std::fs::read_to_string(path).unwrap()))
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty() || !wanted.is_empty(), "no scripts in {}", folder.display());
    let failures: Vec<String> = futures::stream::iter(scripts)
        .map(|script| run_file(script, medium.clone()))
        .buffer_unordered(2)
        .flat_map(futures::stream::iter)
        .collect()
        .await;
    assert!(failures.is_empty(), "{} records did not hold:\n\n{}", failures.len(), failures.join("\n\n"));
}
