//! Nothing that can be typed makes the parser panic, hang or show a secret.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use proptest::prelude::*;
use stevedore_sql::script::{completeness, split_script};
use stevedore_sql::{mask_secrets, parse, parse_script};

const WORDS: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "WITH",
    "AS",
    "JOIN",
    "ON",
    "USING",
    "GROUP",
    "BY",
    "ORDER",
    "LIMIT",
    "UNION",
    "ALL",
    "COPY",
    "INTO",
    "CREATE",
    "TABLE",
    "STAGE",
    "CONNECTION",
    "FILE",
    "FORMAT",
    "FILE_FORMAT",
    "PATTERN",
    "FILES",
    "ON_ERROR",
    "TYPE",
    "CSV",
    "INSERT",
    "VALUES",
    "DEFAULT",
    "OVERWRITE",
    "ALTER",
    "ADD",
    "COLUMN",
    "SET",
    "OPTIONS",
    "SHOW",
    "DESC",
    "DROP",
    "IF",
    "NOT",
    "EXISTS",
    "OR",
    "REPLACE",
    "LIST",
    "REMOVE",
    "PUT",
    "GET",
    "EXPLAIN",
    "CAST",
    "TRY_CAST",
    "INT",
    "VECTOR",
    "TUPLE",
    "ARRAY",
    "CASE",
    "WHEN",
    "END",
    "OVER",
    "PARTITION",
    "LATERAL",
    "FLATTEN",
    "UNNEST",
    "INTERVAL",
    "AT",
    "TASK",
    "BEGIN",
    "a",
    "t",
    "x",
    "'str'",
    "'s3://b/x/'",
    "'@s/a'",
    "@s",
    "@s/p/q",
    "@~",
    "$1",
    "$2",
    "?",
    "1",
    "2.5",
    "\"q\"",
    "`b`",
    "(",
    ")",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ".",
    ":",
    "::",
    "=",
    "=>",
    "*",
    "+",
    "-",
    "%",
    "||",
    "<",
    ">",
    ";",
    "--c\n",
    "/*c*/",
    "NULL",
    "IN",
    "BETWEEN",
    "AND",
    "IS",
    "DISTINCT",
    "list_stage",
    "infer_schema",
    "MATCH_RECOGNIZE",
    "PIVOT",
    "fs:///tmp/*",
    "X'00'",
    "metadata$filename",
    "EXTRACT",
    "STRUCT",
    "MAP",
    "DATE",
    "TOP",
];

fn all(text: &str) {
    let _ = parse(text);
    let _ = parse_script(text);
    let _ = split_script(text);
    let _ = completeness(text);
    let _ = mask_secrets(text);
}

#[test]
fn a_secret_behind_a_quote_too_many_never_shows() {
    for junk in ["@\"", "\"", "@~\"", "'"] {
        let text = format!("CREATE CONNECTION c {junk} SECRET_ACCESS_KEY = 'hush+++hush' {junk}");
        let error = parse(&text).unwrap_err().to_string();
        assert!(!error.contains("hush"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in "\\PC{0,80}") {
        all(&text);
    }

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        all(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_words_are_answered(words in proptest::collection::vec(proptest::sample::select(WORDS), 0..25)) {
        all(&words.join(" "));
    }

    #[test]
    fn any_words_after_a_start_are_answered(
        start in proptest::sample::select(&[
            "SELECT * FROM", "SELECT", "COPY INTO t FROM", "CREATE TABLE t (", "CREATE STAGE s", "INSERT INTO t VALUES (",
            "CREATE CONNECTION c STORAGE_TYPE = 's3'", "CREATE FILE FORMAT f TYPE = CSV", "WITH x AS (SELECT",
        ][..]),
        words in proptest::collection::vec(proptest::sample::select(WORDS), 0..15),
    ) {
        all(&format!("{start} {}", words.join(" ")));
    }

    #[test]
    fn a_string_survives_quoting_and_rendering(value in "\\PC{0,20}") {
        let quoted = value.replace('\\', "\\\\").replace('\'', "''");
        let expected = format!("VALUES ('{}')", value.replace('\'', "''"));
        match parse(&format!("VALUES ('{quoted}')")).unwrap() {
            stevedore_sql::Statement::Query(query) => prop_assert_eq!(query.sql, expected),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_secret_never_shows(
        secret in "[a-zA-Z0-9/+]{12,20}",
        key in proptest::sample::select(&["SECRET_ACCESS_KEY", "aws_secret_key", "SESSION_TOKEN", "ACCOUNT_KEY", "CREDENTIAL"][..]),
        junk in "\\PC{0,10}",
    ) {
        let text = format!("CREATE CONNECTION c {junk} {key} = '{secret}' {junk}");
        // In a comment or a string that the junk opens, the option is none.
        if !junk.contains("--") && !junk.contains("/*") && !junk.contains(['\'', '"', '`', '$']) {
            prop_assert!(!mask_secrets(&text).contains(&secret), "{}", mask_secrets(&text));
        }
        if let Err(error) = parse(&text) {
            prop_assert!(!error.to_string().contains(&secret), "{}", error);
        }
        if let Ok(statement) = parse(&text) {
            let shown = format!("{statement:?}");
            prop_assert!(!shown.contains(&secret), "{}", shown);
        }
    }
}

#[test]
fn nested_beginnings_do_not_take_long() {
    for piece in [
        "(",
        "SELECT * FROM (",
        "((SELECT * FROM ",
        "CASE WHEN ",
        "f(",
        "[",
        "CAST(",
        "NOT ",
        "ARRAY[",
        "{'a': ",
    ] {
        all(&format!("SELECT {}", piece.repeat(60)));
        all(&format!("SELECT * FROM {}", piece.repeat(60)));
    }
}
