//! DELETE, UPDATE and MERGE INTO: what they say, taken to pieces.
#![allow(clippy::unwrap_used, missing_docs)]

use stevedore_sql::ast::{Assignment, Change, MergeAction, MergeClause, Mutation, RelationTarget, Statement};
use stevedore_sql::parse;

fn mutation(sql: &str) -> Mutation {
    match parse(sql) {
        Ok(Statement::Mutation(mutation)) => *mutation,
        other => panic!("{sql}: {other:?}"),
    }
}

fn set(column: &str, value: Option<&str>) -> Assignment {
    Assignment { column: column.into(), value: value.map(Into::into) }
}

#[test]
fn a_delete_is_a_query_over_its_target() {
    let delete = mutation("DELETE FROM D.t WHERE T.a IN (SELECT a FROM D.t) AND b:k = ?");
    assert_eq!((delete.table.to_string().as_str(), delete.parameters), ("d.t", 1));
    assert_eq!(delete.alias, r#""t""#);
    let Change::Delete { from, filter } = &delete.change else { panic!("{delete:?}") };
    assert_eq!(from, r#""__rel_0" AS "t""#);
    assert_eq!(
        filter.as_deref(),
        Some(r#""t"."a" IN (SELECT "a" FROM "__rel_1" AS "t") AND __variant_get("b", '["k"]') = $1"#)
    );
    // The target is a relation of its own, also where the same table is read.
    assert!(matches!(&delete.relations[0].target, RelationTarget::Target(t) if t.to_string() == "d.t"));
    assert!(matches!(&delete.relations[1].target, RelationTarget::Table(t) if t.to_string() == "d.t"));
    assert_eq!(mutation("DELETE FROM t AS \"X\"").alias, r#""x""#);
    assert!(matches!(mutation("delete from t;").change, Change::Delete { filter: None, .. }));
}

#[test]
fn an_update_knows_its_values_wherever_the_target_is_met_first() {
    let update = mutation(
        "UPDATE t AS x SET a = CASE WHEN b = 1 THEN (SELECT max(a) FROM u) ELSE f(1, 2) END, x.b = DEFAULT, \
         c = a IS DISTINCT FROM b FROM u AS y, (SELECT 1 AS k) z WHERE x.a = y.a",
    );
    assert_eq!(update.target, "__rel_1");
    let Change::Update { from, filter, set: given } = update.change else { panic!() };
    assert_eq!(from, r#""__rel_1" AS "x", "__rel_0" AS "y", (SELECT 1 AS "k") AS "z""#);
    assert_eq!(filter.as_deref(), Some(r#""x"."a" = "y"."a""#));
    let case = r#"(CASE WHEN "b" = 1 THEN (SELECT max("a") FROM "__rel_0" AS "u") ELSE f(1, 2) END)"#;
    let expected = [set("a", Some(case)), set("b", None), set("c", Some(r#"("a" IS DISTINCT FROM "b")"#))];
    assert_eq!(given, expected);
}

#[test]
fn a_merge_keeps_its_clauses_in_order() {
    let merge = mutation(
        "MERGE INTO d.t USING (SELECT k, v FROM u) AS s ON t.k = s.k AND s.v > ? \
         WHEN MATCHED AND s.v = 1 OR t.v = 2 THEN DELETE \
         WHEN MATCHED AND CASE WHEN s.v = 1 THEN true ELSE false END THEN UPDATE SET v = s.v + ?, w = DEFAULT \
         WHEN MATCHED THEN UPDATE * \
         WHEN NOT MATCHED AND s.k > 0 THEN INSERT (k, v) VALUES (s.k, DEFAULT) \
         WHEN NOT MATCHED THEN INSERT *",
    );
    assert_eq!(merge.parameters, 2);
    let Change::Merge { source, source_alias, on, clauses } = merge.change else { panic!() };
    assert_eq!(source, r#"(SELECT "k", "v" FROM "__rel_1" AS "u") AS "s""#);
    assert_eq!((source_alias.as_str(), merge.target.as_str()), (r#""s""#, "__rel_0"));
    // Parameters are numbered as they stand in the statement.
    assert_eq!(on, r#""t"."k" = "s"."k" AND "s"."v" > $1"#);
    let clause =
        |condition: Option<&str>, action| MergeClause { condition: condition.map(Into::into), action };
    let insert = MergeAction::Insert {
        columns: Some(vec!["k".into(), "v".into()]),
        values: vec![Some(r#"("s"."k")"#.into()), None],
    };
    let expected = [
        clause(Some(r#"("s"."v" = 1 OR "t"."v" = 2)"#), MergeAction::Delete),
        clause(
            Some(r#"(CASE WHEN "s"."v" = 1 THEN true ELSE false END)"#),
            MergeAction::Update(vec![set("v", Some(r#"("s"."v" + $2)"#)), set("w", None)]),
        ),
        clause(None, MergeAction::UpdateAll),
        clause(Some(r#"("s"."k" > 0)"#), insert),
        clause(None, MergeAction::InsertAll),
    ];
    assert_eq!(clauses, expected);
}

#[test]
fn what_is_not_matched_sees_the_source_alone() {
    let merge = mutation(
        "MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN UPDATE SET v = v + 1 \
         WHEN NOT MATCHED AND k > 1 AND id IN (SELECT id FROM x) THEN INSERT (id, v) VALUES (id, v:n + U.k)",
    );
    let Change::Merge { clauses, .. } = merge.change else { panic!() };
    // Names in subqueries may be the subquery's own.
    assert_eq!(
        clauses[1].condition.as_deref(),
        Some(r#"("u"."k" > 1 AND "u"."id" IN (SELECT "id" FROM "__rel_0" AS "x"))"#)
    );
    let MergeAction::Insert { values, .. } = &clauses[1].action else { panic!() };
    let expected = [r#"("u"."id")"#, r#"(__variant_get("u"."v", '["n"]') + "u"."k")"#];
    assert_eq!(values.iter().flatten().collect::<Vec<_>>(), expected);
    let MergeAction::Update(set) = &clauses[0].action else { panic!() };
    assert_eq!(set[0].value.as_deref(), Some(r#"("v" + 1)"#));
}

#[test]
fn what_is_wrong_is_told_where_it_stands() {
    for (sql, expected, place) in [
        ("DELETE t", "expected FROM", (1, 8)),
        ("DELETE FROM t WHERE", "expected a condition", (1, 20)),
        ("DELETE FROM t USING u", "not supported: DELETE … USING", (1, 15)),
        ("DELETE FROM t WHERE a = (1", "expected", (1, 27)),
        ("DELETE FROM t WHERE a = 1)", "expected WHERE or the end", (1, 26)),
        ("DELETE FROM t AT (SNAPSHOT => '1')", "AT (…) on the table that DELETE changes", (1, 15)),
        ("UPDATE t a = 1", "expected SET", (1, 12)),
        ("UPDATE t SET a = ", "expected an expression", (1, 17)),
        ("UPDATE t SET a = 1, A = 2", "column 'A' is set twice", (1, 21)),
        ("UPDATE t SET u.a = 1", "'u' is not the table that changes", (1, 14)),
        ("UPDATE t SET a = 1 FROM WHERE b", "expected what UPDATE reads", (1, 25)),
        ("MERGE INTO t USING s WHEN MATCHED THEN DELETE", "expected ON", (1, 46)),
        ("MERGE INTO t USING s ON a = b", "expected WHEN MATCHED", (1, 30)),
        ("MERGE INTO t USING s ON a = b WHEN MATCHED THEN INSERT *", "expected UPDATE or DELETE", (1, 49)),
        (
            "MERGE INTO t USING s ON a = b WHEN MATCHED THEN DELETE WHEN MATCHED THEN DELETE",
            "never reached",
            (1, 56),
        ),
        (
            "MERGE INTO t USING s ON t.a = s.a WHEN NOT MATCHED THEN INSERT (a) VALUES (1 + t.a)",
            "WHEN NOT MATCHED has no row of the target: its column \"t\".\"a\" cannot be read there",
            (1, 76),
        ),
        (
            "MERGE INTO t USING t ON t.a = 1 WHEN MATCHED THEN DELETE",
            "the source of MERGE INTO has the target's name",
            (1, 1),
        ),
        ("UPDATE t SET a = max(a)", "aggregate functions are not allowed in SET", (1, 18)),
        ("DELETE FROM t WHERE max(a) = a", "aggregate functions are not allowed in WHERE", (1, 21)),
        ("DELETE FROM t WHERE rank() OVER () = 1", "window functions are not allowed in WHERE", (1, 21)),
        (
            "MERGE INTO t USING s ON max(t.a) = s.a WHEN MATCHED THEN DELETE",
            "aggregate functions are not allowed in ON",
            (1, 25),
        ),
        (
            "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED AND max(s.a) = 1 THEN DELETE",
            "aggregate functions are not allowed in WHEN",
            (1, 52),
        ),
        (
            "MERGE INTO t USING s ON t.a = s.a WHEN NOT MATCHED THEN INSERT VALUES (max(s.a))",
            "aggregate functions are not allowed in VALUES",
            (1, 72),
        ),
        (
            "WITH a AS (SELECT 1 AS id) DELETE FROM t WHERE id IN (SELECT id FROM a)",
            "WITH before DELETE",
            (1, 28),
        ),
        ("WITH a AS (SELECT 1 AS id) UPDATE t SET id = 2", "UPDATE t SET … FROM (WITH", (1, 28)),
        ("DELETE FROM t WHERE __target_row = 1", "is reserved", (1, 21)),
    ] {
        let error = parse(sql).unwrap_err();
        assert!(error.to_string().contains(expected), "{sql}: {error}");
        let found = error.position().map(|place| (place.line, place.column));
        assert_eq!(found, Some(place), "{sql}: {error}");
    }
}

#[test]
fn where_the_queries_of_with_go() {
    for sql in [
        "DELETE FROM t WHERE id IN (WITH a AS (SELECT 1 AS id) SELECT id FROM a)",
        "UPDATE t SET id = 2 FROM (WITH a AS (SELECT 1 AS id) SELECT id FROM a) AS s WHERE t.id = s.id",
        "MERGE INTO t USING (WITH a AS (SELECT 1 AS id) SELECT id FROM a) AS s ON t.id = s.id WHEN MATCHED THEN DELETE",
        "INSERT INTO t WITH a AS (SELECT 1 AS id) SELECT id FROM a",
        "WITH a (id) AS (SELECT 1), b AS (SELECT 2) SELECT (1) \"delete\" FROM a",
    ] {
        assert!(parse(sql).is_ok(), "{sql}: {:?}", parse(sql).unwrap_err());
    }
    let insert = parse("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a").unwrap_err();
    assert!(insert.to_string().contains("INSERT INTO t WITH"), "{insert}");
}
