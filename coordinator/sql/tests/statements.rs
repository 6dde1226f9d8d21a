//! Every statement of the dialect but queries: what it says, and what is said about mistakes.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use stevedore_common::file_format::{Compression, FormatKind};
use stevedore_sql::ast::{
    AlterTaskAction, ColumnMatchMode, ConnectionRef, ConnectionSpec, CopyInto, CopyOptions, CopySource,
    CreateMode, CreateStage, CreateTable, FileFormatRef, GivenName, LocationRef, ObjectRef, OnError,
    PartitionTransform, Statement, StreamStart, TaskOptions, TaskSchedule, TimeTravel, TransactionControl,
    ValidationMode,
};
use stevedore_sql::connection::StorageType;
use stevedore_sql::{parse, parse_script};

fn ok(sql: &str) -> Statement {
    parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn object(database: Option<&str>, name: &str) -> ObjectRef {
    ObjectRef { database: database.map(str::to_owned), name: name.to_owned() }
}

fn errors(cases: &[(&str, &str)]) {
    for (sql, message) in cases {
        match parse(sql) {
            Err(error) => {
                assert!(error.to_string().contains(message), "{sql}: {error}");
                assert!(error.position().is_some(), "no position: {sql}: {error}");
            }
            Ok(statement) => panic!("{sql}: {statement:?}"),
        }
    }
}

#[test]
fn databases_and_short_statements() {
    let name = |name: &str| name.to_owned();
    for (sql, expected) in [
        ("create database D", Statement::CreateDatabase { name: name("d"), mode: CreateMode::Create }),
        ("CREATE SCHEMA IF NOT EXISTS \"D\"", {
            Statement::CreateDatabase { name: name("D"), mode: CreateMode::IfNotExists }
        }),
        (
            "CREATE OR REPLACE DATABASE d;",
            Statement::CreateDatabase { name: name("d"), mode: CreateMode::OrReplace },
        ),
        ("DROP DATABASE IF EXISTS d", Statement::DropDatabase { name: name("d"), if_exists: true }),
        ("SHOW DATABASES LIKE 'a%'", Statement::ShowDatabases { like: Some(name("a%")) }),
        ("USE d -- now", Statement::Use { database: name("d") }),
        ("DROP TABLE d.t", Statement::DropTable { table: object(Some("d"), "t"), if_exists: false }),
        ("TRUNCATE TABLE t", Statement::TruncateTable { table: object(None, "t") }),
        ("DESC TABLE t", Statement::DescTable { table: object(None, "t") }),
        ("describe T", Statement::DescTable { table: object(None, "t") }),
        ("SHOW TABLES", Statement::ShowTables { database: None, like: None }),
        (
            "SHOW TABLES FROM d LIKE 'x'",
            Statement::ShowTables { database: Some(name("d")), like: Some(name("x")) },
        ),
        ("SHOW COLUMNS FROM t FROM d", Statement::ShowColumns { table: object(Some("d"), "t"), like: None }),
        ("SHOW CREATE TABLE d.t", Statement::ShowCreateTable { table: object(Some("d"), "t") }),
        ("SHOW CONNECTIONS", Statement::ShowConnections { like: None }),
        ("DESC CONNECTION c", Statement::DescConnection { name: name("c") }),
        ("DROP CONNECTION IF EXISTS c", Statement::DropConnection { name: name("c"), if_exists: true }),
        ("SHOW STAGES", Statement::ShowStages { like: None }),
        ("DESC STAGE s", Statement::DescStage { name: name("s") }),
        ("DESC STAGE @~", Statement::DescStage { name: name("~") }),
        ("DROP STAGE s", Statement::DropStage { name: name("s"), if_exists: false }),
        ("SHOW FILE FORMATS", Statement::ShowFileFormats { like: None }),
        ("DROP FILE FORMAT IF EXISTS f", Statement::DropFileFormat { name: name("f"), if_exists: true }),
        ("SET timezone = 'Asia/Tokyo'", Statement::Set { name: name("timezone"), value: name("Asia/Tokyo") }),
        ("SET Max_Threads = 4", Statement::Set { name: name("max_threads"), value: name("4") }),
        ("UNSET timezone", Statement::Unset { name: name("timezone") }),
        ("SHOW SETTINGS", Statement::ShowSettings { like: None }),
    ] {
        assert_eq!(ok(sql), expected, "{sql}");
    }
    errors(&[
        ("", "the statement is empty"),
        ("FOO", "expected a statement"),
        (
            "CREATE OR REPLACE DATABASE IF NOT EXISTS d",
            "OR REPLACE and IF NOT EXISTS exclude each other (line 1, column 28)",
        ),
        ("DROP TABLE a.b.c", "at most two parts"),
        ("DROP TABLE t x", "expected the end of the statement, found 'x' (line 1, column 14)"),
        ("SHOW", "expected DATABASES"),
        ("CREATE", "expected DATABASE"),
        ("USE", "expected the name of a database, found the end of the statement (line 1, column 4)"),
        ("SELECT 'x", "the string literal is not closed with ' (line 1, column 8)"),
    ]);
}

fn table(sql: &str) -> CreateTable {
    match ok(sql) {
        Statement::CreateTable(create) => *create,
        other => panic!("{sql}: {other:?}"),
    }
}

#[test]
fn create_table() {
    let create = table(
        "CREATE OR REPLACE TRANSIENT TABLE D.Events (Id BIGINT UNSIGNED NOT NULL COMMENT 'the key', \"B c\" VARCHAR(10) NULL \
         DEFAULT 'a''b', t TIMESTAMP DEFAULT now() NOT NULL, v VECTOR(4), j JSON, d DECIMAL(10, 2) DEFAULT -1 + 2 COMMENT \
         'x', a ARRAY(TUPLE(x INT, y STRING)), u STRING DEFAULT uuid()) PARTITION BY (day(T), bucket(16, ID), \"B c\") \
         CLUSTER BY (id, to_date(t)) ENABLE_SCHEMA_EVOLUTION = TRUE COMMENT = 'hi'",
    );
    assert_eq!((create.table.clone(), create.mode, create.transient), {
        (object(Some("d"), "events"), CreateMode::OrReplace, true)
    });
    let columns: Vec<String> = create
        .columns
        .iter()
        .map(|c| {
            format!(
                "{} {} {} {:?} {:?}",
                c.name,
                c.ty,
                c.nullable,
                c.default.as_deref(),
                c.comment.as_deref()
            )
        })
        .collect();
    assert_eq!(
        columns,
        [
            "Id BIGINT UNSIGNED false None Some(\"the key\")",
            "B c VARCHAR true Some(\"'a''b'\") None",
            "t TIMESTAMP false Some(\"now()\") None",
            "v VECTOR(4) true None None",
            "j VARIANT true None None",
            "d DECIMAL(10, 2) true Some(\"-1 + 2\") Some(\"x\")",
            "a ARRAY(TUPLE(x INT, y VARCHAR)) true None None",
            "u VARCHAR true Some(\"uuid()\") None",
        ]
    );
    let partitions: Vec<String> = create.partition_by.iter().map(ToString::to_string).collect();
    assert_eq!(partitions, ["day(t)", "bucket(16, Id)", "B c"]);
    assert_eq!(create.partition_by[1].transform, PartitionTransform::Bucket(16));
    assert_eq!(create.cluster_by, ["id", "to_date(t)"]);
    assert_eq!(create.options, [("enable_schema_evolution".to_owned(), "true".to_owned())]);
    assert_eq!(create.comment.as_deref(), Some("hi"));

    let select = table("CREATE TABLE IF NOT EXISTS t AS SELECT a::INT AS A FROM u");
    assert_eq!(select.as_query.unwrap().sql, r#"SELECT __cast("a", 'INT') AS "A" FROM "__rel_0" AS "u""#);
    assert!(table("CREATE TABLE t (a INT, b DOUBLE PRECISION) AS (SELECT 1, 2)").as_query.is_some());
    assert_eq!(table("CREATE TABLE t (a INT DEFAULT NULL)").columns[0].default.as_deref(), Some("NULL"));
    assert_eq!(table("CREATE TABLE t (a INT) ENGINE = ICEBERG").options, []);
    errors(&[
        ("CREATE TABLE t", "expected the columns of the table"),
        ("CREATE TABLE t ()", "expected the name of a column, found ')' (line 1, column 17)"),
        ("CREATE TABLE t (a INTT)", "unknown type 'INTT' (line 1, column 19)"),
        ("CREATE TABLE t (a)", "expected the type of column 'a', found ')'"),
        ("CREATE TABLE t (a INT, A INT)", "column 'A' stands twice (line 1, column 24)"),
        ("CREATE TABLE t (a INT DEFAULT b)", "the DEFAULT of column 'a' holds the column 'b'"),
        ("CREATE TABLE t (a INT DEFAULT (SELECT 1))", "holds a subquery"),
        ("CREATE TABLE t (a INT DEFAULT sum(1))", "holds the aggregate function sum"),
        ("CREATE TABLE t (a INT DEFAULT ?)", "holds a parameter"),
        ("CREATE TABLE t (a INT NULL NOT NULL)", "is given twice"),
        (
            "CREATE TABLE t (a INT) FOO = 1",
            "tables have no option FOO (line 1, column 24); allowed: ENABLE_SCHEMA_EVOLUTION",
        ),
        ("CREATE TABLE t (a INT) ENABLE_SCHEMA_EVOLUTION = 3", "allowed: TRUE, FALSE"),
        ("CREATE TABLE t (a INT) ENGINE = MEMORY", "option ENGINE is 'MEMORY'; allowed: ICEBERG"),
        ("CREATE TABLE t (a INT) PARTITION BY (b)", "the table has no column 'b' (line 1, column 38)"),
        (
            "CREATE TABLE t (a INT) PARTITION BY (week(a))",
            "allowed: year, month, day, hour, bucket, truncate",
        ),
        ("CREATE TABLE t (a VECTOR(5000))", "from 1 to 4096"),
    ]);
}

#[test]
fn alter_table() {
    let Statement::AlterTableAddColumn { table, if_exists, column, .. } =
        ok("ALTER TABLE IF EXISTS d.t ADD COLUMN C INT NOT NULL DEFAULT 3 COMMENT 'x'")
    else {
        panic!()
    };
    assert_eq!((table, if_exists), (object(Some("d"), "t"), true));
    assert_eq!((column.name.as_str(), column.nullable, column.default.as_deref()), ("C", false, Some("3")));
    assert!(matches!(ok("ALTER TABLE t ADD c INT"), Statement::AlterTableAddColumn { .. }));
    let Statement::AlterTableModifyColumns { changes, .. } =
        ok("ALTER TABLE t MODIFY a BIGINT NOT NULL, COLUMN b COMMENT 'x', COLUMN c NULL DEFAULT 1 + 1")
    else {
        panic!()
    };
    let said: Vec<_> = changes.iter().map(|c| (c.ty.is_some(), c.nullable, c.default.as_deref())).collect();
    assert_eq!(said, [(true, Some(false), None), (false, None, None), (false, Some(true), Some("1 + 1"))]);
    assert_eq!(ok("RENAME TABLE a TO d.b"), ok("ALTER TABLE a RENAME TO d.b"));
    let Statement::CreateTable(create) = ok("CREATE TABLE IF NOT EXISTS t LIKE d.u") else { panic!() };
    assert_eq!(create.like, Some(object(Some("d"), "u")));
    assert_eq!(
        ok("ALTER TABLE t SET OPTIONS (Enable_Schema_Evolution = false)"),
        Statement::AlterTableSetOptions {
            table: object(None, "t"),
            if_exists: false,
            options: vec![("enable_schema_evolution".into(), "false".into())],
        }
    );
    errors(&[
        ("ALTER TABLE t SET OPTIONS (x = 1)", "tables have no option X"),
        ("ALTER TABLE t FOO", "expected ADD COLUMN"),
        ("ALTER TABLE t ADD COLUMN", "expected the name of a column"),
        ("ALTER TABLE t DROP", "expected the name of a column"),
        ("ALTER TABLE t MODIFY COLUMN", "expected the name of a column"),
        ("ALTER TABLE t RENAME", "expected the name of a column"),
    ]);
}

#[test]
fn connections() {
    let Statement::CreateConnection { name, mode, options } = ok(
        "CREATE CONNECTION IF NOT EXISTS My_Conn STORAGE_TYPE = 's3', access_key_id='AKIA' AWS_SECRET_KEY = 'shh' \
         ENDPOINT_URL='http://127.0.0.1:9000' REGION = 'eu-west-1' ENABLE_VIRTUAL_HOST_STYLE = true",
    ) else {
        panic!()
    };
    assert_eq!(
        (name.as_str(), mode, options.storage_type),
        ("my_conn", CreateMode::IfNotExists, StorageType::S3)
    );
    assert_eq!(options.params["endpoint_url"], "http://127.0.0.1:9000");
    assert_eq!(options.secrets["secret_access_key"].expose(), "shh");
    errors(&[
        ("CREATE CONNECTION c", "a connection needs STORAGE_TYPE"),
        ("CREATE CONNECTION c STORAGE_TYPE = 's4'", "option STORAGE_TYPE is 's4'; allowed: s3, azblob"),
        (
            "CREATE CONNECTION c STORAGE_TYPE = 's3' FOO = 'x'",
            "connections of type s3 have no option FOO (line 1, column 41)",
        ),
        (
            "CREATE CONNECTION c STORAGE_TYPE = 's3' REGION = 'x' REGION = 'y'",
            "option REGION is given twice (line 1, column 54)",
        ),
        ("CREATE CONNECTION c STORAGE_TYPE = 'fs' STORAGE_TYPE = 'fs'", "option STORAGE_TYPE is given twice"),
        ("CREATE CONNECTION c STORAGE_TYPE = 's3' ACCESS_KEY_ID = 'x'", "needs SECRET_ACCESS_KEY"),
    ]);
}

fn stage(sql: &str) -> CreateStage {
    match ok(sql) {
        Statement::CreateStage(create) => *create,
        other => panic!("{sql}: {other:?}"),
    }
}

#[test]
fn stages() {
    let create = stage(
        "CREATE OR REPLACE STAGE S COMMENT = 'c' FILE_FORMAT = (TYPE = CSV, SKIP_HEADER = 1 FIELD_DELIMITER = '\\x01') URL = \
         's3://b/x/' COPY_OPTIONS = (ON_ERROR = skip_file_5% PURGE = TRUE) CONNECTION = (CONNECTION_NAME = 'My_Conn')",
    );
    assert_eq!((create.name.as_str(), create.mode), ("s", CreateMode::OrReplace));
    assert_eq!(
        create.location,
        Some(LocationRef::Uri {
            url: "s3://b/x/".into(),
            connection: Some(ConnectionRef::Named { name: "my_conn".into(), storage_type: StorageType::S3 }),
        })
    );
    let Some(FileFormatRef::Inline(format)) = &create.file_format else { panic!() };
    assert_eq!(
        (format.kind, format.skip_header, format.field_delimiter.as_str()),
        (FormatKind::Csv, 1, "\u{1}")
    );
    assert_eq!(create.copy_options.to_string(), "ON_ERROR = skip_file_5% PURGE = true");
    let internal = stage("CREATE STAGE s FILE_FORMAT = (FORMAT_NAME = 'F')");
    assert_eq!((internal.location, internal.file_format), (None, Some(FileFormatRef::Named("f".into()))));
    let inline = stage("CREATE STAGE s 's3://b/' CONNECTION = (ACCESS_KEY_ID='a' SECRET_ACCESS_KEY='b')");
    let Some(LocationRef::Uri { connection: Some(ConnectionRef::Inline(options)), .. }) = inline.location
    else {
        panic!()
    };
    assert_eq!(options.secrets["secret_access_key"].expose(), "b");
    assert!(stage("CREATE STAGE s URL = 'https://h/{a,b}.csv'").location.is_some());

    let Statement::AlterStage(alter) =
        ok("ALTER STAGE IF EXISTS s SET URL = 's3://c/' CONNECTION = (REGION = 'x'), COMMENT = 'y'")
    else {
        panic!()
    };
    assert_eq!(
        (alter.url.as_deref(), alter.comment.as_deref(), alter.if_exists),
        (Some("s3://c/"), Some("y"), true)
    );
    assert!(matches!(alter.connection, Some(ConnectionSpec::Inline(_))));
    let Statement::AlterStage(alter) = ok("ALTER STAGE s UNSET FILE_FORMAT, COMMENT") else { panic!() };
    assert!(alter.unset_file_format && alter.unset_comment);

    errors(&[
        ("CREATE STAGE s URL = 's3://b/x'", "must name a folder (line 1, column 22); write 's3://b/x/'"),
        ("CREATE STAGE s URL = 'fs:///a/../b/'", "'..' is not allowed"),
        ("CREATE STAGE s URL = 'ftp://b/'", "unknown scheme 'ftp'"),
        ("CREATE STAGE s FOO = 1", "a stage has no option FOO (line 1, column 16); allowed: URL, CONNECTION"),
        ("CREATE STAGE s CONNECTION = (CONNECTION_NAME = 'c')", "CONNECTION needs a URL"),
        (
            "CREATE STAGE s 's3://b/' CONNECTION = (CONNECTION_NAME = 'c' REGION = 'x')",
            "CONNECTION_NAME and REGION exclude each other (line 1, column 62)",
        ),
        ("CREATE STAGE s 's3://b/' CONNECTION = (TOKEN = 'c')", "type s3 have no option TOKEN"),
        (
            "CREATE STAGE s FILE_FORMAT = (FORMAT_NAME = 'f' TYPE = CSV)",
            "FORMAT_NAME and TYPE exclude each other",
        ),
        (
            "CREATE STAGE s FILE_FORMAT = (TYPE = CSV FOO = 1)",
            "CSV files have no option FOO (line 1, column 42)",
        ),
        (
            "CREATE STAGE s FILE_FORMAT = (TYPE = CSV COMPRESSION = LZ4)",
            "option COMPRESSION is 'LZ4'; allowed: AUTO",
        ),
        ("CREATE STAGE s FILE_FORMAT = (SKIP_HEADER = 1)", "a file format needs TYPE"),
        (
            "CREATE STAGE s FILE_FORMAT = (TYPE = CSV TYPE = CSV)",
            "option TYPE is given twice (line 1, column 42)",
        ),
        ("CREATE STAGE s COMMENT = 'a' COMMENT = 'b'", "option COMMENT is given twice (line 1, column 30)"),
        ("ALTER STAGE s", "expected SET or UNSET"),
    ]);
}

#[test]
fn file_formats() {
    for sql in [
        "CREATE FILE FORMAT F TYPE = CSV COMPRESSION = gzip SKIP_HEADER = 1 NULL_DISPLAY = ''",
        "CREATE FILE FORMAT f = (TYPE = 'csv', COMPRESSION = 'GZIP', SKIP_HEADER = 1, NULL_DISPLAY = '')",
        "create file format f (null_display='' skip_header=1, compression=Gzip type=Csv)",
    ] {
        let Statement::CreateFileFormat { name, format, .. } = ok(sql) else { panic!("{sql}") };
        assert_eq!(
            (name.as_str(), format.kind, format.compression),
            ("f", FormatKind::Csv, Compression::Gzip)
        );
        assert_eq!((format.skip_header, format.null_display.as_str()), (1, ""));
    }
    let Statement::CreateFileFormat { format, .. } =
        ok("CREATE OR REPLACE FILE FORMAT f TYPE = NDJSON NULL_IF = ('', 'x')")
    else {
        panic!()
    };
    assert_eq!(format.null_if, ["", "x"]);
    errors(&[
        ("CREATE FILE FORMAT csv TYPE = CSV", "'csv' is the name of a built-in file format"),
        ("CREATE FILE FORMAT f", "a file format needs TYPE"),
        ("CREATE FILE FORMAT f TYPE = XML", "allowed: CSV"),
        ("CREATE FILE FORMAT f TYPE = PARQUET SKIP_HEADER = 1", "PARQUET files have no option SKIP_HEADER"),
        ("CREATE FILE FORMAT f TYPE = CSV SKIP_HEADER = -1", "option SKIP_HEADER is '-1'"),
        ("CREATE FILE FORMAT f (TYPE = CSV", "expected ')'"),
    ]);
}

#[test]
fn files_of_stages() {
    let Statement::List(list) = ok("LIST @My_S/a%20b/ PATTERN = '.*[.]csv'") else { panic!() };
    assert_eq!(list.location, LocationRef::Stage { name: "my_s".into(), path: "a%20b/".into() });
    assert_eq!(list.pattern.as_deref(), Some(".*[.]csv"));
    assert!(
        matches!(ok("REMOVE @~/x"), Statement::Remove(files) if files.location == LocationRef::UserStage { path: "x".into() })
    );
    let Statement::Put(put) = ok("PUT fs:///tmp/*.csv @s/p PARALLEL = 8 AUTO_COMPRESS = TRUE") else {
        panic!()
    };
    assert_eq!((put.local.as_str(), put.auto_compress, put.parallel), ("fs:///tmp/*.csv", true, Some(8)));
    let Statement::Get(get) = ok("GET @s/p 'fs:///tmp/a b/' PATTERN = 'x'") else { panic!() };
    assert_eq!((get.local.as_str(), get.location.to_string().as_str()), ("fs:///tmp/a b/", "@s/p"));
    errors(&[
        ("LIST s", "expected a stage, as in @stage/path, found 's'"),
        ("LIST @s PATTERN = '('", "option PATTERN is not a valid regular expression"),
        ("LIST @s FOO = 1", "LIST has no option FOO"),
        ("REMOVE 's3://b/'", "expected a stage"),
        ("PUT '/tmp/x' @s", "is not a local path"),
        ("PUT fs:///x @s PARALLEL = 0", "allowed: 1 to 99"),
    ]);
}

fn copy(sql: &str) -> CopyInto {
    match ok(sql) {
        Statement::CopyIntoTable(copy) => *copy,
        other => panic!("{sql}: {other:?}"),
    }
}

#[test]
fn copy_into_may_only_validate() {
    for (mode, expected) in [
        ("RETURN_ERRORS", ValidationMode::ReturnErrors),
        ("'return_all_errors'", ValidationMode::ReturnAllErrors),
        ("RETURN_ROWS", ValidationMode::ReturnRows(None)),
        ("return_12_rows", ValidationMode::ReturnRows(Some(12))),
    ] {
        let copy = copy(&format!("COPY INTO t FROM @s VALIDATION_MODE = {mode} FORCE = true"));
        assert_eq!((copy.validation, copy.options.force()), (Some(expected), true), "{mode}");
    }
}

#[test]
fn explain_copy_reads_on_after_options_that_are_wrong() {
    let sql = "EXPLAIN COPY INTO t (a) FROM (SELECT $1, $2 FROM @s) MAX_FILES = 0 PATTERN = '(' \
               FILE_FORMAT = (TYPE = CSV FOO = 1) ON_EROR = x FORCE = true FORCE = 7";
    let Statement::ExplainCopy { copy, problems } = ok(sql) else { panic!() };
    assert!(copy.options.force());
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let expected = ["MAX_FILES is 0", "PATTERN", "FOO", "no option ON_EROR", "FORCE", "2 expressions"];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, part) in problems.iter().zip(expected) {
        assert!(problem.contains(part), "{problem} has no {part}");
    }
    let Statement::ExplainCopy { problems, .. } = ok("EXPLAIN COPY INTO t FROM @s/x") else { panic!() };
    assert!(problems.is_empty());
    errors(&[("EXPLAIN COPY INTO t FROM @s WAT", "expected FILES, PATTERN")]);
}

#[test]
fn copy_into_takes_options_in_any_order_with_or_without_commas() {
    let full = copy(
        "COPY INTO D.t (a, \"B\") FROM @s/dir/ PURGE = TRUE, FILES = ('x.csv', 'y.csv') ON_ERROR = 'Abort_10' FILE_FORMAT = \
         (TYPE = CSV) MAX_FILES=15000 PATTERN = '.*' FORCE = true RETURN_FAILED_ONLY = TRUE COLUMN_MATCH_MODE = \
         CASE-SENSITIVE DISABLE_VARIANT_CHECK = FALSE;",
    );
    assert_eq!(full.table, object(Some("d"), "t"));
    assert_eq!(full.columns, Some(vec!["a".to_owned(), "B".to_owned()]));
    assert_eq!(full.location().to_string(), "@s/dir/");
    assert_eq!(full.files, Some(vec!["x.csv".to_owned(), "y.csv".to_owned()]));
    let options = &full.options;
    assert_eq!((options.on_error(), options.purge(), options.force()), (OnError::AbortAfter(10), true, true));
    assert_eq!((options.max_files, options.return_failed_only()), (Some(15_000), true));
    assert_eq!(options.column_match_mode(), ColumnMatchMode::CaseSensitive);
    assert_eq!(options.disable_variant_check, Some(false));

    let sampled = copy(
        "COPY INTO t FROM @s SCHEMA_EVOLUTION = (SAMPLE_FILES = 3 SAMPLE_RECORDS_PER_FILE = auto, \
         SAMPLE_TOTAL_RECORDS = 7) FORCE = TRUE",
    );
    let sample = sampled.options.schema_evolution();
    assert_eq!((sample.files(), sample.records_per_file(), sample.total_records()), (3, 1_000, 7));
    assert_eq!(
        sampled.options.to_string(),
        "FORCE = true SCHEMA_EVOLUTION = (SAMPLE_FILES = 3, SAMPLE_RECORDS_PER_FILE = AUTO, \
         SAMPLE_TOTAL_RECORDS = 7)"
    );
    let auto = CopyOptions::default().schema_evolution();
    assert_eq!((auto.files(), auto.records_per_file(), auto.total_records()), (64, 1_000, 10_000));

    let plain = copy("copy into t from @~");
    assert_eq!((plain.options.on_error(), plain.file_format), (OnError::Abort, None));
    let uri = copy(
        "COPY INTO t FROM 's3://b/x.csv' CONNECTION = (CONNECTION_NAME = 'c') FILE_FORMAT = (FORMAT_NAME = 'f')",
    );
    assert!(matches!(uri.location(), LocationRef::Uri { connection: Some(ConnectionRef::Named { .. }), .. }));
    let transform = copy(
        "COPY INTO t FROM (SELECT $1 FROM @s (FILE_FORMAT => 'csv', PATTERN => 'a')) ON_ERROR = continue",
    );
    assert!(matches!(transform.source, CopySource::Transform(_)));
    assert_eq!(transform.file_format, Some(FileFormatRef::Named("csv".into())));
    assert_eq!((transform.pattern.as_deref(), transform.options.on_error()), (Some("a"), OnError::Continue));
    for (text, expected) in [
        ("continue", OnError::Continue),
        ("SKIP_FILE", OnError::SkipFile),
        ("skip_file_3", OnError::SkipFileCount(3)),
        ("'skip_file_3%'", OnError::SkipFilePercent(3)),
        ("skip_file_30%", OnError::SkipFilePercent(30)),
        ("ABORT_2", OnError::AbortAfter(2)),
    ] {
        assert_eq!(
            copy(&format!("COPY INTO t FROM @s ON_ERROR = {text}")).options.on_error(),
            expected,
            "{text}"
        );
    }
    let (stage, statement) = (
        copy("COPY INTO t FROM @s ON_ERROR = continue PURGE = TRUE").options,
        copy("COPY INTO t FROM @s ON_ERROR = abort").options,
    );
    let merged = statement.or(&stage);
    assert_eq!((merged.on_error(), merged.purge()), (OnError::Abort, true));
}

#[test]
fn copy_into_names_what_is_wrong() {
    errors(&[
        ("COPY INTO t", "expected FROM"),
        ("COPY INTO t FROM s", "expected a stage (@stage/path), a URL in quotes, or (SELECT …), found 's'"),
        (
            "COPY INTO t FROM @s FOO = 1",
            "COPY INTO a table has no option FOO (line 1, column 21); allowed: FILES",
        ),
        ("COPY INTO t FROM @s FORCE = 1", "option FORCE is '1'; allowed: TRUE, FALSE (line 1, column 29)"),
        ("COPY INTO t FROM @s FORCE = true FORCE = true", "option FORCE is given twice (line 1, column 34)"),
        ("COPY INTO t FROM @s MAX_FILES = 15001", "allowed: 1 to 15000"),
        ("COPY INTO t FROM @s MAX_FILES = 0", "allowed: 1 to 15000"),
        ("COPY INTO t FROM @s ON_ERROR = abort_0", "allowed: abort, abort_N"),
        ("COPY INTO t FROM @s ON_ERROR = skip_file_101%", "allowed: abort"),
        ("COPY INTO t FROM @s ON_ERROR = ignore", "option ON_ERROR is 'ignore'; allowed"),
        ("COPY INTO t FROM @s SIZE_LIMIT = 1", "not supported: the option SIZE_LIMIT"),
        (
            "COPY INTO t FROM @s VALIDATION_MODE = RETURN_0_ROWS",
            "allowed: RETURN_ERRORS, RETURN_ALL_ERRORS, RETURN_ROWS, RETURN_n_ROWS with n from 1",
        ),
        ("COPY INTO t FROM @s VALIDATION_MODE = ROWS", "option VALIDATION_MODE is 'ROWS'; allowed"),
        (
            "COPY INTO t FROM @s VALIDATION_MODE = RETURN_ROWS VALIDATION_MODE = RETURN_ROWS",
            "option VALIDATION_MODE is given twice",
        ),
        (
            "CREATE STAGE s COPY_OPTIONS = (VALIDATION_MODE = RETURN_ROWS)",
            "VALIDATION_MODE cannot be one of COPY_OPTIONS",
        ),
        (
            "COPY INTO t FROM @s SCHEMA_EVOLUTION = (SAMPLE = 1)",
            "SCHEMA_EVOLUTION has no option SAMPLE (line 1, column 41); allowed: SAMPLE_FILES",
        ),
        (
            "COPY INTO t FROM @s SCHEMA_EVOLUTION = (SAMPLE_FILES = 0)",
            "option SAMPLE_FILES is '0'; allowed: AUTO, 1 to 10000",
        ),
        (
            "COPY INTO t FROM @s SCHEMA_EVOLUTION = (SAMPLE_TOTAL_RECORDS = many)",
            "option SAMPLE_TOTAL_RECORDS is 'many'; allowed: AUTO, 1 to 10000000",
        ),
        (
            "COPY INTO t FROM @s SCHEMA_EVOLUTION = (SAMPLE_FILES = 1, SAMPLE_FILES = AUTO)",
            "option SAMPLE_FILES is given twice",
        ),
        ("COPY INTO t FROM @s COLUMN_MATCH_MODE = x", "allowed: CASE_SENSITIVE, CASE_INSENSITIVE"),
        ("COPY INTO t FROM @s FILES = ()", "option FILES is an empty list"),
        ("COPY INTO t FROM @s FILES = ('../x')", "is not a relative path"),
        ("COPY INTO t FROM @s CONNECTION = (REGION = 'x')", "a stage has its own connection"),
        ("COPY INTO t FROM @s PATTERN = '[' ", "option PATTERN is not a valid regular expression"),
        (
            "COPY INTO t FROM (SELECT $1 FROM @s (PATTERN => 'a')) PATTERN = 'b'",
            "option PATTERN is given twice",
        ),
        ("COPY INTO t FROM (SELECT a FROM @s", "expected ')'"),
        ("COPY INTO t FROM @s FILE_FORMAT = (TYPE = CSV QUOTE = 'x')", "option QUOTE is 'x'"),
    ]);
    let counts = parse("COPY INTO t (a, b) FROM (SELECT $1 FROM @s)").unwrap_err().to_string();
    assert!(counts.contains("the query has 1 expressions, the statement names 2 columns"), "{counts}");
}

#[test]
fn explain() {
    assert!(matches!(ok("EXPLAIN SELECT 1"), Statement::Explain { analyze: false, verbose: false, .. }));
    assert!(matches!(
        ok("EXPLAIN ANALYZE VERBOSE (SELECT 1)"),
        Statement::Explain { analyze: true, verbose: true, .. }
    ));
    errors(&[("EXPLAIN", "expected a query"), ("EXPLAIN FOO", "expected a query")]);
}

#[test]
fn what_is_not_built_is_answered_by_name_and_is_no_syntax_error() {
    for (sql, what) in [
        ("CREATE TASK t SCHEDULE = 1 MINUTE AS GRANT SELECT ON t TO u", "GRANT"),
        ("REPLACE INTO t ON (a) VALUES (1)", "REPLACE INTO"),
        ("CREATE TABLE t (a VECTOR(4), VECTOR INDEX i(a) distance='cosine')", "VECTOR INDEX in CREATE TABLE"),
        ("CREATE TABLE t (a VARIANT, INVERTED INDEX i (a)) CLUSTER BY (a)", "INVERTED INDEX in CREATE TABLE"),
        ("ROLLBACK TO SAVEPOINT s", "ROLLBACK TO (savepoints)"),
        ("CREATE VIEW v AS SELECT 1", "CREATE VIEW"),
        ("CREATE OR REPLACE AGGREGATING INDEX i AS SELECT a FROM t", "CREATE AGGREGATING INDEX"),
        ("SHOW USERS", "SHOW USERS"),
        ("GRANT SELECT ON t TO u", "GRANT"),
        ("SET GLOBAL a = 1", "global settings"),
        ("EXPLAIN COPY INTO @s FROM t", "EXPLAIN of COPY INTO a location"),
        ("EXPLAIN ANALYZE COPY INTO t FROM @s", "EXPLAIN COPY"),
    ] {
        assert_eq!(ok(sql), Statement::NotSupportedYet(what.into()), "{sql}");
        let answer = ok(sql).unsupported().unwrap().to_string();
        assert!(answer.starts_with("not supported yet: "), "{answer}");
    }
    for sql in [
        "CALL PROCEDURE p(30)",
        "CALL system$x()",
        "CREATE PROCEDURE p() RETURNS INT LANGUAGE SQL AS $$ BEGIN END $$",
        "CREATE WAREHOUSE etl WAREHOUSE_SIZE = 'XSmall'",
        "ALTER WAREHOUSE etl SUSPEND",
    ] {
        assert!(ok(sql).unsupported().unwrap().to_string().starts_with("not supported: "), "{sql}");
    }
}

#[test]
fn warehouses() {
    let set = |value: &str| Statement::Set { name: "warehouse".into(), value: value.into() };
    for (sql, value) in [
        ("USE WAREHOUSE ETL", "etl"),
        ("use warehouse 'my-wh'", "my-wh"),
        ("USE WAREHOUSE \"my-wh\"", "my-wh"),
        ("SET warehouse = 'etl'", "etl"),
        ("SET WAREHOUSE = etl", "etl"),
    ] {
        assert_eq!(ok(sql), set(value), "{sql}");
    }
    assert_eq!(ok("UNSET warehouse"), Statement::Unset { name: "warehouse".into() });
    // A database may have this name.
    assert_eq!(ok("USE warehouse"), Statement::Use { database: "warehouse".into() });
    assert_eq!(ok("SHOW WAREHOUSES LIKE 'e%'"), Statement::ShowWarehouses { like: Some("e%".into()) });
    let dropped = |if_exists| Statement::DropWarehouse { name: "etl".into(), if_exists };
    assert_eq!(ok("DROP WAREHOUSE etl"), dropped(false));
    assert_eq!(ok("DROP WAREHOUSE IF EXISTS 'etl'"), dropped(true));
    errors(&[
        ("USE WAREHOUSE etl now", "end of the statement"),
        ("DROP WAREHOUSE", "expected"),
        ("SHOW WAREHOUSES etl", "end of the statement"),
    ]);
}

#[test]
fn streams() {
    let created = |sql: &str| match ok(sql) {
        Statement::CreateStream(create) => *create,
        other => panic!("{sql}: {other:?}"),
    };
    let plain = created("CREATE STREAM s ON TABLE T");
    assert_eq!((plain.stream.to_string(), plain.table.to_string()), ("s".into(), "t".into()));
    assert_eq!(
        (plain.mode, plain.at, plain.append_only, plain.comment),
        (CreateMode::Create, None, true, None)
    );
    let full = created(
        "CREATE OR REPLACE STREAM d.s ON TABLE e.t AT (TIMESTAMP => '2020-01-01'::TIMESTAMP) APPEND_ONLY = false \
         COMMENT = 'x'",
    );
    assert_eq!((full.stream.to_string(), full.table.to_string()), ("d.s".into(), "e.t".into()));
    assert_eq!((full.mode, full.append_only, full.comment), (CreateMode::OrReplace, false, Some("x".into())));
    let at = TimeTravel::Timestamp("__cast('2020-01-01', 'TIMESTAMP')".into());
    assert_eq!(full.at, Some(StreamStart::Table(at)));
    let at = created("CREATE STREAM IF NOT EXISTS s ON TABLE t APPEND_ONLY = TRUE AT (SNAPSHOT => '5')").at;
    assert_eq!(at, Some(StreamStart::Table(TimeTravel::Snapshot("5".into()))));
    for other in ["STREAM => D.o", "stream => 'd.o'"] {
        let at = created(&format!("CREATE STREAM s ON TABLE t AT ({other})")).at;
        assert_eq!(at, Some(StreamStart::Stream(object(Some("d"), "o"))), "{other}");
    }
    let named = |name: &str| object(None, name);
    assert_eq!(ok("DROP STREAM IF EXISTS s"), Statement::DropStream { stream: named("s"), if_exists: true });
    assert_eq!(ok("DESC STREAM s"), Statement::DescStream { stream: named("s") });
    assert_eq!(ok("CONSUME STREAM s"), Statement::ConsumeStream { stream: named("s") });
    assert_eq!(
        ok("SHOW FULL STREAMS FROM d LIKE 'a%'"),
        Statement::ShowStreams { database: Some("d".into()), like: Some("a%".into()) }
    );
    errors(&[
        ("CREATE STREAM s", "expected ON"),
        ("CREATE STREAM s ON t", "expected TABLE"),
        ("CREATE OR REPLACE STREAM IF NOT EXISTS s ON TABLE t", "exclude each other"),
        ("CREATE STREAM s ON TABLE t APPEND_ONLY = 1", "expected TRUE or FALSE"),
        ("CREATE STREAM s ON TABLE t APPEND_ONLY = true APPEND_ONLY = true", "APPEND_ONLY is given twice"),
        ("CREATE STREAM s ON TABLE t MODE = 'x'", "expected AT (…), APPEND_ONLY, COMMENT"),
        ("CREATE STREAM s ON TABLE t AT (OFFSET => 1)", "not supported: AT (OFFSET => …)"),
        ("CREATE STREAM s ON TABLE t AT (SNAPSHOT '1')", "expected '=>'"),
        ("CREATE STREAM s ON TABLE t AT ()", "expected TIMESTAMP => …"),
        ("CREATE STREAM s ON TABLE t AT (STREAM => a.b.c)", "at most two parts"),
        ("CREATE STREAM s ON TABLE t AT (STREAM =>", "not closed"),
        ("CONSUME STREAM", "name of a stream"),
    ]);
    assert_eq!(ok("CREATE STREAM s ON VIEW v"), Statement::NotSupportedYet("CREATE STREAM … ON VIEW".into()));
}

#[test]
fn transactions_begin_and_end() {
    use TransactionControl::{Begin, Commit, RollBack};
    for (sql, control) in [
        ("BEGIN", Begin),
        ("begin transaction;", Begin),
        ("START TRANSACTION", Begin),
        ("COMMIT", Commit),
        ("COMMIT TRANSACTION", Commit),
        ("ROLLBACK;", RollBack),
        ("BEGIN WORK", Begin),
        ("COMMIT WORK", Commit),
        ("ROLLBACK WORK", RollBack),
    ] {
        assert_eq!(ok(sql), Statement::Transaction(control), "{sql}");
    }
    for (sql, expected) in [
        ("START", "TRANSACTION"),
        ("BEGIN SELECT 1", "the end of the statement"),
        ("COMMIT AND CHAIN", "the end of the statement"),
    ] {
        let error = parse(sql).unwrap_err().to_string();
        assert!(error.contains(&format!("expected {expected}")), "{sql}: {error}");
    }
    let task = ok("CREATE TASK t AS BEGIN BEGIN; SELECT 1; COMMIT; END");
    assert!(matches!(task, Statement::CreateTask(_)), "{task:?}");
}

#[test]
fn the_smart_vision_walkthrough_parses() {
    let script = r"
CREATE OR REPLACE CONNECTION everdrive_s3
  STORAGE_TYPE = 's3'
  ACCESS_KEY_ID = '<AWS_ACCESS_KEY_ID>'
  SECRET_ACCESS_KEY = '<AWS_SECRET_ACCESS_KEY>';

CREATE OR REPLACE STAGE drive_stage
  URL = 's3://everdrive-lakehouse/raw/'
  CONNECTION = (CONNECTION_NAME = 'everdrive_s3')
  FILE_FORMAT = (TYPE = 'PARQUET');

LIST @drive_stage/sessions/;
SELECT * FROM @drive_stage/frame-events/batch_2025_01_01.parquet LIMIT 5;

CREATE OR REPLACE TABLE frame_events (
    frame_id STRING, session_id STRING, frame_index INT, captured_at TIMESTAMP, event_type STRING, risk_score DOUBLE
);
COPY INTO frame_events (frame_id, session_id, frame_index, captured_at, event_type, risk_score)
FROM (
  SELECT frame_id::STRING,
         session_id::STRING,
         frame_index::INT,
         captured_at::TIMESTAMP,
         event_type::STRING,
         risk_score::DOUBLE
  FROM @drive_stage/frame-events/
)
FILE_FORMAT = (TYPE = 'PARQUET');
COPY INTO frame_payloads (frame_id, run_stage, payload, logged_at)
FROM (SELECT frame_id::STRING, run_stage::STRING, payload::VARIANT, logged_at::TIMESTAMP FROM @drive_stage/payloads/)
FILE_FORMAT = (TYPE = 'PARQUET');
COPY INTO frame_embeddings (frame_id, embedding, created_at)
FROM (SELECT frame_id::STRING, embedding::VECTOR(4), -- the model's dimension
             created_at::TIMESTAMP FROM @drive_stage/frame-embeddings/)
FILE_FORMAT = (TYPE = 'PARQUET');
CREATE OR REPLACE STREAM frame_events_stream ON TABLE frame_events;
SELECT * FROM frame_events_stream WITH CONSUME;  -- advance the offset
CREATE OR REPLACE TASK task_load_frame_events
  WAREHOUSE = 'default'
  SCHEDULE = 10 MINUTE
AS
  COPY INTO frame_events FROM @drive_stage/frame-events/;
ALTER TASK task_load_frame_events RESUME;

INSERT INTO frame_events VALUES ('FRAME-0101', 'SES-1', 125, '2025-01-01 08:15:21', 'hard_brake', 0.81);
WITH recent_sessions AS (SELECT * FROM drive_sessions WHERE start_time >= DATEADD('day', -7, CURRENT_TIMESTAMP))
SELECT s.session_id, COUNT(e.frame_id) AS flagged FROM recent_sessions s
LEFT JOIN frame_events e USING (session_id) GROUP BY s.session_id ORDER BY flagged DESC;
SELECT frame_id FROM frame_events f WHERE NOT EXISTS (SELECT 1 FROM drive_sessions s WHERE s.session_id = f.session_id);
SELECT route, event_type, COUNT(*) AS n FROM x GROUP BY ROLLUP(route, event_type) ORDER BY route NULLS LAST;
SELECT frame_id, payload['objects'][0]['type']::STRING AS t, payload:media.tags[1] FROM frame_payloads;
SELECT frame_id, AVG(risk_score) OVER (PARTITION BY session_id ORDER BY frame_index ROWS BETWEEN 3 PRECEDING AND CURRENT ROW)
AS rolling FROM frame_events;
WITH q AS (SELECT embedding FROM frame_embeddings WHERE frame_id = 'FRAME-0101')
SELECT e.frame_id, COSINE_DISTANCE(e.embedding, q.embedding) AS distance FROM frame_embeddings AS e CROSS JOIN q
ORDER BY distance LIMIT 3;
SELECT COSINE_DISTANCE(embedding, [0.1, 0.2, 0.3, 0.4]::VECTOR(4)) FROM frame_embeddings;
";
    let statements = parse_script(script).unwrap();
    let names: Vec<&str> = statements.iter().map(|(_, statement)| statement.name()).collect();
    assert_eq!(
        names,
        [
            "CREATE CONNECTION",
            "CREATE STAGE",
            "LIST",
            "SELECT",
            "CREATE TABLE",
            "COPY INTO",
            "COPY INTO",
            "COPY INTO",
            "CREATE STREAM",
            "SELECT",
            "CREATE TASK",
            "ALTER TASK",
            "INSERT INTO",
            "SELECT",
            "SELECT",
            "SELECT",
            "SELECT",
            "SELECT",
            "SELECT",
            "SELECT",
        ]
    );
    assert!(statements[2].0 == "LIST @drive_stage/sessions/");
}

#[test]
fn tasks() {
    let Statement::CreateTask(task) = ok(
        "CREATE OR REPLACE TASK T WAREHOUSE = 'default' SCHEDULE = USING CRON '0 0 9 * * *' 'UTC'
         WHEN (CAST(1 AS INT) = 1) COMMENT = 'c', SUSPEND_TASK_AFTER_NUM_FAILURES = 3 ERROR_INTEGRATION = 'Hook'
         timezone = 'Europe/Paris' AS BEGIN INSERT INTO t VALUES (CASE WHEN true THEN 1 END); SELECT 2; END;",
    ) else {
        panic!()
    };
    assert_eq!((task.name.as_str(), task.condition.as_deref()), ("t", Some("(CAST(1 AS INT) = 1)")));
    assert_eq!(
        task.options,
        TaskOptions {
            warehouse: Some("default".into()),
            schedule: Some(TaskSchedule::Cron { expression: "0 0 9 * * *".into(), timezone: "UTC".into() }),
            suspend_after: Some(3),
            error_integration: Some(GivenName::Text("Hook".into())),
            comment: Some("c".into()),
            settings: vec![("timezone".into(), "Europe/Paris".into())],
        }
    );
    let pieces = stevedore_sql::task::statements(&task.body).unwrap();
    assert_eq!(pieces, ["INSERT INTO t VALUES (CASE WHEN true THEN 1 END)", "SELECT 2"]);
    let Statement::CreateTask(task) = ok("CREATE TASK c AFTER 'A', b, COMMENT = 'x' AS SELECT 1") else {
        panic!()
    };
    let after = vec![GivenName::Text("A".into()), GivenName::Exact("b".into())];
    assert_eq!((task.after, task.body.as_str()), (after, "SELECT 1"));
    for (written, name) in [
        ("Hook", GivenName::Exact("hook".into())),
        ("\"Hook\"", GivenName::Exact("Hook".into())),
        ("'Hook'", GivenName::Text("Hook".into())),
    ] {
        let Statement::AlterTask(alter) = ok(&format!("ALTER TASK t SET ERROR_INTEGRATION = {written}"))
        else {
            panic!()
        };
        let AlterTaskAction::Set(options) = alter.action else { panic!() };
        assert_eq!(options.error_integration, Some(name));
    }
    for (condition, setting) in [
        ("(SELECT count(*) FROM readings) > 0", "timezone = 'Europe/Paris'"),
        ("true", ", timezone = 'Europe/Paris'"),
        ("a = 1 AND b = 'x' OR NOT c = 2", "timezone = 'Europe/Paris'"),
        ("CASE WHEN a = 1 THEN b = 2 ELSE c = 3 END", "timezone = 'Europe/Paris' COMMENT = 'x'"),
    ] {
        let sql = format!("CREATE TASK t WHEN {condition} {setting} AS SELECT 1");
        let Statement::CreateTask(task) = ok(&sql) else { panic!() };
        assert_eq!(task.condition.as_deref(), Some(condition));
        assert_eq!(task.options.settings, [("timezone".to_owned(), "Europe/Paris".to_owned())]);
    }
    for (sql, ms) in [("10 MINUTE", 600_000), ("5 SECOND", 5_000), ("500 MILLISECOND", 500)] {
        let Statement::AlterTask(alter) = ok(&format!("ALTER TASK t SET SCHEDULE = {sql}")) else { panic!() };
        let AlterTaskAction::Set(options) = alter.action else { panic!() };
        assert_eq!(options.schedule, Some(TaskSchedule::Interval { ms }));
    }
    for (sql, action) in [
        ("RESUME", AlterTaskAction::Resume),
        ("SUSPEND", AlterTaskAction::Suspend),
        ("MODIFY AS SELECT 2", AlterTaskAction::ModifyBody("SELECT 2".into())),
        ("AS SELECT 2", AlterTaskAction::ModifyBody("SELECT 2".into())),
        ("MODIFY WHEN 1 = 2", AlterTaskAction::ModifyCondition("1 = 2".into())),
        (
            "ADD AFTER 'a', 'b'",
            AlterTaskAction::AddAfter(vec![GivenName::Text("a".into()), GivenName::Text("b".into())]),
        ),
        ("REMOVE AFTER a", AlterTaskAction::RemoveAfter(vec![GivenName::Exact("a".into())])),
        ("UNSET COMMENT, timezone", AlterTaskAction::Unset(vec!["comment".into(), "timezone".into()])),
    ] {
        let Statement::AlterTask(alter) = ok(&format!("ALTER TASK IF EXISTS t {sql}")) else { panic!() };
        assert_eq!((alter.action, alter.if_exists), (action, true), "{sql}");
    }
    assert!(matches!(ok("EXECUTE TASK t"), Statement::ExecuteTask { name } if name == "t"));
    assert!(matches!(ok("SHOW TASKS LIKE 'a%'"), Statement::ShowTasks { like: Some(_) }));
    assert!(matches!(ok("DESC TASK t"), Statement::DescTask { .. }));
    assert!(matches!(ok("DROP TASK IF EXISTS t"), Statement::DropTask { if_exists: true, .. }));
    errors(&[
        ("CREATE TASK t SCHEDULE = 1 MINUTE AFTER 'a' AS SELECT 1", "cannot have both SCHEDULE and AFTER"),
        ("CREATE TASK t SCHEDULE = 400 MILLISECOND AS SELECT 1", "allowed: 500 to 999"),
        ("CREATE TASK t SCHEDULE = 0 SECOND AS SELECT 1", "SCHEDULE is 0 SECOND"),
        ("CREATE TASK t SCHEDULE = 1 FORTNIGHT AS SELECT 1", "expected MINUTE, SECOND or MILLISECOND"),
        ("CREATE TASK t SCHEDULE = USING CRON '0 0 9 * * *' AS SELECT 1", "expected a time zone"),
        ("CREATE TASK t SCHEDULE = 1 MINUTE SCHEDULE = 2 MINUTE AS SELECT 1", "SCHEDULE is given twice"),
        ("CREATE TASK t SCHEDULE = 1 MINUTE", "expected WAREHOUSE, SCHEDULE"),
        ("CREATE TASK t AS", "expected a statement"),
        ("CREATE TASK t AS SELEC 1", "expected a statement"),
        ("CREATE TASK t AS SELECT ?", "a task has no parameters"),
        ("CREATE TASK t WHEN 1 + AS SELECT 1", "the condition of WHEN"),
        ("CREATE TASK t AS CREATE TASK u AS SELECT 1", "within a task"),
        ("CREATE TASK t AS PUT fs:///a @s", "PUT in a task"),
        ("ALTER TASK t FROB", "expected RESUME, SUSPEND"),
        (
            "CREATE TASK t AS BEGIN IF (1=1) THEN INSERT INTO a VALUES (1); END IF; END",
            "not supported: IF in the script of a task",
        ),
        (
            "CREATE TASK t AS BEGIN FOR i IN 1 TO 3 DO INSERT INTO a VALUES (1); END FOR; END",
            "not supported: FOR in the script",
        ),
        ("CREATE TASK t AS BEGIN SELECT 1; LET x := 1; RETURN x; END", "not supported: LET in the script"),
        (
            "CREATE TASK t AS BEGIN SELECT 1; EXCEPTION WHEN OTHER THEN RETURN 1; END",
            "not supported: EXCEPTION in the script",
        ),
        ("CREATE TASK t AS DECLARE x INT; BEGIN SELECT 1; END", "not supported: DECLARE in the script"),
        (
            "CREATE TASK t AS BEGIN BEGIN SELECT 1; END; SELECT 2; END",
            "not supported: BEGIN … END in the script",
        ),
        ("CREATE TASK t AS BEGIN TRANSACTION; SELECT 1; COMMIT", "several statements stand in BEGIN … END"),
    ]);
}

#[test]
fn notification_integrations() {
    let Statement::CreateNotification { options, .. } =
        ok("CREATE NOTIFICATION INTEGRATION IF NOT EXISTS N TYPE = WEBHOOK ENABLED = TRUE
         WEBHOOK = (url = 'https://h/x', method = 'post', authorization_header = 'Bearer x') COMMENT = 'c'")
    else {
        panic!()
    };
    let webhook = options.webhook.as_ref().unwrap();
    assert_eq!(
        (options.name.as_str(), options.enabled, webhook.method.as_deref()),
        ("n", Some(true), Some("POST"))
    );
    assert!(!format!("{options:?}").contains("Bearer"));
    let Statement::AlterNotification { options, .. } =
        ok("ALTER NOTIFICATION INTEGRATION n SET ENABLED = FALSE")
    else {
        panic!()
    };
    assert_eq!((options.enabled, options.webhook), (Some(false), None));
    errors(&[
        (
            "CREATE NOTIFICATION INTEGRATION n ENABLED = TRUE WEBHOOK = (url = 'https://h')",
            "needs TYPE = WEBHOOK",
        ),
        ("CREATE NOTIFICATION INTEGRATION n TYPE = EMAIL ENABLED = TRUE", "allowed: WEBHOOK"),
        ("CREATE NOTIFICATION INTEGRATION n TYPE = WEBHOOK ENABLED = TRUE", "needs WEBHOOK = (url"),
        (
            "CREATE NOTIFICATION INTEGRATION n TYPE = WEBHOOK ENABLED = TRUE WEBHOOK = (url = 'https://h' method = 'EAT')",
            "allowed: POST, PUT, GET",
        ),
    ]);
}

#[test]
fn presigned_urls() {
    let Statement::Presign(presign) = ok("PRESIGN UPLOAD @s/f EXPIRE = 60 CONTENT_TYPE = 'text/csv'") else {
        panic!()
    };
    assert!(presign.upload);
    assert_eq!((presign.expire_seconds, presign.content_type.as_deref()), (60, Some("text/csv")));
    let Statement::Presign(presign) = ok("presign @~/f") else { panic!() };
    assert_eq!((presign.upload, presign.expire_seconds), (false, 3600));
    errors(&[
        ("PRESIGN", "expected a stage"),
        ("PRESIGN @s/f EXPIRE = 'x'", "expected a number of seconds"),
        ("PRESIGN @s/f EXPIRE = 9999999", "allowed: 1 to 604800"),
        ("PRESIGN @s/f EXPIRE = 1 EXPIRE = 2", "EXPIRE is given twice"),
    ]);
}

#[test]
fn unloads() {
    let Statement::Unload(unload) = ok("COPY INTO @s/p FROM d.\"T\"") else { panic!() };
    assert_eq!(unload.location, LocationRef::Stage { name: "s".into(), path: "p".into() });
    assert_eq!(unload.query.relations.len(), 1);
    assert_eq!((unload.max_file_size, unload.include_query_id, unload.partitioned), (64 << 20, true, false));
    let Statement::Unload(unload) =
        ok("COPY INTO 's3://b/x/' CONNECTION = (CONNECTION_NAME = 'c') FROM (SELECT a, b FROM t) \
         PARTITION BY ('a=' || a) FILE_FORMAT = (TYPE = CSV), MAX_FILE_SIZE = 1000, DETAILED_OUTPUT = true")
    else {
        panic!()
    };
    assert!(unload.partitioned && unload.detailed_output && !unload.single);
    assert_eq!(unload.max_file_size, 1000);
    let Statement::Unload(unload) = ok("COPY INTO @s FROM (SELECT ? AS a) SINGLE = true") else { panic!() };
    assert_eq!((unload.query.parameters, unload.single), (1, true));
    errors(&[
        ("COPY INTO @s", "expected FROM"),
        ("COPY INTO @s FROM", "expected the name of a table"),
        ("COPY INTO @s FROM (SELECT 1", "expected ')'"),
        ("COPY INTO @s FROM (SELECT 1 +)", "expected an expression"),
        ("COPY INTO @s FROM t SINGLE = 3", "option SINGLE is '3'"),
        ("COPY INTO @s FROM t PARTITION BY a", "expected '('"),
        ("COPY INTO @s FROM t PARTITION BY (a) PARTITION BY (b)", "PARTITION BY is given twice"),
        ("COPY INTO @s FROM t SINGLE = true SINGLE = true", "SINGLE is given twice"),
        ("COPY INTO @s FROM t PATTERN = 'x'", "COPY INTO a location has no option PATTERN"),
    ]);
}
