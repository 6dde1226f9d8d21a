//! `stevedore load` against an instance: tables made to fit, headers found, everything tidied up.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use stevedore::client::Client;
use stevedore::load::{Header, Load, run};
use stevedore::shell::Options;
use stevedore_common::Result;
use stevedore_common::file_format::FormatKind;
use stevedore_integration_tests::instance::TestInstance;
use stevedore_integration_tests::objectstore::{ACCESS_KEY, S3Server, SECRET_KEY};
use stevedore_integration_tests::web::WebServer;
use stevedore_integration_tests::{files, show};

fn load(source: &str, table: &str) -> Load {
    Load {
        source: source.to_owned(),
        table: table.to_owned(),
        format: None,
        format_options: None,
        header: Header::Auto,
        create: true,
        on_error: None,
        connection: None,
    }
}

async fn loaded(client: &Client, load: &Load) -> Result<String> {
    let options = Options { progress: false, timing: false, ..Options::default() };
    let mut out = Vec::new();
    run(client, load, &options, &mut out).await?;
    Ok(String::from_utf8(out).unwrap())
}

async fn rows(client: &Client, sql: &str) -> Vec<String> {
    show::lines(&client.query(sql).await.unwrap())
}

/// Neither stages nor other traces of a load.
async fn assert_tidy(client: &Client) {
    assert_eq!(rows(client, "SHOW STAGES").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_become_a_table_that_fits_them() {
    let instance = TestInstance::start().await;
    let client = instance.client().await;
    let folder = instance.files();
    files::write(&folder.join("in/orders 1.csv"), "id,Customer,placed\n1,Ada,2024-05-01\n2,Bob,2024-05-02\n");
    files::write(
        &folder.join("in/orders 2.csv.gz"),
        files::gzip(b"id,Customer,placed\n2.5,Cyd,2024-05-03\n"),
    );
    files::write(&folder.join("in/notes.txt"), "nothing to load\n");
    let glob = format!("{}/in/orders*.{{csv,csv.gz}}", folder.display());
    let report = loaded(&client, &load(&glob, "Orders")).await.unwrap();
    assert!(report.contains("orders 1.csv") && report.contains("orders 2.csv.gz"), "{report}");
    assert_eq!(
        rows(&client, "SELECT id, customer, placed FROM orders ORDER BY id").await,
        ["1.0 | Ada | 2024-05-01", "2.0 | Bob | 2024-05-02", "2.5 | Cyd | 2024-05-03"]
    );
    // Loaded once.
    let again = loaded(&client, &load(&glob, "orders")).await.unwrap();
    assert!(again.contains("2 files already loaded"), "{again}");
    // The table is there now: the header says which column is which.
    files::write(&folder.join("in/late.csv"), "customer,id\nDan,4\n");
    let late = format!("fs://{}/in/late.csv", folder.display());
    loaded(&client, &load(&late, "default.orders")).await.unwrap();
    assert_eq!(
        rows(&client, "SELECT id, customer, placed FROM orders WHERE id > 3").await,
        ["4.0 | Dan | NULL"]
    );
    assert_tidy(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_format_is_told_by_its_extension() {
    let instance = TestInstance::start().await;
    let client = instance.client().await;
    let folder = instance.files();
    files::write(&folder.join("e/a.ndjson"), "{\"id\":1,\"v\":{\"k\":[1]}}\n{\"id\":2,\"late\":true}\n");
    loaded(&client, &load(&format!("{}/e/a.ndjson", folder.display()), "events")).await.unwrap();
    assert_eq!(
        rows(&client, "SELECT * FROM events ORDER BY id").await,
        ["1 | {\"k\":[1]} | NULL", "2 | NULL | true"]
    );
    files::write(&folder.join("p/a.parquet"), files::parquet_of_json("{\"id\":1,\"name\":\"Ada\"}\n"));
    files::write(&folder.join("p/b.parquet"), files::parquet_of_json("{\"id\":2}\n"));
    loaded(&client, &load(&format!("{}/p/*.parquet", folder.display()), "people")).await.unwrap();
    assert_eq!(rows(&client, "SELECT id, name FROM people ORDER BY id").await, ["1 | Ada", "2 | NULL"]);
    files::write(&folder.join("j/a.json"), "[\n  {\"id\": 1, \"name\": \"Ada\"},\n  {\"id\": 2}\n]\n");
    loaded(&client, &load(&format!("{}/j/a.json", folder.display()), "elements")).await.unwrap();
    assert_eq!(rows(&client, "SELECT id, name FROM elements ORDER BY id").await, ["1 | Ada", "2 | NULL"]);
    let words = "{\"id\":1,\"name\":\"Ada\"}\n{\"id\":2,\"name\":null}\n";
    files::write(&folder.join("a/a.arrow"), files::arrow_of_json(words, false));
    files::write(&folder.join("a/a.arrows"), files::arrow_of_json(words, true));
    for (file, table) in [("a.arrow", "file"), ("a.arrows", "stream")] {
        loaded(&client, &load(&format!("{}/a/{file}", folder.display()), table)).await.unwrap();
        let sql = format!("SELECT id, name FROM {table} ORDER BY id");
        assert_eq!(rows(&client, &sql).await, ["1 | Ada", "2 | NULL"]);
    }
    // Options of the format, with and without a header, on the way to the columns and to the rows.
    files::write(&folder.join("o/a.csv"), "id;price\n1;'2,5'\n2;NA\n");
    let mut options = load(&format!("{}/o/a.csv", folder.display()), "options");
    options.format_options = Some("(FIELD_DELIMITER = ';' QUOTE = '\\'', NULL_DISPLAY = 'NA')".to_owned());
    loaded(&client, &options).await.unwrap();
    assert_eq!(rows(&client, "SELECT id, price FROM options ORDER BY id").await, ["1 | 2,5", "2 | NULL"]);
    options.format_options = Some("TYPE = TSV FIELD_DELIMITER = ';'".to_owned());
    options.table = "other".to_owned();
    options.header = Header::No;
    loaded(&client, &options).await.unwrap();
    assert_eq!(rows(&client, "SELECT count(*) FROM other").await, ["3"]);
    options.format_options = Some("SKIP_HEADER = 1".to_owned());
    assert!(loaded(&client, &options).await.unwrap_err().to_string().contains("--header"));
    options.format_options = Some("NULL_DISPLY = 'x'".to_owned());
    assert!(loaded(&client, &options).await.unwrap_err().to_string().contains("NULL_DISPLY"));
    // All text: what the first line is has to be said.
    files::write(&folder.join("t/a.csv"), "name,city\nAda,London\n");
    // All files of a folder have one extension, or not.
    loaded(&client, &load(&format!("{}/p/", folder.display()), "folder")).await.unwrap();
    files::write(&folder.join("p/b.csv"), "1,x\n");
    let error = loaded(&client, &load(&format!("{}/p/", folder.display()), "mixed")).await.unwrap_err();
    assert!(error.to_string().contains("cannot be told by one extension"), "{error}");
    assert_tidy(&client).await;
    // Names that differ in case only are one column, unless a file has both.
    files::write(&folder.join("c/a.ndjson"), "{\"id\":1}\n{\"ID\":2}\n");
    loaded(&client, &load(&format!("{}/c/", folder.display()), "cases")).await.unwrap();
    assert_eq!(rows(&client, "SELECT * FROM cases ORDER BY id").await, ["1", "2"]);
    files::write(&folder.join("both/a.parquet"), files::parquet_of_json("{\"a\":1,\"A\":2}\n"));
    let error = loaded(&client, &load(&format!("{}/both/", folder.display()), "both")).await.unwrap_err();
    assert!(error.to_string().contains("differ in case only"), "{error}");

    let mut names = load(&format!("{}/t/", folder.display()), "names");
    names.format = Some(FormatKind::Csv);
    names.header = Header::Yes;
    loaded(&client, &names).await.unwrap();
    assert_eq!(rows(&client, "SELECT name, city FROM names").await, ["Ada | London"]);
    names.table = "lines".to_owned();
    names.header = Header::No;
    loaded(&client, &names).await.unwrap();
    assert_eq!(rows(&client, "SELECT c1, c2 FROM lines ORDER BY c1").await, ["Ada | London", "name | city"]);
    assert_tidy(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_are_loaded_as_local_files_are() {
    let instance = TestInstance::start().await;
    let client = instance.client().await;
    files::write(&instance.files().join("in/n-1.csv"), "1,true\n");
    files::write(&instance.files().join("in/n-2.csv"), "2,false\n");
    let web = WebServer::start(instance.files().to_owned()).await;
    loaded(&client, &load(&format!("{}/in/n-{{1,2}}.csv", web.url()), "web")).await.unwrap();
    assert_eq!(rows(&client, "SELECT c1, c2 FROM web ORDER BY c1").await, ["1 | true", "2 | false"]);

    let s3 = S3Server::start(&[]).await;
    std::os::unix::fs::symlink(instance.files(), s3.root().join("bucket")).unwrap();
    let connection = format!(
        "CREATE CONNECTION lake STORAGE_TYPE = 's3' ENDPOINT_URL = '{}' ACCESS_KEY_ID = '{ACCESS_KEY}' \
         SECRET_ACCESS_KEY = '{SECRET_KEY}'",
        s3.endpoint()
    );
    client.query(&connection).await.unwrap();
    let mut bucket = load("s3://bucket/in/n-[2-9].csv", "bucket");
    bucket.connection = Some("lake".to_owned());
    loaded(&client, &bucket).await.unwrap();
    assert_eq!(rows(&client, "SELECT c1, c2 FROM bucket").await, ["2 | false"]);
    bucket.connection = Some("missing".to_owned());
    let error = loaded(&client, &bucket).await.unwrap_err().to_string();
    assert!(error.contains("connection 'missing' does not exist"), "{error}");
    assert_tidy(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_told_and_leaves_nothing() {
    let instance = TestInstance::start().await;
    let client = instance.client().await;
    let folder = instance.files();
    let records: String = (0..1500).map(|n| format!("{n},a\n")).collect();
    files::write(&folder.join("bad.csv"), format!("id,name\n{records}x,b\n"));
    let bad = format!("{}/bad.csv", folder.display());
    let error = loaded(&client, &load(&bad, "t")).await.unwrap_err().to_string();
    assert!(error.contains("invalid value 'x'") && !error.contains("(line 1, column"), "{error}");
    assert_eq!(rows(&client, "SHOW TABLES").await, Vec::<String>::new());
    assert_tidy(&client).await;

    let mut tolerant = load(&bad, "t");
    tolerant.on_error = Some("continue".to_owned());
    loaded(&client, &tolerant).await.unwrap();
    assert_eq!(rows(&client, "SELECT count(*) FROM t").await, ["1500"]);

    let mut unmade = load(&bad, "u");
    unmade.create = false;
    let error = loaded(&client, &unmade).await.unwrap_err().to_string();
    assert!(error.contains("table 'u' does not exist"), "{error}");
    let nothing = format!("{}/nothing/*.csv", folder.display());
    let error = loaded(&client, &load(&nothing, "u")).await.unwrap_err().to_string();
    assert!(error.contains("no file") && error.contains("/nothing/*.csv"), "{error}");
    let error = loaded(&client, &load("/etc/", "u")).await.unwrap_err().to_string();
    assert!(error.contains("--allow-fs"), "{error}");
    let error = loaded(&client, &load("/etc/*.csv", "u")).await.unwrap_err().to_string();
    assert!(error.contains("/etc"), "{error}");
    let mut headed = load(&bad, "u");
    headed.format = Some(FormatKind::Parquet);
    headed.header = Header::Yes;
    let error = loaded(&client, &headed).await.unwrap_err().to_string();
    assert!(error.contains("PARQUET files have no header"), "{error}");
    assert_tidy(&client).await;
}
