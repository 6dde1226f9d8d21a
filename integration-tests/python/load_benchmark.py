"""How fast COPY INTO loads the standard sets, end to end, commit included.

    cargo build --release
    STEVEDORE_BIN=target/release/stevedore python integration-tests/python/load_benchmark.py [SET …]

Run it with the Python of the tests' virtual environment (integration-tests/python/run makes it). The sets
(csv, ndjson, parquet, small; others only when named) are made once, in STEVEDORE_BENCHMARK_DIR (default:
~/.cache/stevedore-benchmark), and read once before, so that no engine pays for a cold page cache. Each set is loaded
three times (--runs says otherwise) into a new table of a new server; printed are the medians
of the seconds, rows and input megabytes per second, of the seconds that the same COPY takes again (it finds every file
loaded), and the server's largest resident memory (VmHWM).

    python -m venv peers && peers/bin/pip install chdb databend duckdb polars
    python integration-tests/python/load_benchmark.py --peers chdb databend duckdb polars --peers-python peers/bin/python

loads the same files by other engines too (load_peers.py says how), each run in a process of its own, in turn with ours.
It is no test: nothing is asserted but the number of rows.
"""

import argparse
import gzip
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from stevedore_server import Server, run

ROWS = 200_000
BIG = 15_000_000
TABLE = """
CREATE TABLE {name} (
    id BIGINT, vehicle VARCHAR, sensor VARCHAR, at TIMESTAMP, latitude DOUBLE, longitude DOUBLE, speed INT,
    braking BOOLEAN, note VARCHAR, day DATE
)
"""
WORDS = ["lane", "change", "slow", "truck", "wet", "road", "left", "merge", "night", "tunnel", "crossing", "stop"]


def rows(first, count, seed):
    random = numpy.random.default_rng(seed)
    words = numpy.array(WORDS)
    notes = [" ".join(row) for row in words[random.integers(0, len(WORDS), (count, 6))]]
    # One note in twenty needs quotes in CSV.
    for at in range(0, count, 20):
        notes[at] = f'said "{notes[at]}", twice'
    seconds = 1_714_550_400 + numpy.arange(first, first + count)
    return pa.table({
        "id": pa.array(numpy.arange(first, first + count)),
        "vehicle": pa.array([f"vehicle-{n:05}" for n in random.integers(0, 5_000, count)]),
        "sensor": pa.array([f"camera_{n}" for n in random.integers(0, 12, count)]),
        "at": pa.array(seconds * 1_000_000 + random.integers(0, 1_000_000, count), pa.timestamp("us", tz="UTC")),
        "latitude": pa.array(numpy.round(random.uniform(30, 40, count), 6)),
        "longitude": pa.array(numpy.round(random.uniform(110, 120, count), 6)),
        "speed": pa.array(random.integers(0, 140, count, dtype=numpy.int32)),
        "braking": pa.array(random.integers(0, 10, count) == 0),
        "note": pa.array(notes),
        "day": pa.array((seconds // 86_400).astype("int32"), pa.date32()),
    })


def as_text(table):
    """Times as text that CSV and NDJSON hold: 2024-05-01 08:00:00.123456."""
    at = pyarrow.compute.cast(table["at"].cast(pa.timestamp("us")), pa.string())
    return table.set_column(3, "at", at)


def write_csv(path, table):
    duckdb.from_arrow(as_text(table)).write_csv(str(path), header=False)


def write_big_csv(path, table):
    """The rows over and over, under new ids: 2 GB."""
    piece = path.with_suffix(".piece")
    with open(path, "wb") as whole:
        for n in range(BIG // ROWS):
            ids = pyarrow.compute.add(table["id"], n * ROWS)
            write_csv(piece, table.set_column(0, "id", ids))
            whole.write(piece.read_bytes())
    piece.unlink()


def write_ndjson(path, table):
    table = as_text(table).set_column(9, "day", table["day"].cast(pa.string()))
    with open(path, "w", encoding="utf-8") as file:
        for batch in table.to_batches(max_chunksize=20_000):
            file.writelines(json.dumps(row) + "\n" for row in batch.to_pylist())


def write_parquet(path, table):
    pyarrow.parquet.write_table(table, path, compression="zstd")


def write_repeated(path, write, times, compress=lambda data: data):
    """A piece of text over and over: what counts is the size."""
    write(path, rows(0, ROWS, 0))
    piece = compress(path.read_bytes())
    with open(path, "wb") as whole:
        for _ in range(times):
            whole.write(piece)


def write_huge_parquet(path, _):
    table = pa.concat_tables([rows(n * ROWS, ROWS, n) for n in range(5)])
    with pyarrow.parquet.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(HUGE["parquet"] // 5):
            writer.write_table(table)


# Pieces of 200,000 rows that make 4 GB of text, or of compressed Parquet.
HUGE = {"csv": 150, "ndjson": 82, "parquet": 570}

# name: (files, rows a file, writer, FILE_FORMAT)
SETS = {
    "csv": (8, ROWS, write_csv, "(TYPE = CSV)"),
    "ndjson": (4, ROWS, write_ndjson, "(TYPE = NDJSON)"),
    "parquet": (8, ROWS, write_parquet, "(TYPE = PARQUET)"),
    "small": (1_000, 100, write_csv, "(TYPE = CSV)"),
    "big": (1, BIG, write_big_csv, "(TYPE = CSV)"),
    "many": (20_000, 1, write_csv, "(TYPE = CSV)"),
    "huge-csv": (
        1, HUGE["csv"] * ROWS, lambda path, _: write_repeated(path, write_csv, HUGE["csv"]), "(TYPE = CSV)",
    ),
    "huge-ndjson": (
        1, HUGE["ndjson"] * ROWS, lambda path, _: write_repeated(path, write_ndjson, HUGE["ndjson"]),
        "(TYPE = NDJSON)",
    ),
    "huge-gzip": (
        1, HUGE["ndjson"] * ROWS,
        lambda path, _: write_repeated(path, write_ndjson, HUGE["ndjson"], gzip.compress),
        "(TYPE = NDJSON COMPRESSION = GZIP)",
    ),
    "huge-parquet": (1, HUGE["parquet"] * ROWS, write_huge_parquet, "(TYPE = PARQUET)"),
}
DEFAULT = ["csv", "ndjson", "parquet", "small"]


def extension_of(name):
    return re.search(r"TYPE = (\w+)", SETS[name][3])[1].lower()


def prepare(folder, name):
    """The set's folder, written whole or not at all."""
    target = folder / name
    if not target.is_dir():
        count, size, write, _ = SETS[name]
        print(f"writing {target} …", flush=True)
        partial = folder / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for n in range(count):
            write(partial / f"{name}-{n:05}.{extension_of(name)}", rows(n * size, min(size, ROWS), n))
        partial.rename(target)
    for path in target.iterdir():
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass
    return target


def peak_memory(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def load(folder, name):
    """(seconds, rows, peak of resident memory, seconds of the same COPY again) on a fresh server."""
    with tempfile.TemporaryDirectory(prefix="stevedore-benchmark-") as temporary:
        with Server(Path(temporary) / "data", allow_fs=[folder]) as server, server.connect() as connection:
            run(connection, TABLE.format(name="t"))
            run(connection, f"CREATE STAGE s URL = 'fs://{folder}/' FILE_FORMAT = {SETS[name][3]}")
            started = time.monotonic()
            report = run(connection, "COPY INTO t FROM @s")
            elapsed = time.monotonic() - started
            [count] = run(connection, "SELECT count(*) AS n FROM t")
            expected = SETS[name][0] * SETS[name][1]
            if count["n"] != expected or sum(row["Rows_loaded"] for row in report) != expected:
                raise SystemExit(f"{name}: expected {expected} rows, the table has {count['n']}")
            started = time.monotonic()
            if again := run(connection, "COPY INTO t FROM @s"):
                raise SystemExit(f"{name}: loaded again: {again[:3]}")
            return elapsed, expected, peak_memory(server), time.monotonic() - started


def load_by_peer(python, peer, folder, name):
    """Seconds that another engine takes."""
    script = Path(__file__).resolve().with_name("load_peers.py")
    # Some engines leave files where they are started.
    with tempfile.TemporaryDirectory(prefix="stevedore-peers-") as started_in:
        command = [os.path.abspath(python), str(script), peer, str(folder), extension_of(name)]
        ran = subprocess.run(command, cwd=started_in, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if ran.returncode != 0:
        raise SystemExit(f"{peer} failed to load {name}: {ran.stderr.strip()[-500:]}")
    seconds, count = ran.stdout.split()[-2:]
    if int(count) != SETS[name][0] * SETS[name][1]:
        raise SystemExit(f"{peer} loaded {count} rows of {name}")
    return float(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"any of {', '.join(SETS)}; {', '.join(DEFAULT)} by default")
    parser.add_argument("--runs", type=int, default=3, help="loads of each set by each engine; 3 by default")
    parser.add_argument("--peers", nargs="+", choices=["chdb", "databend", "duckdb", "polars"], default=[])
    parser.add_argument("--peers-python", default=sys.executable, help="the Python that has the peers; this one by default")
    arguments = parser.parse_args()
    chosen = arguments.sets or DEFAULT
    if unknown := set(chosen) - set(SETS):
        parser.error(f"unknown sets: {', '.join(sorted(unknown))}")
    cache = Path(os.environ.get("STEVEDORE_BENCHMARK_DIR", Path.home() / ".cache" / "stevedore-benchmark"))
    print(f"{'set':<9} {'engine':<9} {'seconds':>8} {'MB/s':>7} {'rows/s':>10} {'again s':>8} {'peak MB':>8}")
    for name in chosen:
        folder = prepare(cache, name).resolve()
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        runs, peers = [], {peer: [] for peer in arguments.peers}
        for _ in range(arguments.runs):
            runs.append(load(folder, name))
            for peer, times in peers.items():
                times.append(load_by_peer(arguments.peers_python, peer, folder, name))
        count = runs[0][1]

        def line(engine, seconds, rest=""):
            figures = f"{seconds:>8.2f} {megabytes / seconds:>7.1f} {count / seconds:>10.0f}"
            print(f"{name:<9} {engine:<9} {figures}{rest}", flush=True)

        again, peak = statistics.median(run[3] for run in runs), max(run[2] for run in runs) / 1e6
        line("stevedore", statistics.median(run[0] for run in runs), f" {again:>8.2f} {peak:>8.0f}")
        for peer, times in peers.items():
            line(peer, statistics.median(times))


if __name__ == "__main__":
    main()
