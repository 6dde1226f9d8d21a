//! Queries: the relations they read and the SQL that a worker gets.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use stevedore_sql::ast::{
    AnalyzedQuery, ColumnRef, CopySource, FileFormatRef, FunctionArg, LocationRef, ObjectRef, RelationTarget,
    Statement, StreamOptions, TimeTravel,
};
use stevedore_sql::parse;

fn query(sql: &str) -> AnalyzedQuery {
    match parse(sql) {
        Ok(Statement::Query(query)) => *query,
        other => panic!("{sql}: {other:?}"),
    }
}

fn rendered(sql: &str) -> String {
    query(sql).sql
}

fn tables(sql: &str) -> Vec<String> {
    query(sql)
        .relations
        .iter()
        .map(|relation| match &relation.target {
            RelationTarget::Table(table) => table.to_string(),
            RelationTarget::Target(table) => format!("target {table}"),
            RelationTarget::TableAt { table, at } => format!("{table} at {at:?}"),
            RelationTarget::Stream { stream, options } => format!("{stream} with {options:?}"),
            RelationTarget::Stage(stage) => stage.location.to_string(),
            RelationTarget::Function(function) => format!("{}()", function.name),
        })
        .collect()
}

#[test]
fn rendering_follows_the_contract() {
    for (sql, expected) in [
        ("SELECT 1", r#"SELECT 1 AS "1""#),
        ("select A, b from T;", r#"SELECT "a", "b" FROM "__rel_0" AS "t""#),
        ("SELECT * FROM db.T x", r#"SELECT * FROM "__rel_0" AS "x""#),
        ("SELECT t.a, db.t.b, u.* FROM db.t, u", {
            r#"SELECT "t"."a", "t"."b", "u".* FROM "__rel_0" AS "t", "__rel_1" AS "u""#
        }),
        // The engine takes no column twice.
        ("SELECT t.a, t.* FROM db.t", r#"SELECT "t"."a" AS "a_2", "t".* FROM "__rel_0" AS "t""#),
        ("SELECT *, A, b FROM t", r#"SELECT *, "a" AS "a_2", "b" AS "b_2" FROM "__rel_0" AS "t""#),
        ("SELECT * EXCLUDE (a), a FROM t", r#"SELECT * EXCLUDE ("a"), "a" FROM "__rel_0" AS "t""#),
        ("SELECT x.a_2 FROM (SELECT a, a FROM t) x", {
            r#"SELECT "x"."a_2" FROM (SELECT "a", "a" AS "a_2" FROM "__rel_0" AS "t") AS "x""#
        }),
        ("SELECT t.a, u.a FROM t, u", r#"SELECT "t"."a", "u"."a" FROM "__rel_0" AS "t", "__rel_1" AS "u""#),
        ("SELECT \"A b\" FROM t", r#"SELECT "a b" FROM "__rel_0" AS "t""#),
        ("SELECT `a` FROM t", r#"SELECT "a" FROM "__rel_0" AS "t""#),
        ("SELECT a::INT FROM t", r#"SELECT __cast("a", 'INT') AS "a::INT" FROM "__rel_0" AS "t""#),
        (
            "SELECT CAST(a AS int unsigned) x, TRY_CAST(b AS DATE) AS y FROM t",
            r#"SELECT __cast("a", 'INT UNSIGNED') AS "x", __try_cast("b", 'DATE') AS "y" FROM "__rel_0" AS "t""#,
        ),
        (
            "SELECT a::VECTOR(4) v, b::ARRAY(INT) w, c::TUPLE(x INT, y MAP(STRING, DOUBLE)) z, d::DECIMAL(10,2) u FROM t",
            "SELECT __cast(\"a\", 'VECTOR(4)') AS \"v\", __cast(\"b\", 'ARRAY(INT)') AS \"w\", __cast(\"c\", 'TUPLE(x \
             INT, y MAP(VARCHAR, DOUBLE))') AS \"z\", __cast(\"d\", 'DECIMAL(10, 2)') AS \"u\" FROM \"__rel_0\" AS \"t\"",
        ),
        (
            "SELECT a:b.c[0]::STRING s FROM t",
            r#"SELECT __cast(__variant_get("a", '["b","c",0]'), 'VARCHAR') AS "s" FROM "__rel_0" AS "t""#,
        ),
        (
            "SELECT a['k']['l'][1].m s, a:\"X y\":z u FROM t",
            "SELECT __variant_get(\"a\", '[\"k\",\"l\",1,\"m\"]') AS \"s\", __variant_get(\"a\", '[\"X y\",\"z\"]') AS \
             \"u\" FROM \"__rel_0\" AS \"t\"",
        ),
        ("SELECT a[1] s FROM t", r#"SELECT "a"[1] AS "s" FROM "__rel_0" AS "t""#),
        ("SELECT ['a', 'b'] s", r#"SELECT ['a', 'b'] AS "s""#),
        (
            "SELECT t.c.F.g s FROM t",
            r#"SELECT __variant_get("t"."c", '["F","g"]') AS "s" FROM "__rel_0" AS "t""#,
        ),
        ("SELECT c.F s FROM t", r#"SELECT __variant_get("c", '["F"]') AS "s" FROM "__rel_0" AS "t""#),
        ("SELECT t.c[1] s FROM t", r#"SELECT "t"."c"[1] AS "s" FROM "__rel_0" AS "t""#),
        (
            r"SELECT 'it''s\n\'x\' \d' s, '\\' u, 'a\'\'b' v",
            "SELECT 'it''s\n''x'' \\d' AS \"s\", '\\' AS \"u\", 'a''''b' AS \"v\"",
        ),
        (
            "SELECT a FROM t WHERE a = ? AND b IN (?, ?)",
            r#"SELECT "a" FROM "__rel_0" AS "t" WHERE "a" = $1 AND "b" IN ($2, $3)"#,
        ),
        ("SELECT UPPER(a) FROM t", r#"SELECT upper("a") AS "UPPER(a)" FROM "__rel_0" AS "t""#),
        (
            "SELECT count(*),  COUNT( DISTINCT a ) FROM t",
            r#"SELECT count(*) AS "count(*)", count(DISTINCT "a") AS "COUNT( DISTINCT a )" FROM "__rel_0" AS "t""#,
        ),
        (
            "SELECT a AS Total FROM t GROUP BY total HAVING TOTAL > 1 ORDER BY total DESC NULLS LAST LIMIT 3 OFFSET 2",
            "SELECT \"a\" AS \"Total\" FROM \"__rel_0\" AS \"t\" GROUP BY \"Total\" HAVING \"Total\" > 1 ORDER BY \
             \"Total\" DESC NULLS LAST LIMIT 3 OFFSET 2",
        ),
        (
            "SELECT 1, 1, a, a FROM t",
            r#"SELECT 1 AS "1", 1 AS "1_2", "a", "a" AS "a_2" FROM "__rel_0" AS "t""#,
        ),
        ("SELECT DATE '2020-01-01' d", r#"SELECT __cast('2020-01-01', 'DATE') AS "d""#),
        (
            "SELECT date_trunc(MONTH, a) d FROM t",
            r#"SELECT date_trunc('month', "a") AS "d" FROM "__rel_0" AS "t""#,
        ),
        (
            "SELECT EXTRACT(year FROM a) y, TRIM(BOTH 'x' FROM 's3://x') z FROM t",
            r#"SELECT EXTRACT(YEAR FROM "a") AS "y", TRIM(BOTH 'x' FROM 's3://x') AS "z" FROM "__rel_0" AS "t""#,
        ),
        (
            "SELECT * EXCLUDE (A) FROM t JOIN u USING (Id)",
            r#"SELECT * EXCLUDE ("a") FROM "__rel_0" AS "t" JOIN "__rel_1" AS "u" USING("id")"#,
        ),
        (
            "SELECT sum(a) OVER (PARTITION BY b ORDER BY c ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) s FROM t",
            "SELECT sum(\"a\") OVER (PARTITION BY \"b\" ORDER BY \"c\" ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS \
             \"s\" FROM \"__rel_0\" AS \"t\"",
        ),
        ("VALUES (1, 'a'), (2, NULL)", "VALUES (1, 'a'), (2, NULL)"),
        // Workers plan no subquery inside VALUES.
        ("VALUES (1), (2), ((SELECT 3) + 1), (4)", {
            r#"VALUES (1), (2) UNION ALL SELECT (SELECT 3) + 1 AS "column1" UNION ALL VALUES (4)"#
        }),
        ("SELECT * FROM (VALUES (1, (SELECT max(a) FROM t))) q (x, y)", {
            r#"SELECT * FROM (SELECT 1 AS "column1", (SELECT max("a") FROM "__rel_0" AS "t") AS "column2") AS "q" ("x", "y")"#
        }),
        ("SELECT a FROM t LIMIT 5, 10", r#"SELECT "a" FROM "__rel_0" AS "t" LIMIT 10 OFFSET 5"#),
        ("SELECT a FROM t WHERE a IS DISTINCT FROM 's3://x'", {
            r#"SELECT "a" FROM "__rel_0" AS "t" WHERE "a" IS DISTINCT FROM 's3://x'"#
        }),
        ("SELECT CASE WHEN a THEN 1 ELSE 2 END c FROM t", {
            r#"SELECT CASE WHEN "a" THEN 1 ELSE 2 END AS "c" FROM "__rel_0" AS "t""#
        }),
        ("SELECT \"a\"\"b\" FROM t", r#"SELECT "a""b" FROM "__rel_0" AS "t""#),
        ("SELECT 1 AS \"x\"\"y\"", r#"SELECT 1 AS "x""y""#),
    ] {
        assert_eq!(rendered(sql), expected, "{sql}");
    }
}

#[test]
fn ctes_hide_tables_only_where_they_are_visible() {
    assert_eq!(
        rendered("WITH X AS (SELECT a FROM x), y AS (SELECT * FROM X) SELECT * FROM y, x"),
        "WITH \"x\" AS (SELECT \"a\" FROM \"__rel_0\" AS \"x\"), \"y\" AS (SELECT * FROM \"x\") SELECT * FROM \"y\", \"x\""
    );
    assert_eq!(
        tables(
            "WITH x AS (SELECT 1 a) SELECT * FROM x WHERE a IN (SELECT a FROM x) AND EXISTS (SELECT 1 FROM z)"
        ),
        ["z"]
    );
    assert_eq!(
        tables("WITH RECURSIVE r AS (SELECT 1 a UNION ALL SELECT a + 1 FROM r WHERE a < 3) SELECT * FROM r"),
        [""; 0]
    );
    assert_eq!(tables("SELECT * FROM (WITH x AS (SELECT 1) SELECT * FROM x) d JOIN x ON true"), ["x"]);
}

#[test]
fn every_relation_is_found_once() {
    let mut found = tables(
        "SELECT (SELECT max(a) FROM sub) FROM T1 a JOIN db.t2 b ON a.x = b.x LEFT JOIN t1 c USING (x), \"Quoted\" \
         WHERE EXISTS (SELECT 1 FROM t3) UNION ALL SELECT 1 FROM (SELECT * FROM t4) d ORDER BY 1",
    );
    found.sort();
    assert_eq!(found, ["Quoted", "db.t2", "sub", "t1", "t3", "t4"]);
    let one = query("SELECT * FROM t a JOIN T b ON a.x = b.x");
    assert_eq!(one.relations.len(), 1);
    assert_eq!(
        one.relations[0].target,
        RelationTarget::Table(ObjectRef { database: None, name: "t".into() })
    );
}

#[test]
fn stages_and_uris_are_relations_with_their_options() {
    let preview = query(
        "SELECT $1, t.$3::INT, metadata$Filename, $1:a.b FROM @My_Stage/dir/x-1.csv (FILE_FORMAT => 'csv', PATTERN => \
         '.*[.]csv', FILES => ('a', 'b')) AS T WHERE $7 > 1 LIMIT 5",
    );
    assert_eq!(
        preview.sql,
        "SELECT \"$1\", __cast(\"t\".\"$3\", 'INT') AS \"t.$3::INT\", \"metadata$filename\", __variant_get(\"$1\", \
         '[\"a\",\"b\"]') AS \"$1:a.b\" FROM \"__rel_0\" AS \"t\" WHERE \"$7\" > 1 LIMIT 5"
    );
    let RelationTarget::Stage(stage) = &preview.relations[0].target else { panic!("{preview:?}") };
    assert_eq!(stage.location, LocationRef::Stage { name: "my_stage".into(), path: "dir/x-1.csv".into() });
    assert_eq!(stage.file_format, Some(FileFormatRef::Named("csv".into())));
    assert_eq!(stage.pattern.as_deref(), Some(".*[.]csv"));
    assert_eq!(stage.files.as_deref(), Some(&["a".to_owned(), "b".to_owned()][..]));
    assert_eq!(stage.positions, [1, 3, 7]);

    assert_eq!(
        tables("SELECT * FROM 's3://b/x/' (FILE_FORMAT => (TYPE = CSV), CONNECTION => (REGION='x')) a"),
        ["'s3://b/x/'"]
    );
    assert_eq!(
        tables("SELECT * FROM @~/f.parquet, '@s/a b(1),c' x JOIN (@z) ON true"),
        ["@~/f.parquet", "@s/a b(1),c", "@z"]
    );
    assert_eq!(rendered("SELECT * FROM @s"), r#"SELECT * FROM "__rel_0""#);
    let two = query("SELECT a.$1, b.$2 FROM @s a JOIN @s b ON a.$3 = b.$4");
    let positions: Vec<_> = two
        .relations
        .iter()
        .map(|relation| match &relation.target {
            RelationTarget::Stage(stage) => stage.positions.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(positions, [vec![1, 3], vec![2, 4]]);
}

#[test]
fn table_functions_keep_their_arguments() {
    let listed = query("SELECT name FROM list_stage(location => '@s/p', PATTERN => '.*') l");
    assert_eq!(listed.sql, r#"SELECT "name" FROM "__rel_0" AS "l""#);
    let RelationTarget::Function(function) = &listed.relations[0].target else { panic!("{listed:?}") };
    assert_eq!(function.named("location").unwrap().text(), Some("@s/p"));
    assert_eq!(function.named("pattern").unwrap().text(), Some(".*"));
    let inferred =
        query("SELECT * FROM infer_schema(location => 's3://b/p/', connection => 'c', max_file_count => 3)");
    let RelationTarget::Function(function) = &inferred.relations[0].target else { panic!("{inferred:?}") };
    assert_eq!(function.named("max_file_count").and_then(FunctionArg::count), Some(3));
    assert!(query("SELECT * FROM inspect_parquet('@s/a b.parquet') p").relations.len() == 1);
    assert!(query("SELECT * FROM copy_history('d.t', result_limit => 10) h").relations.len() == 1);
    assert!(query("SELECT * FROM TABLE(list_stage(location => '@s'))").relations.len() == 1);
    assert!(!query("SELECT * FROM range(1, 3)").is_constant);
    assert!(query("SELECT 1").is_constant);
    for (sql, message) in [
        ("SELECT * FROM copy_history()", "copy_history needs the name of a table"),
        ("SELECT * FROM copy_history('a.b.c')", "names no table: a name has at most two parts"),
        ("SELECT * FROM copy_history('t', 't')", "copy_history takes one table"),
        (
            "SELECT * FROM copy_history('t', result_limit => 0)",
            "result_limit of copy_history must be an integer",
        ),
        ("SELECT * FROM copy_history(7)", "table_name of copy_history must be a string"),
        ("SELECT * FROM t, LATERAL FLATTEN(input => a) f", "not supported yet: LATERAL FLATTEN"),
        ("SELECT * FROM foo(1)", "unknown table function 'foo'"),
        ("SELECT * FROM list_stage('@s')", "by name"),
        ("SELECT * FROM list_stage(location => 's')", "list_stage needs location"),
        ("SELECT * FROM list_stage(location => 's3://b/p/')", "list_stage needs location"),
        ("SELECT * FROM infer_schema(pattern => '.*')", "infer_schema needs location"),
        ("SELECT * FROM infer_schema(location => '@s', files => 'a')", "infer_schema has no argument files"),
        ("SELECT * FROM infer_schema(location => '@s', max_file_count => 0)", "an integer from 1"),
        ("SELECT * FROM infer_schema(location => '@s', max_file_count => 'a')", "an integer from 1"),
        ("SELECT * FROM infer_schema(location => '@s', file_format => 1)", "must be a string"),
        ("SELECT * FROM infer_schema(location => 'nope://b/')", "nope"),
        ("SELECT * FROM inspect_parquet()", "inspect_parquet needs location"),
        ("SELECT * FROM inspect_parquet('@s/a', '@s/b')", "takes one file"),
        ("SELECT * FROM inspect_parquet('@s/a', location => '@s/b')", "given twice"),
    ] {
        assert!(parse(sql).unwrap_err().to_string().contains(message), "{sql}: {:?}", parse(sql));
    }
}

fn transform(sql: &str) -> stevedore_sql::ast::AnalyzedTransform {
    match parse(sql) {
        Ok(Statement::CopyIntoTable(copy)) => match copy.source {
            CopySource::Transform(transform) => *transform,
            other => panic!("{sql}: {other:?}"),
        },
        other => panic!("{sql}: {other:?}"),
    }
}

#[test]
fn a_transform_gives_its_pieces() {
    let t = transform(
        "COPY INTO t FROM (SELECT Id::STRING, (t.$2), upper(name) AS N, t.ts::TIMESTAMP, id, $1:x::INT FROM @s/d/ T \
         WHERE $4 > 1) FILE_FORMAT = (TYPE = PARQUET)",
    );
    assert_eq!(
        t.sql,
        "SELECT __cast(\"id\", 'VARCHAR') AS \"__col_0\", (\"t\".\"$2\") AS \"__col_1\", upper(\"name\") AS \"__col_2\", \
         __cast(\"t\".\"ts\", 'TIMESTAMP') AS \"__col_3\", \"id\" AS \"__col_4\", __cast(__variant_get(\"$1\", \
         '[\"x\"]'), 'INT') AS \"__col_5\" FROM \"__rel_0\" AS \"t\" WHERE \"$4\" > 1"
    );
    assert_eq!((t.relation.as_str(), t.expression_count()), ("__rel_0", Some(6)));
    assert_eq!(t.filter.as_deref(), Some("\"$4\" > 1"));
    assert_eq!(t.positions, [1, 2, 4]);
    assert_eq!(t.columns, ["id", "name", "ts"]);
    let items = t.items.unwrap();
    assert_eq!(items[0].source, Some(ColumnRef::Name("Id".into())));
    assert_eq!(items[0].cast.as_ref().unwrap().to_string(), "VARCHAR");
    assert_eq!(items[1].source, Some(ColumnRef::Position(2)));
    assert_eq!((&items[2].source, items[2].alias.as_deref()), (&None, Some("N")));
    assert_eq!(items[2].sql, "upper(\"name\")");
    assert_eq!(items[3].source, Some(ColumnRef::Name("ts".into())));
    assert_eq!((&items[5].source, &items[5].cast), (&None, &None));
    let all = transform("COPY INTO t FROM (SELECT * FROM @s)");
    assert_eq!((all.sql.as_str(), all.items), (r#"SELECT * FROM "__rel_0""#, None));
}

#[test]
fn a_transform_refuses_by_name() {
    for (select, what) in [
        ("SELECT sum(a) FROM @s", "the aggregate function sum"),
        ("SELECT 1 + COUNT(*) FROM @s", "the aggregate function count"),
        ("SELECT row_number() OVER () FROM @s", "the window function row_number"),
        ("SELECT sum(a) OVER () FROM @s", "the window function sum"),
        ("SELECT a FROM @s JOIN @t ON true", "a join"),
        ("SELECT a FROM @s, @t", "a join"),
        ("SELECT a FROM (@s JOIN @t ON true)", "a join"),
        ("SELECT a FROM @s UNION ALL SELECT a FROM @s", "the set operation UNION"),
        ("SELECT a FROM @s INTERSECT SELECT a FROM @s", "the set operation INTERSECT"),
        ("SELECT (SELECT 1) FROM @s", "a subquery"),
        ("SELECT a FROM @s WHERE a IN (SELECT 1)", "a subquery"),
        ("SELECT a FROM @s WHERE EXISTS (SELECT 1)", "a subquery"),
        ("SELECT a FROM (SELECT a FROM @s) x", "a subquery"),
        ("SELECT unnest(a) FROM @s", "the set-returning function unnest"),
        ("SELECT flatten(a) FROM @s", "the set-returning function flatten"),
        ("SELECT a FROM @s ORDER BY a", "ORDER BY"),
        ("SELECT a FROM @s GROUP BY a", "GROUP BY"),
        ("SELECT a FROM @s GROUP BY ALL", "GROUP BY"),
        ("SELECT a FROM @s LIMIT 1", "LIMIT"),
        ("SELECT a FROM @s OFFSET 1", "LIMIT or OFFSET"),
        ("SELECT DISTINCT a FROM @s", "DISTINCT"),
        ("SELECT a FROM @s HAVING a > 1", "HAVING"),
        ("WITH x AS (SELECT 1) SELECT a FROM @s", "WITH"),
        ("SELECT a FROM t", "'t' is the name of a table"),
        ("SELECT 1", "reads no location"),
        ("SELECT *, a FROM @s", "'*' beside other expressions"),
        ("SELECT a FROM range(1, 2)", "the table function range"),
        ("VALUES (1)", "VALUES"),
    ] {
        let sql = format!("COPY INTO t FROM ({select})");
        let error = parse(&sql).unwrap_err();
        assert!(error.to_string().contains(what), "{sql}: {error}");
        assert!(error.position().is_some(), "{sql}: {error}");
    }
}

#[test]
fn insert_keeps_a_query() {
    let insert = |sql: &str| match parse(sql) {
        Ok(Statement::Insert(insert)) => *insert,
        other => panic!("{sql}: {other:?}"),
    };
    let values = insert("INSERT INTO db.T (A, \"b\") VALUES (1, 'it''s'), (?, now());");
    assert_eq!(values.columns, Some(vec!["A".to_owned(), "b".to_owned()]));
    assert_eq!(values.source.query().sql, "VALUES (1, 'it''s'), ($1, now())");
    assert_eq!(values.source.query().parameters, 1);
    assert_eq!(
        insert("INSERT OVERWRITE t SELECT a FROM u").source.query().sql,
        r#"SELECT "a" FROM "__rel_0" AS "u""#
    );
    assert!(insert("INSERT OVERWRITE INTO t (SELECT 1)").overwrite);
    assert_eq!(insert("INSERT INTO TABLE t WITH x AS (SELECT 1) SELECT * FROM x").columns, None);
    assert_eq!(
        insert("insert into t(a) select $1 from @s (file_format => 'csv')").source.query().relations.len(),
        1
    );
    for (sql, message) in [
        ("INSERT INTO t VALUES (1, DEFAULT)", "not supported yet: DEFAULT inside VALUES"),
        ("INSERT INTO t VALUES (1, 2), (3)", "row 2 of VALUES has 1 values, the first row has 2"),
        (
            "INSERT INTO t (a) VALUES (1, 2)",
            "the rows of VALUES have 2 values, the statement names 1 columns",
        ),
        ("INSERT INTO t (a, A) VALUES (1, 2)", "column 'A' stands twice"),
        ("INSERT t VALUES (1)", "expected INTO or OVERWRITE"),
        ("INSERT INTO t", "expected VALUES or a query"),
    ] {
        let error = parse(sql).unwrap_err().to_string();
        assert!(error.contains(message), "{sql}: {error}");
    }
}

#[test]
fn wrong_queries_point_at_the_place_and_speak_of_the_users_text() {
    for (sql, message) in [
        (
            "SELECT a FROM t WHERE",
            "expected an expression, found the end of the statement (line 1, column 22)",
        ),
        ("SELECT a,\n b b2 c FROM t", "found 'c' (line 2, column 7)"),
        ("SELECT a::FOO FROM t", "unknown type 'FOO' (line 1, column 11)"),
        ("SELECT a::VECTOR(0)", "(line 1, column 11)"),
        ("SELECT CAST(a AS) FROM t", "expected a type (line 1, column 17)"),
        ("SELECT $1 FROM t", "$1 is a column of files by its position, and the query reads no stage"),
        ("SELECT t.$1 FROM t, @s x", "'t' is no stage or location of the query"),
        ("SELECT @s", "a location stands only after FROM or JOIN"),
        ("SELECT a FROM a.b.c", "at most two parts"),
        ("SELECT __rel_0 FROM t", "the name '__rel_0' is reserved (line 1, column 8)"),
        ("SELECT (1", "expected ), found the end of the statement"),
        ("SELECT 1)", "found ')' that nothing opens (line 1, column 9)"),
        (
            "SELECT a FROM @s (FILE_FORMAT => 'csv', FOO => 1)",
            "no option FOO (line 1, column 41); allowed: FILE_FORMAT",
        ),
        ("SELECT a FROM @s (PATTERN => '*')", "option PATTERN is not a valid regular expression"),
        ("SELECT a FROM @s/../x", "'..' is not allowed"),
        ("SELECT a FROM 'foo://x/'", "unknown scheme 'foo'"),
        ("SELECT * FROM t FOR UPDATE", "not supported: FOR UPDATE"),
        ("SELECT * FROM t 'x' 5", "found '5'"),
    ] {
        let error = parse(sql).unwrap_err().to_string();
        assert!(error.contains(message), "{sql}: {error}");
        assert!(!error.contains("__type") && !error.contains("__stage"), "{sql}: {error}");
    }
}

#[test]
fn depth_and_length_are_limited_with_clear_errors() {
    let deep = format!("SELECT {}1{}", "(".repeat(200), ")".repeat(200));
    assert!(parse(&deep).unwrap_err().to_string().contains("nests deeper than 50 levels"));
    let chain = format!("SELECT 1{}", " + 1".repeat(5000));
    assert!(parse(&chain).unwrap_err().to_string().contains("chains more than 1000 operators"));
    let nested = (0..20).fold("1".to_owned(), |inner, _| format!("({inner}{})", " + 1".repeat(200)));
    assert!(parse(&format!("SELECT {nested}")).unwrap_err().to_string().contains("chains more than"));
    let unions = format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(3000));
    assert!(parse(&unions).unwrap_err().to_string().contains("chains more than"));
    assert!(parse(&format!("SELECT {}1", "- ".repeat(500))).is_err());
    let types = format!("SELECT a::{}INT{}", "ARRAY(".repeat(100), ")".repeat(100));
    assert!(parse(&types).is_err());
    // What is long without being deep is fine.
    let list = (0..20_000).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    assert!(parse(&format!("SELECT a FROM t WHERE a IN ({list})")).is_ok());
    assert!(parse(&format!("SELECT 1{}", " + 1".repeat(900))).is_ok());
    assert!(parse(&format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(900))).is_ok());
    let rows = vec!["(1, 'a', NULL)"; 20_000].join(", ");
    assert!(parse(&format!("INSERT INTO t VALUES {rows}")).is_ok());
}

#[test]
fn a_table_is_read_as_it_was_at_a_snapshot_or_a_time() {
    let first = |sql: &str| query(sql).relations.remove(0).target;
    let table = ObjectRef { database: Some("d".into()), name: "t".into() };
    assert_eq!(
        first("SELECT a FROM D.t AT (SNAPSHOT => '42') AS x"),
        RelationTarget::TableAt { table, at: TimeTravel::Snapshot("42".into()) }
    );
    let RelationTarget::TableAt { at, .. } =
        first("SELECT * FROM t at (timestamp => '2024-01-01'::TIMESTAMP - (INTERVAL '1 hour'))")
    else {
        panic!("no table at a time");
    };
    let expected = "__cast('2024-01-01', 'TIMESTAMP') - (INTERVAL '1 hour')";
    assert_eq!(at, TimeTravel::Timestamp(expected.into()));
    // The same table at two points is two relations; at the same point, and without one, it is one each.
    let sql = "SELECT * FROM t AT (SNAPSHOT => '1') a JOIN t AT (SNAPSHOT => '2') b ON a.x = b.x, \
               (SELECT * FROM t AT (SNAPSHOT => '1') UNION ALL SELECT * FROM t) c";
    assert_eq!(tables(sql), ["t at Snapshot(\"1\")", "t at Snapshot(\"2\")", "t"], "{}", rendered(sql));
    assert_eq!(
        rendered("SELECT t.a FROM t AT (SNAPSHOT => '1') WHERE a AT TIME ZONE 'UTC' > b"),
        r#"SELECT "t"."a" FROM "__rel_0" AS "t" WHERE "a" AT TIME ZONE 'UTC' > "b""#
    );
}

#[test]
fn time_travel_that_means_nothing_is_refused_where_it_stands() {
    for (sql, expected, place) in [
        ("SELECT * FROM t AT (SNAPSHOT => a)", "takes the id of a snapshot", (1, 33)),
        ("SELECT * FROM t AT (OFFSET => -60)", "not supported: AT (OFFSET => …)", (1, 21)),
        ("SELECT * FROM t AT (STREAM => s)", "not supported: AT (STREAM => …)", (1, 21)),
        ("SELECT * FROM t AT (VERSION => 1)", "AT has no argument VERSION", (1, 21)),
        ("SELECT * FROM t AT (TIMESTAMP => a.b)", "AT (TIMESTAMP => …) holds the column 'a.b'", (1, 34)),
        ("SELECT * FROM t AT (TIMESTAMP => (SELECT now()))", "holds a subquery", (1, 34)),
        ("SELECT * FROM t AT (TIMESTAMP => ?)", "holds a parameter", (1, 34)),
        ("SELECT * FROM t AT (TIMESTAMP =>)", "names no time", (1, 21)),
        ("SELECT * FROM t AT (TIMESTAMP => now()", "not closed", (1, 17)),
        ("SELECT * FROM t AS x AT (SNAPSHOT => '1')", "right after the name of a table", (1, 22)),
        ("SELECT * FROM (SELECT 1) AT (SNAPSHOT => '1')", "right after the name of a table", (1, 26)),
        ("SELECT * FROM @s AT (SNAPSHOT => '1')", "AT (…) on a stage or location", (1, 18)),
        ("WITH c AS (SELECT 1) SELECT * FROM c AT (SNAPSHOT => '1')", "a query of WITH", (1, 38)),
        ("SELECT 1 WHERE AT (SNAPSHOT => '1')", "only after the name of a table", (1, 16)),
    ] {
        let error = parse(sql).unwrap_err();
        assert!(error.to_string().contains(expected), "{sql}: {error}");
        let found = error.position().map(|place| (place.line, place.column));
        assert_eq!(found, Some(place), "{sql}: {error}");
    }
}

#[test]
fn a_stream_is_read_as_with_says() {
    let options = |sql: &str| match query(sql).relations.remove(0).target {
        RelationTarget::Stream { stream, options } => {
            assert_eq!(stream.to_string(), "d.s");
            options
        }
        other => panic!("{sql}: {other:?}"),
    };
    let consume = StreamOptions { consume: true, max_batch_size: None };
    for sql in [
        "SELECT a FROM d.S WITH CONSUME",
        "SELECT a FROM D.s WITH consume AS x WHERE x.a > 1",
        "SELECT a FROM d.s WITH (CONSUME = true) x",
    ] {
        assert_eq!(options(sql), consume, "{sql}");
    }
    assert_eq!(
        options("SELECT a FROM d.s WITH (MAX_BATCH_SIZE = 10)"),
        StreamOptions { consume: false, max_batch_size: Some(10) }
    );
    assert_eq!(
        options("SELECT a FROM d.s WITH (CONSUME = FALSE, max_batch_size = 1) ORDER BY a"),
        StreamOptions { consume: false, max_batch_size: Some(1) }
    );
    assert_eq!(
        rendered("SELECT s.a, change$action FROM s WITH CONSUME WHERE change$is_update"),
        r#"SELECT "s"."a", "change$action" FROM "__rel_0" AS "s" WHERE "change$is_update""#
    );
    // A WITH of another kind is left alone.
    assert_eq!(tables("WITH consume AS (SELECT 1) SELECT * FROM consume, t"), ["t"]);
    assert_eq!(
        tables("SELECT * FROM (WITH consume AS (SELECT 1 FROM u) SELECT * FROM consume, t) x"),
        ["u", "t"]
    );
    for (sql, expected, place) in [
        ("SELECT * FROM s WITH (CONSUME = 1)", "CONSUME is TRUE or FALSE", (1, 33)),
        ("SELECT * FROM s WITH (MAX_BATCH_SIZE = 0)", "at least 1", (1, 40)),
        ("SELECT * FROM s WITH (MAX_BATCH_SIZE = 5, X = 1)", "not read with X", (1, 43)),
        ("SELECT * FROM s WITH (CONSUME = TRUE, CONSUME = TRUE)", "given twice", (1, 39)),
        ("SELECT * FROM s WITH (CONSUME = TRUE", "not closed", (1, 22)),
        ("SELECT * FROM s x WITH CONSUME", "right after the name of a stream", (1, 19)),
        ("SELECT * FROM @s WITH CONSUME", "WITH … on a stage or location", (1, 18)),
    ] {
        let error = parse(sql).unwrap_err();
        assert!(error.to_string().contains(expected), "{sql}: {error}");
        let found = error.position().map(|place| (place.line, place.column));
        assert_eq!(found, Some(place), "{sql}: {error}");
    }
}

#[test]
fn a_query_of_single_rows_is_known_as_one_and_no_other_is() {
    for sql in [
        "SELECT * FROM t",
        "SELECT a, b + 1 AS c, upper(d)::STRING, CASE WHEN a > 1 THEN 'x' END FROM d.t AS x WHERE x.a IN (1, 2)",
        "SELECT * EXCLUDE (a) FROM t WHERE b LIKE 'a%' AND c BETWEEN 1 AND 2",
        "SELECT *, (a || 'x') AS p FROM (SELECT a, b FROM t WHERE a > 1) AS y",
    ] {
        assert!(query(sql).is_row_by_row, "{sql}");
    }
    for sql in [
        "SELECT count(*) FROM t",
        "SELECT some_aggregate(a) FROM t",
        "SELECT a, sum(b) OVER () FROM t",
        "SELECT DISTINCT a FROM t",
        "SELECT a FROM t ORDER BY a",
        "SELECT a FROM t LIMIT 1",
        "SELECT a FROM t GROUP BY a",
        "SELECT a FROM t HAVING a > 1",
        "SELECT a FROM t UNION ALL SELECT a FROM t",
        "SELECT a FROM t, u",
        "SELECT a FROM t JOIN u ON true",
        "SELECT a FROM t WHERE a IN (SELECT a FROM u)",
        "SELECT (SELECT max(a) FROM t) FROM t",
        "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM t)",
        "SELECT unnest(a) FROM t",
        "SELECT a FROM (SELECT a FROM t LIMIT 1) x",
        "SELECT a FROM (SELECT max(a) AS a FROM t) x",
        "WITH c AS (SELECT 1 AS a) SELECT a FROM c",
        "SELECT * FROM range(0, 3)",
        "VALUES (1)",
        "SELECT 1",
    ] {
        assert!(!query(sql).is_row_by_row, "{sql}");
    }
}

#[test]
fn stream_status_is_a_table_and_a_condition() {
    let sql = "SELECT 1 AS one FROM t WHERE STREAM_STATUS('d.s') = TRUE AND NOT stream_status('\"it''s\"')";
    assert_eq!(tables(sql), ["t", "stream_status()", "stream_status()"]);
    assert_eq!(
        rendered(sql),
        "SELECT 1 AS \"one\" FROM \"__rel_0\" AS \"t\" WHERE (SELECT \"has_data\" FROM \"__rel_1\") = true AND NOT \
         (SELECT \"has_data\" FROM \"__rel_2\")"
    );
    assert_eq!(tables("SELECT * FROM stream_status('s') x"), ["stream_status()"]);
    for (sql, expected) in [
        ("SELECT stream_status()", "needs the name of a stream"),
        ("SELECT stream_status(a)", "must be constants"),
        ("SELECT stream_status(1)", "must be a string"),
        ("SELECT stream_status('a', 'b')", "takes one stream"),
        ("SELECT stream_status('a.b.c')", "names no stream"),
        ("COPY INTO t FROM (SELECT stream_status('s') FROM @s)", "cannot transform with"),
        ("CREATE TABLE t (a BOOLEAN DEFAULT stream_status('s'))", "holds the function stream_status"),
    ] {
        let error = parse(sql).unwrap_err();
        assert!(error.to_string().contains(expected), "{sql}: {error}");
    }
}

#[test]
fn snapshots_are_a_table_function_of_the_database_system() {
    let RelationTarget::Function(function) =
        query("SELECT * FROM system.snapshots('d.t', result_limit => 3) s").relations.remove(0).target
    else {
        panic!("no function");
    };
    assert_eq!(function.name, "system.snapshots");
    assert_eq!(function.named("result_limit").and_then(FunctionArg::count), Some(3));
    for (sql, expected) in [
        ("SELECT * FROM snapshots('t')", "unknown table function 'snapshots'"),
        ("SELECT * FROM roads.snapshots('t')", "unknown table function 'roads.snapshots'"),
        ("SELECT * FROM system.snapshots()", "system.snapshots needs the name of a table"),
        ("SELECT * FROM system.snapshots('a.b.c')", "names no table"),
    ] {
        let error = parse(sql).unwrap_err().to_string();
        assert!(error.contains(expected), "{sql}: {error}");
    }
}

#[test]
fn functions_become_what_the_engine_knows() {
    for (call, expected) in [
        ("if(a > 1, 'x', b)", r#"CASE WHEN "a" > 1 THEN 'x' ELSE "b" END"#),
        ("IFF(a, 1, b, 2, 3)", r#"CASE WHEN "a" THEN 1 WHEN "b" THEN 2 ELSE 3 END"#),
        ("if(a, if(b, 1, 2), 3)", r#"CASE WHEN "a" THEN CASE WHEN "b" THEN 1 ELSE 2 END ELSE 3 END"#),
        (
            "decode(a, 1, 'x', NULL, 'y', 'z')",
            r#"CASE WHEN "a" IS NOT DISTINCT FROM 1 THEN 'x' WHEN "a" IS NOT DISTINCT FROM NULL THEN 'y' ELSE 'z' END"#,
        ),
        ("decode(a, 1, 'x')", r#"CASE WHEN "a" IS NOT DISTINCT FROM 1 THEN 'x' END"#),
        ("decode(a, 'hex')", r#"decode("a", 'hex')"#),
        ("is_null(a)", r#""a" IS NULL"#),
        ("IsNotNull(a)", r#""a" IS NOT NULL"#),
        ("mod(a + 1, 3)", r#"(("a" + 1) % (3))"#),
        ("ucase(a)", r#"upper("a")"#),
        ("to_decimal(10, 2)(a)", r#"__cast("a", 'DECIMAL(10, 2)')"#),
        ("try_to_decimal(10, 2)(a)", r#"__try_cast("a", 'DECIMAL(10, 2)')"#),
        ("date_add(DAY, 3, a)", r#"date_add('day', 3, "a")"#),
        ("last_day(a, month)", r#"last_day("a", 'month')"#),
        ("a RLIKE 'x'", r#"regexp_like("a", 'x')"#),
        ("a NOT REGEXP b", r#"(NOT regexp_like("a", "b"))"#),
        ("a DIV 2 + 1", r#"__div("a", 2) + 1"#),
        ("1 + a DIV b DIV c", r#"1 + __div(__div("a", "b"), "c")"#),
        ("count_if(a > 1)", r#"count(*) FILTER (WHERE "a" > 1)"#),
        (
            "sum_if(a, b > 1) OVER (PARTITION BY c)",
            r#"sum("a") FILTER (WHERE "b" > 1) OVER (PARTITION BY "c")"#,
        ),
        ("uniq(a)", r#"count(DISTINCT "a")"#),
        ("arg_max(a, b)", r#"first_value("a" ORDER BY "b" DESC NULLS LAST)"#),
        ("arg_min(a, b)", r#"first_value("a" ORDER BY "b" ASC NULLS LAST)"#),
        ("quantile_cont(0.9)(a)", r#"percentile_cont(0.9) WITHIN GROUP (ORDER BY "a")"#),
        ("listagg(a)", r#"string_agg("a", '')"#),
        ("group_concat(a, ',')", r#"string_agg("a", ',')"#),
        ("json_array_agg(a)", r#"__cast(array_agg("a"), 'VARIANT')"#),
    ] {
        let sql = format!("SELECT {call} AS x FROM t");
        assert_eq!(rendered(&sql), format!("SELECT {expected} AS \"x\" FROM \"__rel_0\" AS \"t\""));
    }
    for (call, expected) in [
        ("if(a, 1)", "wrong number of arguments; write if(condition, value, otherwise)"),
        ("is_null(a, b)", "wrong number of arguments; write is_null(value)"),
        ("count_if()", "wrong number of arguments; write count_if(condition)"),
        ("sum_if(a)", "wrong number of arguments; write sum_if with two arguments"),
        ("to_decimal(a)", "wrong number of arguments; write to_decimal(precision, scale)(value)"),
        ("quantile_cont(a)", "wrong number of arguments; write quantile_cont(level)(value)"),
    ] {
        let error = parse(&format!("SELECT {call} FROM t")).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("line 1, column 8"), "{call}: {error}");
    }
}

/// Functions whose names are words of the grammar elsewhere.
#[test]
fn functions_may_have_the_names_of_keywords() {
    for call in [
        "insert('a', 1, 2, 'b')",
        "char(77, 78)",
        "date('2024-01-01')",
        "year(today())",
        "current_date",
        "glob('a', 'b')",
        "json_object('a', 1, 'b', NULL)",
        "json_array(1, 2)",
        "get(parse_json('{}'), 'a')",
        "space(2)",
    ] {
        assert_eq!(rendered(&format!("SELECT {call} AS x")), format!("SELECT {call} AS \"x\""));
    }
}
