"""How fast other engines load the sets of load_benchmark.py on this machine, each run in a process of its own.

    pip install chdb duckdb polars        # into an environment of their own
    python integration-tests/python/load_peers.py [--peers NAME …] [SET …]

Run load_benchmark.py first: it makes the sets. DuckDB and Polars write one zstd Parquet file, chDB a MergeTree table;
starting the engine is not counted. Printed are medians of three runs. Nothing is asserted but the number of rows.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 3
# set: (extension, rows)
SETS = {
    "csv": ("csv", 1_600_000), "ndjson": ("ndjson", 800_000), "parquet": ("parquet", 1_600_000),
    "small": ("csv", 100_000), "big": ("csv", 15_000_000),
}
COLUMNS = {
    "id": "BIGINT", "vehicle": "VARCHAR", "sensor": "VARCHAR", "at": "TIMESTAMP", "latitude": "DOUBLE",
    "longitude": "DOUBLE", "speed": "INTEGER", "braking": "BOOLEAN", "note": "VARCHAR", "day": "DATE",
}
CLICKHOUSE = {
    "BIGINT": "Int64", "VARCHAR": "String", "TIMESTAMP": "DateTime64(6)", "DOUBLE": "Float64", "INTEGER": "Int32",
    "BOOLEAN": "Bool", "DATE": "Date",
}


def duckdb(pattern, extension, target):
    import duckdb

    columns = str(COLUMNS)
    source = {
        "csv": f"read_csv('{pattern}', header = false, columns = {columns})",
        "ndjson": f"read_json('{pattern}', format = 'newline_delimited', columns = {columns})",
        "parquet": f"read_parquet('{pattern}')",
    }[extension]
    connection = duckdb.connect()
    started = time.monotonic()
    connection.execute(f"COPY (SELECT * FROM {source}) TO '{target}/t.parquet' (FORMAT parquet, COMPRESSION zstd)")
    elapsed = time.monotonic() - started
    return elapsed, connection.execute(f"SELECT count(*) FROM '{target}/t.parquet'").fetchone()[0]


def chdb(pattern, extension, target):
    from chdb import session

    columns = ", ".join(f"`{name}` Nullable({CLICKHOUSE[type]})" for name, type in COLUMNS.items())
    format = {"csv": "CSV", "ndjson": "JSONEachRow", "parquet": "Parquet"}[extension]
    engine = session.Session(f"{target}/chdb")
    engine.query("CREATE DATABASE d ENGINE = Atomic")
    engine.query(f"CREATE TABLE d.t ({columns}) ENGINE = MergeTree ORDER BY tuple()")
    started = time.monotonic()
    engine.query(f"""INSERT INTO d.t SELECT * FROM file('{pattern}', '{format}', '{columns.replace("'", "")}')
        SETTINGS date_time_input_format = 'best_effort'""")
    elapsed = time.monotonic() - started
    return elapsed, int(str(engine.query("SELECT count() FROM d.t")).strip())


def polars(pattern, extension, target):
    import polars as pl

    types = {
        "BIGINT": pl.Int64, "VARCHAR": pl.String, "TIMESTAMP": pl.Datetime("us"), "DOUBLE": pl.Float64,
        "INTEGER": pl.Int32, "BOOLEAN": pl.Boolean, "DATE": pl.Date,
    }
    schema = {name: types[type] for name, type in COLUMNS.items()}
    started = time.monotonic()
    frame = {
        "csv": lambda: pl.scan_csv(pattern, has_header=False, schema=schema),
        "ndjson": lambda: pl.scan_ndjson(pattern, schema=schema),
        "parquet": lambda: pl.scan_parquet(pattern),
    }[extension]()
    frame.sink_parquet(f"{target}/t.parquet", compression="zstd")
    elapsed = time.monotonic() - started
    return elapsed, pl.scan_parquet(f"{target}/t.parquet").select(pl.len()).collect().item()


PEERS = {"duckdb": duckdb, "chdb": chdb, "polars": polars}


def run(peer, folder, name):
    extension, expected = SETS[name]
    with tempfile.TemporaryDirectory(prefix="stevedore-peers-") as target:
        command = [sys.executable, __file__, "--child", peer, f"{folder}/*.{extension}", extension, target]
        seconds, rows = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-2:]
    if int(rows) != expected:
        raise SystemExit(f"{peer} loaded {rows} rows of {name}, expected {expected}")
    return float(seconds)


def main():
    if sys.argv[1:2] == ["--child"]:
        _, _, peer, pattern, extension, target = sys.argv
        print(*PEERS[peer](pattern, extension, target))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", default=["csv", "ndjson", "parquet", "small"])
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    arguments = parser.parse_args()
    cache = Path(os.environ.get("STEVEDORE_BENCHMARK_DIR", Path.home() / ".cache" / "stevedore-benchmark"))
    print(f"{'set':<9} {'peer':<8} {'seconds':>8} {'MB/s':>7}")
    for name in arguments.sets:
        folder = (cache / name).resolve()
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        for peer in arguments.peers:
            try:
                seconds = statistics.median(run(peer, folder, name) for _ in range(RUNS))
            except subprocess.CalledProcessError as error:
                print(f"{name:<9} {peer:<8} failed: {error}", flush=True)
                continue
            print(f"{name:<9} {peer:<8} {seconds:>8.2f} {megabytes / seconds:>7.1f}", flush=True)


if __name__ == "__main__":
    main()
