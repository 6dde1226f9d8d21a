//! Stores that go wrong while they are loaded from: keys that expire, buckets that are busy, files that change
//! after they were listed. Each time the message says what and where, and neither table nor ledger has lost or
//! doubled anything.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use stevedore::client::Client;
use stevedore_integration_tests::files;
use stevedore_integration_tests::instance::TestInstance;
use stevedore_integration_tests::objectstore::{Operation, Refusal, S3Server};
use stevedore_integration_tests::{oracle, show};
use tokio::time::timeout;

const FILES: usize = 40;
const ROWS: usize = 5;
const COPY: &str = "COPY INTO t FROM @s/in/";
/// For a statement to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// An instance with a table, and a bucket of files with a stage over it.
struct Loading {
    instance: TestInstance,
    client: Client,
    s3: S3Server,
}

impl Loading {
    async fn start(slice_bytes: u64) -> Self {
        let instance = TestInstance::start_with(|config| config.scheduling.slice_bytes = slice_bytes).await;
        let client = instance.client().await;
        let s3 = S3Server::start(&["bucket"]).await;
        let loading = Self { instance, client, s3 };
        (0..FILES).for_each(|file| loading.write(file, &files::numbered_csv(file, ROWS)));
        loading.run("CREATE TABLE t (file INT, row INT, payload STRING)").await;
        let keys = loading.s3.connection().map(|(key, value)| format!("{key} = '{value}'")).join(" ");
        let stage = format!(
            "CREATE STAGE s URL = 's3://bucket/' CONNECTION = ({keys} REGION = 'us-east-1') FILE_FORMAT = (TYPE = CSV)"
        );
        loading.run(&stage).await;
        loading
    }

    fn write(&self, file: usize, content: &str) {
        files::write(&self.s3.folder(&format!("bucket/in/{file:04}.csv")), content);
    }

    async fn try_run(&self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        let running = timeout(PATIENCE, self.client.query(sql)).await.expect("the statement ends");
        running.map(|batches| show::rows(&batches)).map_err(|error| error.to_string())
    }

    async fn run(&self, sql: &str) -> Vec<Vec<String>> {
        self.try_run(sql).await.unwrap_or_else(|error| panic!("{error}\n{sql}"))
    }

    /// The statement fails, and says all of this.
    async fn assert_fails(&self, sql: &str, says: &[&str]) {
        let error = self.try_run(sql).await.expect_err(sql);
        for part in says {
            assert!(error.contains(part), "'{part}' is not in: {error}");
        }
        assert!(!error.contains("a-very-secret-key"), "{error}");
    }

    /// Nothing is in the table, nothing in the ledger, and nobody holds a claim.
    async fn assert_nothing_loaded(&self) {
        assert_eq!(self.run("SELECT count(*) FROM t").await, [["0"]]);
        let loaded = "SELECT count(*) FROM copy_history('t') WHERE status = 'loaded' OR rows_loaded > 0";
        assert_eq!(self.run(loaded).await, [["0"]]);
        assert_eq!(
            self.run(&format!("EXPLAIN {COPY}")).await.iter().filter(|row| row[2] == "new").count(),
            41
        );
    }

    /// The COPY loads what is left, the next one nothing; table and ledger agree, row by row.
    async fn assert_loads_exactly_once(self) {
        self.run(COPY).await;
        assert!(self.run(COPY).await.is_empty(), "a repeated COPY loads nothing");
        oracle::assert_exactly_once(self.instance.url(), "t", FILES, ROWS).await;
        let history = "SELECT count(*), count(DISTINCT file_name), sum(rows_loaded) FROM copy_history('t')
                       WHERE status = 'loaded'";
        let counted = FILES.to_string();
        assert_eq!(self.run(history).await, [[counted.clone(), counted, (FILES * ROWS).to_string()]]);
        self.instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_expire_during_a_load_fail_it_at_once() {
    for on_error in ["abort", "continue", "skip_file"] {
        let loading = Loading::start(1).await;
        loading.s3.refuse(Operation::Read, "/bucket/in/", FILES / 4, usize::MAX, Refusal::EXPIRED);
        let copy = format!("{COPY} ON_ERROR = {on_error}");
        let says =
            ["file 'in/", "refused by bucket 'bucket'", "the session token has expired", "SESSION_TOKEN"];
        loading.assert_fails(&copy, &says).await;
        let error = loading.try_run(&copy).await.unwrap_err();
        assert!(!error.contains("failed 5 times"), "another attempt has the same keys: {error}");
        // Not a file's fault: none is skipped for it.
        loading.assert_nothing_loaded().await;
        assert!(loading.s3.forgive() > 0);
        loading.assert_loads_exactly_once().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_expire_while_files_are_listed_fail_the_load_at_once() {
    let loading = Loading::start(1 << 20).await;
    loading.s3.refuse(Operation::List, "/bucket", 0, usize::MAX, Refusal::EXPIRED);
    loading.assert_fails(COPY, &["refused by bucket 'bucket'", "the session token has expired"]).await;
    assert_eq!(loading.s3.forgive(), 1, "the bucket is asked once");
    loading.assert_nothing_loaded().await;
    loading.assert_loads_exactly_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_busy_for_a_while_is_waited_for() {
    const REFUSED: usize = 60;
    let loading = Loading::start(1).await;
    loading.s3.refuse(Operation::List, "/bucket", 0, 3, Refusal::BUSY);
    loading.s3.refuse(Operation::Read, "/bucket/in/", 5, REFUSED, Refusal::BUSY);
    assert_eq!(loading.run(COPY).await.len(), FILES);
    assert_eq!(loading.s3.forgive(), REFUSED + 3);
    loading.assert_loads_exactly_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_stays_busy_fails_the_load_and_nothing_is_lost() {
    let loading = Loading::start(1 << 20).await;
    // It asks to come back in an hour, which is more than anybody waits.
    let later = Refusal { retry_after: Some(3600), ..Refusal::BUSY };
    loading.s3.refuse(Operation::Read, "/bucket/in/0007", 0, usize::MAX, later);
    let says = ["file 'in/0007.csv'", "bucket 'bucket'", "answered 503", "run the statement again later"];
    loading.assert_fails(COPY, &says).await;
    loading.assert_nothing_loaded().await;
    loading.s3.forgive();
    loading.assert_loads_exactly_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_replaced_after_it_was_listed_is_an_error_of_that_file() {
    let loading = Loading::start(1).await;
    let (copy, says) =
        (format!("{COPY} ON_ERROR = continue"), "file 'in/0007.csv' changed while it was read");
    let replaced_after_listing = async |sql: &str| {
        loading.write(7, &files::numbered_csv(7, ROWS));
        loading.s3.hold(Operation::Read, "/bucket/in/", 0);
        let (ended, ()) = tokio::join!(loading.try_run(sql), async {
            loading.s3.wait_until_held(1).await;
            // As long as the other, so that only its etag tells.
            loading.write(7, &files::numbered_csv(7, ROWS).replace("payload", "changed"));
            loading.s3.release();
        });
        ended
    };
    let error = replaced_after_listing(COPY).await.unwrap_err();
    assert!(error.contains(says), "{error}");
    loading.assert_nothing_loaded().await;

    let rows = replaced_after_listing(&copy).await.unwrap();
    assert_eq!(rows.len(), FILES);
    let bad: Vec<_> = rows.iter().filter(|row| row[2] != "0").collect();
    assert_eq!(bad.len(), 1);
    assert_eq!(bad[0][..3], ["in/0007.csv", "0", "1"]);
    assert!(bad[0][3].contains("changed while it was read"), "{bad:?}");
    assert_eq!(loading.run("SELECT count(*), count(DISTINCT file) FROM t").await, [["195", "39"]]);

    // The file as it is now is new, and loads.
    assert_eq!(loading.run(&copy).await.len(), 1);
    let now = "SELECT count(*) FROM t WHERE payload LIKE 'changed%'";
    assert_eq!(loading.run(now).await, [[ROWS.to_string()]]);
    loading.assert_loads_exactly_once().await;
}

/// A file of several ranges that is replaced after the first of them was read: never a mix of both.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_that_is_replaced_while_it_is_read_never_becomes_a_mix() {
    const LINES: usize = 400_000;
    let loading = Loading::start(1 << 30).await;
    let line = |n: usize, word: &str| format!("100,{n:07},a payload that is {word}\n");
    let content = |word: &str| (0..LINES).map(|n| line(n, word)).collect::<String>();
    let large = loading.s3.folder("bucket/large/one.csv");
    let copy = "COPY INTO t FROM @s/large/ ON_ERROR =";
    for on_error in ["abort", "skip_file"] {
        files::write(&large, content("older"));
        loading.s3.hold(Operation::Read, "/bucket/large/", 1);
        let sql = format!("{copy} {on_error}");
        let (ended, ()) = tokio::join!(loading.try_run(&sql), async {
            loading.s3.wait_until_held(1).await;
            files::write(&large, content("newer"));
            loading.s3.release();
        });
        match ended {
            Err(error) => {
                assert!(error.contains("file 'large/one.csv' changed while it was read"), "{error}");
                assert_eq!(on_error, "abort");
            }
            Ok(rows) => {
                assert_eq!(
                    (on_error, &rows[0][..3]),
                    ("skip_file", &["large/one.csv", "0", "1"].map(String::from)[..])
                );
                assert!(rows[0][3].contains("changed while it was read"), "{rows:?}");
            }
        }
        assert_eq!(loading.run("SELECT count(*) FROM t").await, [["0"]], "{on_error}");
    }
    let rows = loading.run(&format!("{copy} skip_file")).await;
    assert_eq!(rows[0][1], LINES.to_string());
    let all_new = "SELECT count(*), count(DISTINCT row) FROM t WHERE payload LIKE '%newer'";
    assert_eq!(loading.run(all_new).await, [[LINES.to_string(), LINES.to_string()]]);
    assert!(loading.run(&format!("{copy} abort")).await.is_empty());
    loading.instance.stop().await;
}

/// A stage copies nothing of the connection that it names: whoever changes that changes what a running load meets.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_replaced_during_a_load_end_it_or_not_but_never_by_half() {
    let loading = Loading::start(1).await;
    let keys = loading.s3.connection().map(|(key, value)| format!("{key} = '{value}'")).join(" ");
    loading.run(&format!("CREATE CONNECTION lake STORAGE_TYPE = 's3' {keys}")).await;
    loading
        .run("CREATE OR REPLACE STAGE s URL = 's3://bucket/' CONNECTION = (CONNECTION_NAME = 'lake') FILE_FORMAT = (TYPE = CSV)")
        .await;
    loading.s3.hold(Operation::Read, "/bucket/in/", FILES / 4);
    let (ended, ()) = tokio::join!(loading.try_run(COPY), async {
        loading.s3.wait_until_held(1).await;
        let other = loading.instance.client().await;
        let wrong = keys.replace("a-very-secret-key", "another-key");
        other.query(&format!("CREATE OR REPLACE CONNECTION lake STORAGE_TYPE = 's3' {wrong}")).await.unwrap();
        loading.s3.release();
    });
    let error = ended.unwrap_err();
    assert!(error.contains("the signature does not match: wrong secret key"), "{error}");
    loading.run(&format!("CREATE OR REPLACE CONNECTION lake STORAGE_TYPE = 's3' {keys}")).await;
    loading.assert_nothing_loaded().await;
    loading.assert_loads_exactly_once().await;
}
