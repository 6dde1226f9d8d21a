#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, StringArray};
use stevedore_proto::v1::Relation;

use crate::query::test_support::{Fixture, rows_relation};

const MORE: &str = "a scalar subquery returned more than one row; make it one row, as max(x) or LIMIT 1 do, \
                    or write IN (SELECT …)";

/// `p` has the ids 1 and 2 and 3, `e` two rows for 1 and one for 5, and `u` one each for 1 and 2.
fn relations() -> Vec<Relation> {
    let ints = |values: Vec<i32>| Arc::new(Int32Array::from(values)) as ArrayRef;
    let texts = |values: Vec<&str>| Arc::new(StringArray::from(values)) as ArrayRef;
    vec![
        rows_relation("p", vec![("id", "INT", ints(vec![1, 2, 3]))]),
        rows_relation("e", vec![("x", "INT", ints(vec![1, 1, 5])), ("y", "INT", ints(vec![10, 11, 50]))]),
        rows_relation(
            "u",
            vec![
                ("k", "INT", ints(vec![1, 2, 9, 9])),
                ("w", "VARCHAR", texts(vec!["one", "two", "nine", "neun"])),
                ("v", "VARIANT", texts(vec![r#"{"n":1}"#, r#"{"n":2}"#, "3", "4"])),
            ],
        ),
    ]
}

async fn rows(sql: &str) -> Vec<String> {
    Fixture::new().rows(sql, relations()).await
}

async fn error(sql: &str) -> String {
    Fixture::new().error(sql, relations()).await
}

#[tokio::test]
async fn several_rows_are_an_error_wherever_one_is_read() {
    for sql in [
        "SELECT (SELECT x FROM e) + 1",
        "SELECT 7, (SELECT x FROM e)",
        "SELECT id FROM p WHERE id = (SELECT x FROM e WHERE x = 1)",
        "SELECT id FROM p WHERE id = (SELECT x FROM e WHERE x = 1) AND id = 1",
        "SELECT (SELECT x FROM e LIMIT 2)",
        "SELECT (SELECT x FROM e UNION ALL SELECT 1)",
        "SELECT (SELECT (SELECT x FROM e))",
        "SELECT (SELECT y FROM e WHERE e.x = p.id) FROM p",
        "SELECT id FROM p WHERE (SELECT y FROM e WHERE e.x = p.id) > 3",
        "SELECT CASE WHEN id = 1 THEN (SELECT y FROM e WHERE e.x = p.id) END FROM p",
    ] {
        assert_eq!(error(sql).await, MORE, "{sql}");
    }
}

#[tokio::test]
async fn one_row_is_its_value_and_none_is_null() {
    assert_eq!(rows("SELECT (SELECT x FROM e WHERE x = 5) + 1").await, ["6"]);
    assert_eq!(rows("SELECT (SELECT x FROM e WHERE x = 6) + 1").await, ["∅"]);
    assert_eq!(rows("SELECT (SELECT v FROM u WHERE k = 1) FROM p WHERE id = 1").await, [r#"{"n":1}"#]);
    assert_eq!(rows("SELECT __variant_get((SELECT v FROM u WHERE k = 2), '[\"n\"]')").await, ["2"]);
    assert_eq!(rows("SELECT id FROM p WHERE id < (SELECT k FROM u WHERE w = 'two')").await, ["1"]);
    assert_eq!(rows("SELECT count(*) FROM p WHERE id = (SELECT x FROM e WHERE x = 6)").await, ["0"]);
    assert_eq!(rows("SELECT (SELECT 1 WHERE 1 = 2) IS NULL").await, ["true"]);
    assert_eq!(rows("SELECT (SELECT 1 WHERE 1 = 2)").await, ["∅"]);
    assert_eq!(rows("SELECT (SELECT x FROM e WHERE x = 6 LIMIT 1)").await, ["∅"]);
    assert_eq!(rows("SELECT (SELECT count(*) FROM e HAVING count(*) > 5) IS NULL").await, ["true"]);
    // Nobody asks.
    assert_eq!(rows("SELECT (SELECT x FROM e) FROM p WHERE id = 4").await, [""; 0]);
    assert_eq!(rows("SELECT CASE WHEN id > 5 THEN (SELECT x FROM e) END FROM p WHERE id = 1").await, ["∅"]);
}

#[tokio::test]
async fn a_correlated_subquery_looks_a_value_up() {
    // There are two rows for 9, which no row of p has.
    let sql = "SELECT id, (SELECT w FROM u WHERE u.k = p.id) FROM p ORDER BY id";
    assert_eq!(rows(sql).await, ["1|one", "2|two", "3|∅"]);
    let sql = "SELECT id FROM p WHERE (SELECT w FROM u WHERE u.k = p.id) = 'two'";
    assert_eq!(rows(sql).await, ["2"]);
    let sql = "SELECT id FROM p WHERE (SELECT w FROM u WHERE u.k = p.id) IS NULL";
    assert_eq!(rows(sql).await, ["3"]);
    let sql = "SELECT id, (SELECT max(y) FROM e WHERE e.x = p.id GROUP BY e.x) FROM p ORDER BY id";
    assert_eq!(rows(sql).await, ["1|11", "2|∅", "3|∅"]);
    let sql = "SELECT id, (SELECT count(*) FROM e WHERE e.x = p.id) FROM p ORDER BY id";
    assert_eq!(rows(sql).await, ["1|2", "2|0", "3|0"]);
    let sql = "SELECT id, (SELECT DISTINCT x FROM e WHERE e.x = p.id) FROM p ORDER BY id";
    assert_eq!(rows(sql).await, ["1|1", "2|∅", "3|∅"]);
}

#[tokio::test]
async fn what_a_subquery_cannot_do_is_told_in_words_of_sql() {
    const NOT_HERE: &str = "not supported: this subquery, here or with what it takes from the query around it; compare \
                            by = in its WHERE, aggregate it (max(x)), or write a join or UPDATE … FROM";
    for sql in [
        "SELECT (SELECT y FROM e WHERE e.x < p.id) FROM p",
        "SELECT (SELECT max(y) FROM e WHERE e.x < p.id) FROM p",
        "SELECT (SELECT e.y + p.id FROM e WHERE e.x = p.id) FROM p",
        "SELECT id FROM p ORDER BY (SELECT max(y) FROM e WHERE e.x = p.id)",
        "SELECT sum((SELECT max(y) FROM e WHERE e.x = p.id)) FROM p",
        "SELECT (SELECT y FROM e WHERE e.x = p.id LIMIT 2) FROM p",
    ] {
        assert_eq!(error(sql).await, NOT_HERE, "{sql}");
    }
    for sql in ["SELECT (SELECT x, y FROM e)", "SELECT 1 FROM p WHERE id IN (SELECT x, y FROM e)"] {
        assert_eq!(
            error(sql).await,
            "a subquery that stands for a value, or for a list of them, must have one column",
            "{sql}"
        );
    }
    let sql = "SELECT id FROM p WHERE row_number() OVER (ORDER BY id) > 2";
    assert_eq!(
        error(sql).await,
        "window functions are not allowed here; compute them in a subquery: (SELECT …)"
    );
    assert_eq!(error("SELECT id FROM p WHERE id").await, "the condition must be BOOLEAN, 'p.id' is INT");
    let sql = "SELECT p.id FROM p JOIN e ON p.id";
    assert_eq!(error(sql).await, "the condition of the join must be BOOLEAN, and is INT");
}

#[tokio::test]
async fn a_correlated_subquery_may_take_its_first_row() {
    let sql = "SELECT id, (SELECT y FROM e WHERE e.x = p.id ORDER BY y DESC LIMIT 1) FROM p ORDER BY id";
    assert_eq!(rows(sql).await, ["1|11", "2|∅", "3|∅"]);
    let sql = "SELECT id, (SELECT x FROM e WHERE e.x = p.id LIMIT 1) FROM p ORDER BY id";
    assert_eq!(rows(sql).await, ["1|1", "2|∅", "3|∅"]);
    let sql = "SELECT id, (SELECT y + 1 FROM e WHERE e.x = p.id ORDER BY y * 2 LIMIT 1) FROM p ORDER BY id";
    assert_eq!(rows(sql).await, ["1|11", "2|∅", "3|∅"]);
}
