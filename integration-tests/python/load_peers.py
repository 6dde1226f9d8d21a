"""One load of files by another engine, for load_benchmark.py, in a process of its own:

    python integration-tests/python/load_peers.py PEER FOLDER EXTENSION

DuckDB and Polars write one zstd Parquet file, chDB a MergeTree table, Databend a table of its own. Starting the
engine is not counted. Printed are the seconds and the number of rows that it then has.
"""

import os
import re
import sys
import tempfile
import time

COLUMNS = {
    "id": "BIGINT", "vehicle": "VARCHAR", "sensor": "VARCHAR", "at": "TIMESTAMP", "latitude": "DOUBLE",
    "longitude": "DOUBLE", "speed": "INTEGER", "braking": "BOOLEAN", "note": "VARCHAR", "day": "DATE",
}
CLICKHOUSE = {
    "BIGINT": "Int64", "VARCHAR": "String", "TIMESTAMP": "DateTime64(6)", "DOUBLE": "Float64", "INTEGER": "Int32",
    "BOOLEAN": "Bool", "DATE": "Date",
}


def duckdb(folder, extension, target):
    import duckdb

    columns = str(COLUMNS)
    source = {
        "csv": f"read_csv('{folder}/*.{extension}', header = false, columns = {columns})",
        "ndjson": f"read_json('{folder}/*.{extension}', format = 'newline_delimited', columns = {columns})",
        "parquet": f"read_parquet('{folder}/*.{extension}')",
    }[extension]
    connection = duckdb.connect()
    started = time.monotonic()
    connection.execute(f"COPY (SELECT * FROM {source}) TO '{target}/t.parquet' (FORMAT parquet, COMPRESSION zstd)")
    elapsed = time.monotonic() - started
    return elapsed, connection.execute(f"SELECT count(*) FROM '{target}/t.parquet'").fetchone()[0]


def chdb(folder, extension, target):
    from chdb import session

    columns = ", ".join(f"`{name}` Nullable({CLICKHOUSE[type]})" for name, type in COLUMNS.items())
    format = {"csv": "CSV", "ndjson": "JSONEachRow", "parquet": "Parquet"}[extension]
    engine = session.Session(f"{target}/chdb")
    engine.query("CREATE DATABASE d ENGINE = Atomic")
    engine.query(f"CREATE TABLE d.t ({columns}) ENGINE = MergeTree ORDER BY tuple()")
    started = time.monotonic()
    engine.query(f"""INSERT INTO d.t SELECT * FROM file('{folder}/*.{extension}', '{format}', '{columns.replace("'", "")}')
        SETTINGS date_time_input_format = 'best_effort'""")
    elapsed = time.monotonic() - started
    return elapsed, int(str(engine.query("SELECT count() FROM d.t")).strip())


def polars(folder, extension, target):
    import polars as pl

    types = {
        "BIGINT": pl.Int64, "VARCHAR": pl.String, "TIMESTAMP": pl.Datetime("us"), "DOUBLE": pl.Float64,
        "INTEGER": pl.Int32, "BOOLEAN": pl.Boolean, "DATE": pl.Date,
    }
    schema = {name: types[type] for name, type in COLUMNS.items()}
    pattern = f"{folder}/*.{extension}"
    started = time.monotonic()
    frame = {
        "csv": lambda: pl.scan_csv(pattern, has_header=False, schema=schema),
        "ndjson": lambda: pl.scan_ndjson(pattern, schema=schema),
        "parquet": lambda: pl.scan_parquet(pattern),
    }[extension]()
    frame.sink_parquet(f"{target}/t.parquet", compression="zstd")
    elapsed = time.monotonic() - started
    return elapsed, pl.scan_parquet(f"{target}/t.parquet").select(pl.len()).collect().item()


def databend(folder, extension, target):
    from databend import SessionContext

    # The engine keeps its data under the working directory.
    os.chdir(target)
    engine = SessionContext()
    columns = ", ".join(f"`{name}` {type}" for name, type in COLUMNS.items())
    engine.sql(f"CREATE TABLE t ({columns})").collect()
    started = time.monotonic()
    engine.sql(f"COPY INTO t FROM 'fs://{folder}/' FILE_FORMAT = (TYPE = {extension.upper()})").collect()
    elapsed = time.monotonic() - started
    count = str(engine.sql("SELECT count(*) FROM t").collect())
    return elapsed, int("".join(re.findall(r"│ *(\d+) │", count)))


PEERS = {"duckdb": duckdb, "chdb": chdb, "polars": polars, "databend": databend}


def main():
    peer, folder, extension = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="stevedore-peers-") as target:
        print(*PEERS[peer](folder, extension, target))
        # Engines that are still tidying up would only complain that their folder has gone.
        sys.stdout.flush()


if __name__ == "__main__":
    main()
