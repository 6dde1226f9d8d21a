"""Parquet files of another writer: pages that a WHERE skips, and columns that cannot be NULL."""

import random

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyiceberg.table import StaticTable

from stevedore_server import run

ROWS = 200_000
GROUP = 100_000
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("price", pa.float64(), nullable=False),
        pa.field("word", pa.string(), nullable=False),
        pa.field("noise", pa.string(), nullable=False),
        pa.field("good", pa.bool_(), nullable=False),
        pa.field("day", pa.date32(), nullable=False),
        pa.field("later", pa.int32()),
        pa.field("list", pa.list_(pa.int32())),
    ]
)


@pytest.fixture(scope="module")
def rows():
    draw = random.Random(7)
    columns = {
        "id": range(ROWS),
        "price": [draw.random() for _ in range(ROWS)],
        "word": [draw.choice(["lane", "grün", "tunnel"]) for _ in range(ROWS)],
        "noise": [f"{draw.getrandbits(60):x}" for _ in range(ROWS)],
        "good": [draw.random() < 0.5 for _ in range(ROWS)],
        "day": pa.array([row // 1000 for row in range(ROWS)], pa.int32()).cast(pa.date32()),
        # Rises, with NULLs, and whole pages of them.
        "later": [None if row % 7 == 3 or 50_000 <= row < 60_000 else row // 2 for row in range(ROWS)],
        "list": [[row] * (row % 3) for row in range(ROWS)],
    }
    return pa.table([pa.array(column, field.type) for column, field in zip(columns.values(), SCHEMA)], SCHEMA)


def write(path, rows, version, compression):
    pq.write_table(
        rows,
        path,
        compression=compression,
        data_page_version=version,
        row_group_size=GROUP,
        data_page_size=16 << 10,
        write_page_index=True,
    )


@pytest.mark.parametrize("version, compression", [("1.0", "snappy"), ("2.0", "zstd"), ("1.0", "none")])
def test_a_where_over_pages_answers_what_it_would_over_rows(connection, files, rows, version, compression):
    write(files / "rows.parquet", rows, version, compression)
    for condition, mask in [
        ("id BETWEEN 123456 AND 124567", pc.and_(pc.greater_equal(rows["id"], 123456), pc.less_equal(rows["id"], 124567))),
        ("id IN (5, 99999, 100000, 199999)", pc.is_in(rows["id"], pa.array([5, 99999, 100000, 199999]))),
        ("later < 100", pc.less(rows["later"], 100)),
        ("later IS NULL AND id < 51000", pc.and_(pc.is_null(rows["later"]), pc.less(rows["id"], 51000))),
        ("day = '1970-04-11' AND good", pc.and_(pc.equal(rows["day"].cast(pa.int32()), 100), rows["good"])),
        ("id < 0", pc.less(rows["id"], 0)),
        ("noise LIKE '7%'", pc.starts_with(rows["noise"], "7")),
        ("id >= 150000 OR word = 'grün'", pc.or_(pc.greater_equal(rows["id"], 150000), pc.equal(rows["word"], "grün"))),
    ]:
        wanted = rows.filter(mask)
        seen = run(
            connection,
            "SELECT count(*) AS n, sum(id) AS s, sum(metadata$file_row_number) AS r, min(noise) AS low,"
            " max(noise) AS high, count(later) AS l, sum(price) AS p"
            f" FROM @{files.stage}/ (FILE_FORMAT => 'parquet') WHERE {condition}",
        )[0]
        ids = pc.sum(wanted["id"]).as_py()
        told = (seen["n"], seen["s"], seen["r"], seen["low"], seen["high"], seen["l"])
        low, high = pc.min_max(wanted["noise"]).as_py().values()
        assert told == (wanted.num_rows, ids, ids, low, high, pc.count(wanted["later"]).as_py()), condition
        assert seen["p"] == pytest.approx(pc.sum(wanted["price"]).as_py()), condition
    lists = run(connection, f"SELECT list FROM @{files.stage}/ (FILE_FORMAT => 'parquet') WHERE id = 123458")
    assert lists == [{"list": [123458] * (123458 % 3)}]


@pytest.mark.parametrize("version, compression", [("1.0", "snappy"), ("2.0", "zstd")])
def test_columns_that_cannot_be_null_are_read_by_others(
    server, connection, database, files, rows, version, compression
):
    write(files / "rows.parquet", rows, version, compression)
    run(
        connection,
        "CREATE TABLE t (id BIGINT, price DOUBLE, word VARCHAR, noise VARCHAR, good BOOLEAN, day DATE, later INT,"
        " list ARRAY(INT))",
    )
    run(connection, f"COPY INTO t FROM @{files.stage} FILE_FORMAT = (TYPE = PARQUET)")
    table = StaticTable.from_metadata(server.newest_metadata(database, "t"))
    [path] = [task.file.file_path.removeprefix("file://") for task in table.scan().plan_files()]
    # Copied: the row groups are those of the source, and so is the compression.
    stored = pq.ParquetFile(path)
    groups = [stored.metadata.row_group(group) for group in range(stored.num_row_groups)]
    assert [group.num_rows for group in groups] == [GROUP, GROUP]
    assert all(group.column(0).compression == compression.upper() for group in groups)
    assert stored.schema.column(0).max_definition_level == 1
    seen = table.scan().to_arrow().sort_by("id")
    for name in SCHEMA.names:
        wanted = rows[name].combine_chunks()
        assert seen[name].combine_chunks().cast(wanted.type).equals(wanted), name
    assert duckdb.execute(
        "SELECT count(*), sum(id), count(DISTINCT noise), sum(good::INT) FROM read_parquet(?)", [path]
    ).fetchone() == (ROWS, sum(range(ROWS)), len(set(rows["noise"].to_pylist())), pc.sum(rows["good"]).as_py())
