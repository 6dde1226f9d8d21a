"""ADBC: what a client of Flight SQL sees."""

import adbc_driver_manager
import pyarrow as pa
import pytest

from stevedore_server import arrow, error_of, run

COPY_COLUMNS = ["File", "Rows_loaded", "Errors_seen", "First_error", "First_error_line"]


def databases_of(objects):
    """{database: {table: [columns]}} of adbc_get_objects."""
    found = {}
    for catalog in objects.read_all().to_pylist():
        for schema in catalog["catalog_db_schemas"] or []:
            tables = schema["db_schema_tables"] or []
            found[schema["db_schema_name"]] = {
                table["table_name"]: [column["column_name"] for column in table["table_columns"] or []]
                for table in tables
            }
    return found


def test_the_server_says_what_it_is(connection):
    info = connection.adbc_get_info()
    assert info["vendor_name"] == "Stevedore"
    assert info["vendor_version"]


def test_catalogs_schemas_tables_and_columns_are_listed(connection, database):
    run(connection, "CREATE TABLE orders (id BIGINT NOT NULL, amount DECIMAL(10, 2))")
    catalogs = connection.adbc_get_objects(depth="catalogs").read_all().to_pylist()
    assert len(catalogs) == 1
    assert {"default", database} <= set(databases_of(connection.adbc_get_objects(depth="db_schemas")))
    assert databases_of(connection.adbc_get_objects(depth="tables", db_schema_filter=database)) == {
        database: {"orders": []}
    }
    every = databases_of(connection.adbc_get_objects(depth="all", db_schema_filter=database))
    assert every[database]["orders"] == ["id", "amount"]
    assert connection.adbc_get_table_types() == ["STREAM", "SYSTEM VIEW", "TABLE"]
    virtual = databases_of(connection.adbc_get_objects(depth="all", db_schema_filter="system"))
    assert virtual["system"]["databases"] == ["name", "database_id", "created_on", "comment"]


def test_the_schema_of_a_table_is_in_natural_arrow_types(connection, database):
    run(connection, "CREATE TABLE t (id BIGINT NOT NULL, price DECIMAL(12, 2), at TIMESTAMP, v VECTOR(3), j VARIANT)")
    schema = connection.adbc_get_table_schema("t", db_schema_filter=database)
    assert schema.field("id").type == pa.int64() and not schema.field("id").nullable
    assert schema.field("price").type == pa.decimal128(12, 2)
    assert schema.field("at").type == pa.timestamp("us", tz="UTC")
    assert pa.types.is_fixed_size_list(schema.field("v").type) and schema.field("v").type.list_size == 3
    rows = arrow(connection, "SELECT id, price, at, v FROM t")
    assert rows.schema.types == schema.types[:4]
    assert rows.num_rows == 0


def test_rows_are_inserted_and_selected(connection, database):
    run(connection, "CREATE TABLE t (id INT, name VARCHAR)")
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1, 'a'), (2, NULL)")
        assert cursor.fetchall() == [(2,)]
        assert [column[0] for column in cursor.description] == ["number of rows inserted"]
    assert run(connection, "SELECT * FROM t ORDER BY id") == [{"id": 1, "name": "a"}, {"id": 2, "name": None}]


def test_an_update_without_rows_reports_what_it_changed(connection, database):
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_sql_query("CREATE TABLE t (id INT)")
        cursor.adbc_statement.execute_update()
        cursor.adbc_statement.set_sql_query("INSERT INTO t VALUES (1), (2), (3)")
        assert cursor.adbc_statement.execute_update() == 3
    assert run(connection, "SELECT count(*) AS n FROM t") == [{"n": 3}]


def test_parameters_are_bound(connection, database):
    run(connection, "CREATE TABLE t (id BIGINT, name VARCHAR)")
    run(connection, "INSERT INTO t VALUES (?, ?)", [1, "it's"])
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO t VALUES (?, ?)", [(2, "b"), (3, None)])
    assert run(connection, "SELECT id FROM t WHERE id > ? AND id < ? ORDER BY id", [1, 10]) == [{"id": 2}, {"id": 3}]
    assert run(connection, "SELECT name FROM t WHERE name = ?", ["it's"]) == [{"name": "it's"}]


def test_a_prepared_statement_runs_again_with_other_parameters(connection, database):
    run(connection, "CREATE TABLE t (id BIGINT)")
    run(connection, "INSERT INTO t VALUES (1), (2)")
    with connection.cursor() as cursor:
        for id in (1, 2, 3):
            cursor.execute("SELECT count(*) FROM t WHERE id = ?", [id])
            assert cursor.fetchone() == (1 if id < 3 else 0,)


def test_a_prepared_insert_runs_each_time_it_is_executed(connection, database):
    run(connection, "CREATE TABLE t (id BIGINT)")
    with connection.cursor() as cursor:
        for _ in range(3):
            cursor.execute("INSERT INTO t VALUES (7)")
            cursor.fetchall()
    assert run(connection, "SELECT count(*) AS n, sum(id) AS s FROM t") == [{"n": 3, "s": 21}]


def test_copy_answers_a_row_per_file_and_loads_each_file_once(connection, database, files):
    (files / "in/a.csv").write_text("1,x\n2,y\n")
    (files / "in/b.csv").write_text("3,z\n")
    run(connection, "CREATE TABLE t (id INT, name VARCHAR)")
    copy = f"COPY INTO t FROM @{files.stage}/in/ FILE_FORMAT = (TYPE = CSV)"
    loaded = arrow(connection, copy)
    assert loaded.column_names == COPY_COLUMNS
    assert loaded.to_pylist() == [
        dict(zip(COPY_COLUMNS, ["in/a.csv", 2, 0, None, None])),
        dict(zip(COPY_COLUMNS, ["in/b.csv", 1, 0, None, None])),
    ]
    again = arrow(connection, copy)
    assert again.column_names == COPY_COLUMNS
    assert again.num_rows == 0
    (files / "in/c.csv").write_text("4,new\n")
    assert [row["Rows_loaded"] for row in run(connection, copy)] == [1]
    assert run(connection, "SELECT count(*) AS n, sum(id) AS s FROM t") == [{"n": 4, "s": 10}]


def test_preparing_a_copy_loads_nothing(connection, database, files):
    (files / "a.csv").write_text("1\n")
    run(connection, "CREATE TABLE t (id INT)")
    with connection.cursor() as cursor:
        schema = cursor.adbc_execute_schema(f"COPY INTO t FROM @{files.stage} FILE_FORMAT = (TYPE = CSV)")
        assert schema.names == COPY_COLUMNS
        cursor.adbc_prepare(f"COPY INTO t FROM @{files.stage} FILE_FORMAT = (TYPE = CSV)")
    assert run(connection, "SELECT count(*) AS n FROM t") == [{"n": 0}]


def test_bad_rows_are_counted_and_the_first_is_told(connection, database, files):
    (files / "a.csv").write_text("1,2024-01-01\nx,2024-01-02\n3,never\n4,2024-01-04\n")
    run(connection, "CREATE TABLE t (id INT, day DATE)")
    [report] = run(
        connection, f"COPY INTO t FROM @{files.stage} FILE_FORMAT = (TYPE = CSV) ON_ERROR = CONTINUE"
    )
    assert (report["Rows_loaded"], report["Errors_seen"], report["First_error_line"]) == (2, 2, 2)
    assert "'x'" in report["First_error"] and "id" in report["First_error"]
    assert run(connection, "SELECT id FROM t ORDER BY id") == [{"id": 1}, {"id": 4}]


def test_a_bad_row_fails_the_copy_and_names_file_line_and_column(connection, database, files):
    (files / "good.csv").write_text("1\n")
    (files / "wrong.csv").write_text("1\n2\nthree\n")
    run(connection, "CREATE TABLE t (id INT)")
    error = error_of(connection, f"COPY INTO t FROM @{files.stage} FILE_FORMAT = (TYPE = CSV)")
    for part in ("wrong.csv", "line 3", "id", "'three'"):
        assert part in error, error
    assert run(connection, "SELECT count(*) AS n FROM t") == [{"n": 0}]
    (files / "wrong.csv").write_text("1\n2\n3\n")
    assert len(run(connection, f"COPY INTO t FROM @{files.stage} FILE_FORMAT = (TYPE = CSV)")) == 2


@pytest.mark.parametrize(
    ("statement", "parts"),
    [
        ("SELEC 1", ["SELEC"]),
        ("SELECT *\nFROM", ["line 2"]),
        ("SELECT * FROM nowhere", ["nowhere", "does not exist"]),
        ("CREATE TABLE t (a NOTATYPE)", ["NOTATYPE", "line 1"]),
        ("LIST @nowhere", ["nowhere", "does not exist"]),
        ("CREATE VIEW v AS SELECT 1", ["not supported yet", "CREATE VIEW"]),
        ("CALL f()", ["not supported"]),
        ("CREATE STAGE s URL = 'fs:///etc/'; LIST @s", ["one statement"]),
        ("SET unknown = 1", ["unknown"]),
    ],
)
def test_errors_say_what_is_wrong_and_where(connection, database, statement, parts):
    error = error_of(connection, statement)
    for part in parts:
        assert part.lower() in error.lower(), error


def test_errors_have_the_status_of_their_kind(connection, database):
    with connection.cursor() as cursor:
        with pytest.raises(adbc_driver_manager.Error) as raised:
            cursor.execute("SELECT * FROM nowhere")
        assert raised.value.status_code == adbc_driver_manager.AdbcStatusCode.NOT_FOUND
        with pytest.raises(adbc_driver_manager.Error) as raised:
            cursor.execute("CREATE VIEW v AS SELECT 1")
        assert raised.value.status_code == adbc_driver_manager.AdbcStatusCode.NOT_IMPLEMENTED


def test_a_session_belongs_to_its_connection(server, database):
    with server.connect() as one, server.connect() as other:
        run(one, f"USE {database}")
        run(one, "CREATE TABLE mine (id INT)")
        assert [row["name"] for row in run(one, "SHOW TABLES")] == ["mine"]
        assert "mine" in error_of(other, "SELECT * FROM mine")
        run(one, "SET timezone = 'Asia/Shanghai'")
        values = {row["name"]: row["value"] for row in run(one, "SHOW SETTINGS")}
        assert values["timezone"] == "Asia/Shanghai"
        values = {row["name"]: row["value"] for row in run(other, "SHOW SETTINGS")}
        assert values["timezone"] == "UTC"


def test_a_session_takes_its_warehouse_by_an_option_as_well(server):
    option = "adbc.flight.sql.session.option.warehouse"
    with server.connect() as connection:
        connection.adbc_connection.set_options(**{option: "Default"})
        assert connection.adbc_connection.get_option(option) == "Default"
        assert run(connection, "SELECT count(*) AS n FROM system.warehouses")[0]["n"] == 1
        with pytest.raises(adbc_driver_manager.Error):
            connection.adbc_connection.set_options(**{option: "elt"})
        assert "warehouse 'elt' does not exist" in error_of(connection, "USE WAREHOUSE elt")
        assert connection.adbc_connection.get_option(option) == "Default"


def test_a_preview_reads_files_without_a_table(connection, files):
    (files / "a.ndjson").write_text('{"id": 1, "tags": ["x"]}\n{"id": 2, "tags": []}\n')
    rows = run(connection, f"SELECT id FROM @{files.stage} (FILE_FORMAT => 'ndjson') ORDER BY id")
    assert [int(row["id"]) for row in rows] == [1, 2]
    (files / "b.csv").write_text("1;x\n2;y\n")
    rows = run(
        connection,
        f"SELECT $2 AS letter, metadata$filename AS file FROM @{files.stage} "
        "(PATTERN => '.*[.]csv', FILE_FORMAT => (TYPE = CSV FIELD_DELIMITER = ';')) ORDER BY letter LIMIT 1",
    )
    assert rows[0]["letter"] == "x" and rows[0]["file"].endswith("b.csv")


def test_a_long_result_arrives_in_batches_and_whole(connection):
    rows, total = 0, 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT value FROM range(0, 300000)")
        for batch in cursor.fetch_record_batch():
            rows += batch.num_rows
            total += sum(batch.column(0).to_pylist())
    assert (rows, total) == (300_000, 300_000 * 299_999 // 2)


def test_json_and_vectors_are_typed_in_results(connection, database):
    run(connection, "CREATE TABLE t (j VARIANT, v VECTOR(2))")
    run(connection, """INSERT INTO t VALUES ('{"a": {"b": [1, 2]}}', [1.5, 2.5])""")
    rows = arrow(connection, "SELECT v, j:a.b[1]::INT AS second FROM t")
    assert rows.to_pylist() == [{"v": [1.5, 2.5], "second": 2}]
    [document] = run(connection, "SELECT j FROM t")
    assert "".join(str(document["j"]).split()) == '{"a":{"b":[1,2]}}'


def test_health_readiness_and_metrics_answer_over_http(server, connection):
    run(connection, "SELECT 1")
    assert server.http("/health") == "ok\n"
    assert server.http("/ready") == "ready\n"
    assert "stevedore_statements_total" in server.http("/metrics")


def test_the_command_line_client_speaks_to_the_same_server(server, connection, database):
    run(connection, "CREATE TABLE t (id INT, name VARCHAR)")
    run(connection, "INSERT INTO t VALUES (1, 'a,b'), (2, NULL)")
    shell = server.sql_shell("--format", "csv", "-e", f"SELECT * FROM {database}.t ORDER BY id")
    assert shell.returncode == 0, shell.stderr
    assert shell.stdout.splitlines() == ["id,name", '1,"a,b"', "2,"]
    failed = server.sql_shell("-e", "SELECT * FROM nowhere")
    assert failed.returncode != 0
    assert "nowhere" in failed.stderr and "does not exist" in failed.stderr


def ingest_error(connection, *arguments, **options):
    with connection.cursor() as cursor:
        with pytest.raises(adbc_driver_manager.Error) as raised:
            cursor.adbc_ingest(*arguments, **options)
    return str(raised.value)


def test_a_table_is_ingested_in_every_mode(connection, database):
    rows = pa.table({"id": pa.array([1, 2], pa.int64()), "name": ["a", None]})
    with connection.cursor() as cursor:
        assert cursor.adbc_ingest("t", rows, mode="create") == 2
        assert cursor.adbc_ingest("t", rows, mode="append") == 2
        assert cursor.adbc_ingest("t", rows, mode="create_append") == 2
        assert cursor.adbc_ingest("u", rows, mode="create_append") == 2
    assert run(connection, "SELECT count(*) AS n, sum(id) AS s FROM t") == [{"n": 6, "s": 9}]
    assert run(connection, "SELECT * FROM u ORDER BY id") == [{"id": 1, "name": "a"}, {"id": 2, "name": None}]
    with connection.cursor() as cursor:
        assert cursor.adbc_ingest("t", rows.slice(1), mode="replace") == 1
    assert run(connection, "SELECT id FROM t") == [{"id": 2}]
    assert "exists already" in ingest_error(connection, "t", rows, mode="create")
    assert "does not exist" in ingest_error(connection, "missing", rows, mode="append")
    assert run(connection, "SELECT id FROM t") == [{"id": 2}]


def test_rows_are_ingested_into_a_named_database(connection, database):
    rows = pa.table({"id": [1]})
    run(connection, "USE default")
    with connection.cursor() as cursor:
        assert cursor.adbc_ingest("t", rows, mode="create", db_schema_name=database) == 1
        assert cursor.adbc_ingest("t", rows, mode="append", catalog_name="stevedore", db_schema_name=database) == 1
    assert run(connection, f"SELECT count(*) AS n FROM {database}.t") == [{"n": 2}]
    assert "'nowhere'" in ingest_error(connection, "t", rows, mode="create", db_schema_name="nowhere")
    assert "'nowhere'" in ingest_error(connection, "t", rows, mode="create", catalog_name="nowhere")
    assert "temporary tables" in ingest_error(connection, "t", rows, mode="create", temporary=True)


def test_ingested_columns_match_by_name_and_are_cast(connection, database):
    run(
        connection,
        "CREATE TABLE t (id BIGINT NOT NULL, price DECIMAL(10, 2), at TIMESTAMP, name VARCHAR, "
        "tags ARRAY(VARCHAR), v VECTOR(2), state VARCHAR DEFAULT 'new')",
    )
    rows = pa.table(
        {
            "NAME": pa.array(["x", "y", "x"]).dictionary_encode(),
            "v": pa.array([[1, 2], [3, 4], None], pa.list_(pa.float64())),
            "price": pa.array([1.5, None, 2.25]),
            "tags": pa.array([["a"], [], None], pa.large_list(pa.large_string())),
            "at": pa.array([0, 1_000_000_000, None], pa.timestamp("ns")),
            "id": pa.array([1, 2, 3], pa.int8()),
        }
    )
    with connection.cursor() as cursor:
        assert cursor.adbc_ingest("t", rows, mode="append") == 3
    found = run(connection, "SELECT id, CAST(price AS VARCHAR) AS price, name, tags, v, state FROM t ORDER BY id")
    assert found == [
        {"id": 1, "price": "1.50", "name": "x", "tags": ["a"], "v": [1.0, 2.0], "state": "new"},
        {"id": 2, "price": None, "name": "y", "tags": [], "v": [3.0, 4.0], "state": "new"},
        {"id": 3, "price": "2.25", "name": "x", "tags": None, "v": None, "state": "new"},
    ]


def test_what_cannot_be_ingested_is_named_and_nothing_is_loaded(connection, database):
    run(connection, "CREATE TABLE t (id TINYINT NOT NULL, name VARCHAR)")

    def error(**columns):
        return ingest_error(connection, "t", pa.table(columns), mode="append")

    assert "column 'id'" in error(name=["x"])
    assert "column 'colour' does not exist" in error(id=[1], colour=["red"])
    refused = error(id=[1, 2, 300], name=["a", "b", "c"])
    assert "row 3" in refused and "300" in refused and "id TINYINT" in refused
    refused = error(id=[1, None])
    assert "row 2" in refused and "id" in refused
    refused = error(id=pa.array([[1]], pa.list_(pa.int8())))
    assert "column 'id'" in refused
    assert run(connection, "SELECT count(*) AS n FROM t") == [{"n": 0}]


def test_a_table_without_rows_is_created(connection, database):
    # A batch without rows: a table without batches is nothing that the driver would send.
    rows = pa.record_batch({"id": pa.array([], pa.int32())})
    with connection.cursor() as cursor:
        assert cursor.adbc_ingest("t", rows, mode="create") == 0
    assert run(connection, "DESC TABLE t")[0]["Type"] == "INT"


def test_large_batches_are_ingested(server, database):
    rows = 2_000_000
    table = pa.table({"id": pa.array(range(rows), pa.int64()), "text": pa.array(["0123456789"] * rows)})
    assert table.nbytes > 32 << 20
    # Its own limit is 16 MiB a message.
    large_messages = {"adbc.flight.sql.client_option.with_max_msg_size": str(128 << 20)}
    with server.connect(large_messages) as connection:
        run(connection, f"USE {database}")
        with connection.cursor() as cursor:
            assert cursor.adbc_ingest("t", table, mode="create") == rows
            assert cursor.adbc_ingest("t", table.to_reader(max_chunksize=10_000), mode="append") == rows
        assert run(connection, "SELECT count(*) AS n, sum(id) AS s FROM t") == [{"n": 2 * rows, "s": rows * (rows - 1)}]
