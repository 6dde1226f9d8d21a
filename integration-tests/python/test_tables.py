"""Tables as other engines read them: PyIceberg from the metadata file, DuckDB from the data files."""

from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest
from pyiceberg.table import StaticTable

import sample_rows
from stevedore_server import error_of, run


def open_table(server, database, table):
    return StaticTable.from_metadata(server.newest_metadata(database, table))


def data_files(table):
    return [task.file.file_path.removeprefix("file://") for task in table.scan().plan_files()]


def without_json(rows):
    return [{**row, "doc": sample_rows.canonical(row["doc"])} for row in rows]


@pytest.fixture
def everything(connection, database):
    run(connection, sample_rows.CREATE.format(table="everything"))
    return "everything"


@pytest.mark.parametrize("format", list(sample_rows.WRITERS))
def test_pyiceberg_and_duckdb_agree_on_every_type(server, connection, database, files, everything, format):
    rows = sample_rows.rows(103)
    write = sample_rows.WRITERS[format]
    write(files / f"one.{format}", rows[:60])
    write(files / f"two.{format}", rows[60:])
    report = run(
        connection, f"COPY INTO {everything} FROM @{files.stage} FILE_FORMAT = {sample_rows.FORMATS[format]}"
    )
    assert [row["Rows_loaded"] for row in report] == [60, 43]

    table = open_table(server, database, everything)
    types = {field.name: str(field.field_type) for field in table.schema().fields}
    assert {name: types[name] for name in sample_rows.ICEBERG_TYPES} == sample_rows.ICEBERG_TYPES
    assert types["place"].startswith("struct<")
    assert [field.required for field in table.schema().fields] == [True] + [False] * 17

    seen = table.scan().to_arrow().sort_by("id").to_pylist()
    assert without_json(seen) == without_json(rows)

    ids = range(1, 104)
    prices = sum(row["price"] for row in rows if row["price"] is not None)
    count, total, price, names = duckdb.execute(
        "SELECT count(*), sum(id), sum(price), count(DISTINCT name) FROM read_parquet(?)", [data_files(table)]
    ).fetchone()
    assert (count, total, price, names) == (103, sum(ids), prices, 83)
    [ours] = run(connection, f"SELECT count(*) AS n, sum(id) AS s, sum(price) AS p FROM {everything}")
    assert (ours["n"], ours["s"], ours["p"]) == (103, sum(ids), prices)


@pytest.mark.parametrize("format", list(sample_rows.WRITERS))
def test_a_select_gives_back_what_was_loaded(connection, files, everything, format):
    rows = sample_rows.rows(23)
    sample_rows.WRITERS[format](files / f"one.{format}", rows)
    run(connection, f"COPY INTO {everything} FROM @{files.stage} FILE_FORMAT = {sample_rows.FORMATS[format]}")
    assert without_json(run(connection, f"SELECT * FROM {everything} ORDER BY id")) == without_json(rows)


def test_other_engines_find_the_files_of_a_partition(server, connection, database, files):
    lines = [f"{n},2024-05-{1 + n % 3:02} 10:00:00,{['Oslo', 'Rome', ''][n % 3]},{n / 10}" for n in range(300)]
    (files / "one.csv").write_text("\n".join(lines[:200]) + "\n")
    (files / "two.csv").write_text("\n".join(lines[200:]) + "\n")
    run(connection, """
        CREATE TABLE trips (id INT, at TIMESTAMP, city VARCHAR, price DECIMAL(8, 2))
        PARTITION BY (day(at), city, bucket(2, id), truncate(500, price))
    """)
    run(connection, f"COPY INTO trips FROM @{files.stage} FILE_FORMAT = (TYPE = CSV)")
    run(connection, "INSERT INTO trips VALUES (1000, NULL, 'Oslo', NULL)")

    table = open_table(server, database, "trips")
    fields = [(field.name, str(field.transform)) for field in table.spec().fields]
    assert fields == [("at_day", "day"), ("city", "identity"), ("id_bucket", "bucket[2]"), ("price_trunc", "truncate[500]")]
    every = list(table.scan().plan_files())
    for where, expected in [
        ("city = 'Rome'", {n for n in range(300) if n % 3 == 1}),
        ("at >= '2024-05-03T00:00:00+00:00'", {n for n in range(300) if n % 3 == 2}),
        ("city = 'Oslo' AND id = 30", {30}),
        ("at IS NULL", {1000}),
        ("price < 0.15", {0, 1}),
    ]:
        scan = table.scan(row_filter=where)
        assert {row["id"] for row in scan.to_arrow().to_pylist()} == expected, where
        assert len(list(scan.plan_files())) < len(every), where
        ours = where.replace("T00:00:00+00:00", "")
        assert {row["id"] for row in run(connection, f"SELECT id FROM trips WHERE {ours}")} == expected, where
    [total] = duckdb.execute("SELECT count(*) FROM read_parquet(?)", [data_files(table)]).fetchone()
    assert total == 301


def test_other_engines_pass_over_what_rewritten_files_say_of_their_rows(server, connection, database):
    # A column that is called as one of those that follow.
    run(connection, "CREATE TABLE changed (id INT NOT NULL, name VARCHAR, _row_origin_file VARCHAR, tags ARRAY(INT))")
    values = ", ".join(f"({n}, 'n{n}', 'mine', [{n}])" for n in range(100))
    run(connection, f"INSERT INTO changed VALUES {values}")
    run(connection, "UPDATE changed SET name = 'new' WHERE id < 10")
    run(connection, "DELETE FROM changed WHERE id >= 90")
    run(connection, """MERGE INTO changed USING (SELECT 5 AS id UNION ALL SELECT 500 AS id) AS s ON changed.id = s.id
        WHEN MATCHED THEN UPDATE SET name = 'merged' WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, 'inserted')""")
    expected = {n: ("new" if n < 10 else f"n{n}", "mine", [n]) for n in range(90)}
    expected |= {5: ("merged", "mine", [5]), 500: ("inserted", None, None)}

    table = open_table(server, database, "changed")
    seen = table.scan().to_arrow()
    names = ["id", "name", "_row_origin_file", "tags"]
    assert [field.name for field in table.schema().fields] == seen.schema.names == names
    rows = {row["id"]: (row["name"], row["_row_origin_file"], row["tags"]) for row in seen.to_pylist()}
    assert rows == expected
    filtered = table.scan(row_filter="name = 'new'", selected_fields=("id",)).to_arrow()
    assert sorted(filtered["id"].to_pylist()) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    counted = duckdb.execute(
        "SELECT count(*), count(_row_origin_file), sum(id) FROM read_parquet(?)", [data_files(table)]
    ).fetchone()
    assert counted == (91, 90, sum(expected))

    # The files say it, the manifests do not.
    [path] = data_files(table)
    of_rows = pq.read_table(path, columns=["id", "_row_origin_position", "_row_added_sequence_number"])
    origins = {row["id"]: tuple(row.values())[1:] for row in of_rows.to_pylist()}
    assert origins == {n: (n, 1) for n in range(90)} | {500: (None, None)}
    columns = {field.field_id for field in table.schema().fields} | {table.schema().find_field("tags.element").field_id}
    for task in table.scan().plan_files():
        assert set(task.file.column_sizes) <= columns and set(task.file.lower_bounds) <= columns
    assert run(connection, "SELECT * FROM changed WHERE id = 500") == [
        {"id": 500, "name": "inserted", "_row_origin_file": None, "tags": None}
    ]


def test_parquet_row_groups_of_the_same_types_are_taken_as_they_are_stored(server, connection, database, files):
    count = 100_000
    source = pa.table({
        "id": pa.array(range(count), pa.int64()),
        "name": pa.array([None if n % 7 == 0 else f"name {n % 1000}" for n in range(count)]),
        "at": pa.array([n * 1_000_003 for n in range(count)], pa.timestamp("us", tz="UTC")),
        "ratio": pa.array([float("nan") if n % 11 == 0 else n / 3 for n in range(count)]),
        "amount": pa.array([Decimal(n) / 100 for n in range(count)], pa.decimal128(20, 2)),
        "ok": pa.array([n % 2 == 0 for n in range(count)]),
        "day": pa.array([n % 20_000 for n in range(count)], pa.int32()).cast(pa.date32()),
    })
    # Snappy is not what we write: it shows that the pages are the source's.
    pq.write_table(source, files / "alike.parquet", compression="snappy", row_group_size=80_000)
    # The second file has a row that does not fit: it is loaded the other way, without that row.
    bad = source.set_column(0, "id", pa.array([None] + list(range(1, count)), pa.int64()))
    pq.write_table(bad, files / "bad.parquet", compression="snappy")
    run(connection, """CREATE TABLE alike (id BIGINT, name VARCHAR, at TIMESTAMP, ratio DOUBLE,
        amount DECIMAL(20, 2), ok BOOLEAN, day DATE)""")
    run(connection, f"COPY INTO alike FROM @{files.stage} FILES = ('alike.parquet')")
    table = open_table(server, database, "alike")
    [path] = data_files(table)
    footer = pq.ParquetFile(path).metadata
    groups = [footer.row_group(n) for n in range(footer.num_row_groups)]
    assert [(group.num_rows, group.column(0).compression) for group in groups] == [
        (80_000, "SNAPPY"), (20_000, "ZSTD"),
    ]
    seen = table.scan().to_arrow().sort_by("id")
    for name in source.column_names:
        expected, actual = source[name].combine_chunks(), seen[name].combine_chunks().cast(source[name].type)
        # NaN is not equal to itself, but its place is.
        assert pa.compute.fill_null(pa.compute.equal(expected, actual), True).to_pylist().count(False) == (
            pa.compute.sum(pa.compute.is_nan(expected)).as_py() if name == "ratio" else 0
        ), name
        assert expected.null_count == actual.null_count
    assert table.scan(row_filter="id >= 99990").to_arrow().num_rows == 10
    assert list(table.scan(row_filter="id >= 1000000").plan_files()) == []
    [ours] = run(connection, "SELECT count(*) AS n, sum(id) AS s, max(at) AS a, count(name) AS c FROM alike")
    [theirs] = duckdb.execute("SELECT count(*), sum(id), count(name) FROM read_parquet(?)", [path]).fetchall()
    assert (ours["n"], ours["s"], ours["c"]) == theirs

    run(connection, "CREATE TABLE strict (id BIGINT NOT NULL, name VARCHAR)")
    [report] = run(connection, f"COPY INTO strict FROM @{files.stage} FILES = ('bad.parquet') ON_ERROR = CONTINUE")
    assert (report["Rows_loaded"], report["Errors_seen"], report["First_error_line"]) == (count - 1, 1, 1)


def test_parquet_columns_go_their_own_ways_into_a_row_group(server, connection, database, files):
    count = 70_000
    numbers = range(count)
    source = pa.table({
        "id": pa.array(numbers, pa.int64()),
        "kind": pa.array([f"kind {n % 9}" for n in numbers]).dictionary_encode(),
        "at": pa.array([n * 1001 for n in numbers], pa.timestamp("ms", tz="UTC")),
        "small": pa.array([None if n % 5 == 0 else n % 100 for n in numbers], pa.int8()),
        "text": pa.array([str(n) for n in numbers]),
        "ratio": pa.array([float("nan") if n % 11 == 0 else n / 3 for n in numbers], pa.float64()),
        "tags": pa.array([None if n % 6 == 0 else [n, None] * (n % 3) for n in numbers], pa.list_(pa.int32())),
        "place": pa.array(
            [None if n % 8 == 0 else {"x": n / 2, "name": f"p{n % 50}"} for n in numbers],
            pa.struct([("x", pa.float64()), ("name", pa.string())]),
        ),
        "doc": pa.array([f'{{"b": {n}, "a": 1}}' for n in numbers]),
    })
    pq.write_table(source, files / "mixed.parquet", compression="snappy", data_page_version="2.0")
    run(connection, """CREATE TABLE mixed (id BIGINT, kind VARCHAR, at TIMESTAMP, small INT, text INT, ratio DOUBLE,
        tags ARRAY(INT), place TUPLE(x DOUBLE, name VARCHAR), doc VARIANT, origin VARCHAR DEFAULT 'here')""")
    columns = "id, kind, at, small, text, ratio, tags, place, doc"
    [report] = run(connection, f"""COPY INTO mixed ({columns}) FROM (
        SELECT id, kind, at, small, text::INT, ratio, tags, place, doc::VARIANT FROM @{files.stage})""")
    assert (report["Rows_loaded"], report["Errors_seen"]) == (count, 0)
    table = open_table(server, database, "mixed")
    [path] = data_files(table)
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunks = [group.column(n) for n in range(group.num_columns)]
    copied = {chunk.path_in_schema.split(".")[0] for chunk in chunks if chunk.compression == "SNAPPY"}
    encoded = {chunk.path_in_schema.split(".")[0] for chunk in chunks if chunk.compression == "ZSTD"}
    assert encoded == {"at", "text", "doc", "origin"}
    assert copied == {"id", "kind", "small", "ratio", "tags", "place"}

    seen = table.scan().to_arrow().sort_by("id")
    for name in ("id", "small", "tags", "place"):
        assert seen[name].to_pylist() == source[name].to_pylist(), name
    assert seen["kind"].to_pylist() == source["kind"].to_pylist()
    assert seen["text"].to_pylist() == list(numbers)
    assert seen["at"].to_pylist() == source["at"].to_pylist()
    assert [str(value) for value in seen["ratio"].to_pylist()] == [str(value) for value in source["ratio"].to_pylist()]
    assert seen["doc"][3].as_py() == '{"a":1,"b":3}'
    assert set(seen["origin"].to_pylist()) == {"here"}
    [task] = table.scan().plan_files()
    fields = {name: table.schema().find_field(name).field_id for name in ("small", "ratio", "place.x", "place.name")}
    nulls, nans = task.file.null_value_counts, task.file.nan_value_counts
    assert {name: nulls[field] for name, field in fields.items()} == {
        "small": source["small"].null_count, "ratio": 0, "place.x": count // 8, "place.name": count // 8,
    }
    assert nans[fields["ratio"]] == len(range(0, count, 11))
    assert list(table.scan(row_filter="small > 99").plan_files()) == []
    assert table.scan(row_filter="text >= 69990").to_arrow().num_rows == 10
    query = "SELECT count(*), sum(id), sum(text), count(small), sum(len(tags)), max(place.name) FROM read_parquet(?)"
    [theirs] = duckdb.execute(query, [path]).fetchall()
    lists = sum(2 * (n % 3) for n in numbers if n % 6 != 0)
    total = sum(numbers)
    assert theirs == (count, total, total, count - count // 5, lists, "p9")

    # Only rows that can match are read, and those that match are the same.
    where = "id BETWEEN 500 AND 509 AND kind LIKE 'kind%'"
    [found] = run(connection, f"""SELECT count(*) AS n, min(metadata$file_row_number) AS first, max(text) AS text
        FROM @{files.stage}/mixed.parquet WHERE {where}""")
    assert (found["n"], found["first"], found["text"]) == (10, 500, "509")


def test_statistics_let_pyiceberg_prune(server, connection, database, files):
    run(connection, "CREATE TABLE t (id BIGINT, name VARCHAR)")
    for n in range(3):
        (files / f"{n}.csv").write_text("".join(f"{n * 100 + i},n{n}\n" for i in range(100)))
        run(connection, f"COPY INTO t FROM @{files.stage} FILE_FORMAT = (TYPE = CSV)")
    table = open_table(server, database, "t")
    assert len(data_files(table)) == 3
    assert len(list(table.scan(row_filter="id >= 250").plan_files())) == 1
    assert table.scan(row_filter="id >= 250").to_arrow().num_rows == 50


def test_each_load_is_a_snapshot_that_names_its_job(server, connection, database, files):
    run(connection, "CREATE TABLE t (id BIGINT)")
    for n in range(2):
        (files / f"{n}.csv").write_text(f"{n}\n")
        run(connection, f"COPY INTO t FROM @{files.stage} FILE_FORMAT = (TYPE = CSV)")
    table = open_table(server, database, "t")
    snapshots = sorted(table.snapshots(), key=lambda snapshot: snapshot.sequence_number)
    jobs = [snapshot.summary["stevedore.job-id"] for snapshot in snapshots]
    assert len(jobs) == len(set(jobs)) == 2
    first = snapshots[0].snapshot_id
    assert table.scan(snapshot_id=first).to_arrow().column("id").to_pylist() == [0]


def test_a_load_of_nothing_makes_no_snapshot(server, connection, database, files):
    run(connection, "CREATE TABLE t (id BIGINT)")
    (files / "empty.csv").write_text("")
    copy = f"COPY INTO t FROM @{files.stage} FILE_FORMAT = (TYPE = CSV)"
    assert run(connection, copy) == []
    assert list(open_table(server, database, "t").snapshots()) == []


def test_truncate_leaves_no_rows_and_lets_files_load_again(server, connection, database, files):
    run(connection, "CREATE TABLE t (id BIGINT)")
    (files / "a.csv").write_text("1\n2\n")
    copy = f"COPY INTO t FROM @{files.stage} FILE_FORMAT = (TYPE = CSV)"
    run(connection, copy)
    run(connection, "TRUNCATE TABLE t")
    assert open_table(server, database, "t").scan().to_arrow().num_rows == 0
    assert len(run(connection, copy)) == 1
    assert open_table(server, database, "t").scan().to_arrow().num_rows == 2


def test_an_added_column_is_null_in_older_rows(server, connection, database):
    run(connection, "CREATE TABLE t (id BIGINT)")
    run(connection, "INSERT INTO t VALUES (1)")
    run(connection, "ALTER TABLE t ADD COLUMN name VARCHAR")
    run(connection, "INSERT INTO t VALUES (2, 'b')")
    expected = [{"id": 1, "name": None}, {"id": 2, "name": "b"}]
    assert open_table(server, database, "t").scan().to_arrow().sort_by("id").to_pylist() == expected
    assert run(connection, "SELECT * FROM t ORDER BY id") == expected


def test_columns_that_files_bring_are_read_by_other_engines(server, connection, database, files):
    run(connection, "CREATE TABLE growing (id INT) ENABLE_SCHEMA_EVOLUTION = true")
    (files / "a.ndjson").write_text('{"id": 1}\n')
    run(connection, f"COPY INTO growing FROM @{files.stage} FILE_FORMAT = (TYPE = NDJSON)")
    (files / "b.ndjson").write_text('{"id": 2, "n": 1}\n{"id": 3, "n": 2.5, "doc": {"k": [1]}}\n')
    run(connection, f"COPY INTO growing FROM @{files.stage} FILE_FORMAT = (TYPE = NDJSON)")
    rows = pa.table({"id": pa.array([4], pa.int32()), "place": [{"x": 1.5, "tags": ["a", None]}], "n": [4]})
    pq.write_table(rows, files / "c.parquet")
    run(connection, f"COPY INTO growing FROM @{files.stage}/c.parquet FILE_FORMAT = (TYPE = PARQUET)")

    table = open_table(server, database, "growing")
    types = [(field.name, str(field.field_type), field.required) for field in table.schema().fields]
    assert types[:3] == [("id", "int", False), ("n", "double", False), ("doc", "string", False)]
    assert types[3][0] == "place" and types[3][1].startswith("struct<")
    expected = [
        {"id": 1, "n": None, "doc": None, "place": None},
        {"id": 2, "n": 1.0, "doc": None, "place": None},
        {"id": 3, "n": 2.5, "doc": '{"k": [1]}', "place": None},
        {"id": 4, "n": 4.0, "doc": None, "place": {"x": 1.5, "tags": ["a", None]}},
    ]
    assert table.scan().to_arrow().sort_by("id").to_pylist() == expected
    assert run(connection, "SELECT id, n, doc, place FROM growing ORDER BY id") == expected
    # A field id is one column's for ever, nested ones included.
    ids = [field.field_id for field in table.schema().fields]
    assert len(table.schema()._lazy_id_to_field) == 4 + 3 and ids == sorted(set(ids))
    count, total = duckdb.execute(
        "SELECT count(*), sum(n) FROM read_parquet(?, union_by_name = true)", [data_files(table)]
    ).fetchone()
    assert (count, total) == (4, 7.5)


def test_create_table_as_is_readable(server, connection, database):
    run(connection, "CREATE TABLE t AS SELECT value AS id, value * 2 AS twice FROM range(0, 1000)")
    rows = open_table(server, database, "t").scan().to_arrow()
    assert (rows.num_rows, sum(rows.column("twice").to_pylist())) == (1000, 999_000)


def test_a_transform_casts_and_filters_on_the_way(server, connection, database, files):
    sample_rows.write_parquet(files / "a.parquet", sample_rows.rows(50))
    run(connection, "CREATE TABLE t (id VARCHAR, price DOUBLE, at TIMESTAMP, doc VARIANT, vector VECTOR(3))")
    [report] = run(
        connection,
        "COPY INTO t FROM (SELECT id::STRING, price::DOUBLE, at, doc, vector "
        f"FROM @{files.stage} WHERE id > 30) FILE_FORMAT = (TYPE = PARQUET)",
    )
    assert (report["Rows_loaded"], report["Errors_seen"]) == (20, 0)
    rows = open_table(server, database, "t").scan().to_arrow().sort_by("id").to_pylist()
    expected = sorted((r for r in sample_rows.rows(50) if r["id"] > 30), key=lambda r: str(r["id"]))
    assert [row["id"] for row in rows] == [str(row["id"]) for row in expected]
    assert [row["price"] for row in rows] == [None if r["price"] is None else float(r["price"]) for r in expected]


def test_a_value_that_does_not_fit_leaves_the_table_as_it_was(server, connection, database, files):
    run(connection, "CREATE TABLE t (small TINYINT, vector VECTOR(2))")
    (files / "a.ndjson").write_text('{"small": 1, "vector": [1, 2]}\n{"small": 300, "vector": [1, 2]}\n')
    (files / "b.ndjson").write_text('{"small": 1, "vector": [1, 2, 3]}\n')
    copy = f"COPY INTO t FROM @{files.stage}/{{}} FILE_FORMAT = (TYPE = NDJSON)"
    assert "300" in error_of(connection, copy.format("a.ndjson"))
    assert "VECTOR(2)" in error_of(connection, copy.format("b.ndjson"))
    assert list(open_table(server, database, "t").snapshots()) == []


def test_tables_outlive_a_restart(tmp_path):
    from stevedore_server import Server

    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.csv").write_text("1\n2\n")
    copy = "COPY INTO t FROM @s FILE_FORMAT = (TYPE = CSV)"
    with Server(tmp_path / "data", allow_fs=[folder]) as server, server.connect() as connection:
        run(connection, f"CREATE STAGE s URL = 'fs://{folder}/'")
        run(connection, "CREATE TABLE t (id BIGINT, v VECTOR(2) DEFAULT [0, 1])")
        run(connection, "COPY INTO t (id) FROM @s FILE_FORMAT = (TYPE = CSV)")
    with Server(tmp_path / "data", allow_fs=[folder]) as server, server.connect() as connection:
        assert run(connection, copy.replace(" t ", " t (id) ")) == []
        assert run(connection, "SELECT count(*) AS n, sum(id) AS s FROM t") == [{"n": 2, "s": 3}]
        [v] = [row for row in run(connection, "DESC TABLE t") if row["Field"] == "v"]
        assert v["Type"] == "VECTOR(2)"
        assert open_table(server, "default", "t").scan().to_arrow().num_rows == 2


def test_other_engines_read_what_delete_update_and_merge_left(server, connection, database):
    run(connection, "CREATE TABLE stock (id INT NOT NULL, day DATE, qty INT, note VARCHAR) PARTITION BY (day)")
    for first in range(0, 300, 100):
        run(connection, f"""
            INSERT INTO stock SELECT value, '2024-05-0' || (1 + value % 3), value, 'n' || value
            FROM range({first}, {first + 100})
        """)
    before = open_table(server, database, "stock")
    [counts] = run(connection, "DELETE FROM stock WHERE id < 100 AND day = '2024-05-01'")
    assert counts == {"number of rows deleted": 34}
    # Files without such rows are the same ones.
    kept = set(data_files(before)) & set(data_files(open_table(server, database, "stock")))
    assert len(kept) == len(data_files(before)) - 1, kept
    [counts] = run(connection, "UPDATE stock SET qty = -qty, day = '2024-06-01' WHERE id % 10 = 5")
    assert counts == {"number of rows updated": 27}
    [counts] = run(connection, """
        MERGE INTO stock USING (SELECT value AS id FROM range(290, 310)) AS s ON stock.id = s.id
        WHEN MATCHED AND s.id < 295 THEN DELETE WHEN MATCHED THEN UPDATE SET note = NULL
        WHEN NOT MATCHED THEN INSERT (id, day, qty) VALUES (s.id, '2024-07-01', 0)
    """)
    assert counts == {
        "number of rows inserted": 10, "number of rows updated": 5, "number of rows deleted": 5,
    }

    expected = {}
    for n in range(300):
        if (n < 100 and n % 3 == 0) or 290 <= n < 295:
            continue
        moved = n % 10 == 5
        day = "2024-06-01" if moved else f"2024-05-0{1 + n % 3}"
        expected[n] = (day, -n if moved else n, None if n >= 295 else f"n{n}")
    expected.update({n: ("2024-07-01", 0, None) for n in range(300, 310)})
    table = open_table(server, database, "stock")
    seen = {row["id"]: (str(row["day"]), row["qty"], row["note"]) for row in table.scan().to_arrow().to_pylist()}
    assert seen == expected
    rows, distinct, total = duckdb.execute(
        "SELECT count(*), count(DISTINCT id), sum(qty) FROM read_parquet(?)", [data_files(table)]
    ).fetchone()
    assert (rows, distinct, total) == (len(expected), len(expected), sum(qty for _, qty, _ in expected.values()))
    # The snapshot from before is whole.
    old = table.scan(snapshot_id=before.current_snapshot().snapshot_id).to_arrow()
    assert sorted(old["id"].to_pylist()) == list(range(300))
    summary = table.current_snapshot().summary
    assert summary.operation.value == "overwrite" and int(summary["total-records"]) == len(expected)
