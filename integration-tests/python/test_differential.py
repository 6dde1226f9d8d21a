"""Random tables in random files, loaded by us and read by others: both must see the same rows.

    STEVEDORE_DIFFERENTIAL_CASES   cases for each format (default 12; thousands are worth an evening)
    STEVEDORE_DIFFERENTIAL_SEED    the seed (default: the day), printed with each failure
    STEVEDORE_DIFFERENTIAL_CASE    one case alone

A case is a table of random types, one to three files of random rows under random options (`random_files.py`),
one COPY. What the rows are is told by an independent reader of the files (pyarrow, fastavro; for CSV DuckDB
checks what the writer meant, for NDJSON Python), and by the dialect where the files alone do not tell (NULLs,
defaults, casts, what is an error). What we made of them is read by PyIceberg or DuckDB from the data files.
Compared are rows, counts of errors, and the line of the first one.

Deliberate differences from those readers, which the expectations here follow:
- CSV: an empty field is what EMPTY_FIELD_AS and QUOTED_EMPTY_FIELD_AS say; to DuckDB it is ''.
- Fractions finer than a microsecond are cut, towards the past.
- VARIANT is compared by what the JSON means.
- ORC: timestamps whose nanoseconds are below 0, which pyarrow writes before 1970 against the specification, are an
  error; and so are version 0.11 files whose neighbouring integers are more than 63 bits apart.
- A mark of byte order is skipped where the WHATWG standard knows one: UTF-8 and UTF-16.
"""

import datetime
import math
import os
import random
import shutil
import traceback

import duckdb
import pytest
from pyiceberg.table import StaticTable

from random_columns import Tuple, descendants
from random_files import WRITERS, Unwritable, options_sql, plain_rows, random_rows, random_table
from stevedore_server import run

CASES = int(os.environ.get("STEVEDORE_DIFFERENTIAL_CASES", "12"))
SEED = os.environ.get("STEVEDORE_DIFFERENTIAL_SEED", datetime.date.today().isoformat())
ONLY = os.environ.get("STEVEDORE_DIFFERENTIAL_CASE")
# Failures that are told in full.
TOLD = 5


def same(wanted, seen):
    """Equality where NaN is itself and the sign of zero counts."""
    if isinstance(wanted, float) and isinstance(seen, float):
        if math.isnan(wanted) or math.isnan(seen):
            return math.isnan(wanted) and math.isnan(seen)
        return wanted == seen and math.copysign(1, wanted) == math.copysign(1, seen)
    if isinstance(wanted, (list, tuple)) and isinstance(seen, (list, tuple)):
        return len(wanted) == len(seen) and all(same(a, b) for a, b in zip(wanted, seen))
    if isinstance(wanted, dict) and isinstance(seen, dict):
        return wanted.keys() == seen.keys() and all(same(value, seen[key]) for key, value in wanted.items())
    return type(wanted) is type(seen) and wanted == seen


def read_back(server, random, database, table, columns):
    """The table's rows as another engine sees them, by `id`."""
    opened = StaticTable.from_metadata(server.newest_metadata(database, table))
    all_columns = [inner for column in columns for inner in [column.column, *descendants(column.column)]]
    # PyIceberg makes empty ones of lists and maps of tuples that are NULL.
    if not any(isinstance(column, Tuple) for column in all_columns) and random.random() < 0.5:
        read = opened.scan().to_arrow()
    else:
        paths = [task.file.file_path.removeprefix("file://") for task in opened.scan().plan_files()]
        if not paths:
            return []
        with duckdb.connect() as engine:
            read = engine.read_parquet(paths).to_arrow_table()
    rows = plain_rows(read)
    for row in rows:
        for column in columns:
            if row[column.name] is not None:
                row[column.name] = column.column.seen(row[column.name])
    return sorted(rows, key=lambda row: row["id"])


def run_case(server, connection, database, stage, folder, kind, number):
    chosen = random.Random(f"{SEED}/{kind}/{number}")
    writer = WRITERS[kind](chosen)
    columns = random_table(chosen, writer.fits, writer.alphabet)
    counts = [chosen.choice([0, 1, 2, 10, 50, 200]) for _ in range(chosen.randint(1, 3))]
    batches = [random_rows(chosen, columns, n * 1000, count) for n, count in enumerate(counts)]
    folder.mkdir()
    try:
        files = writer.write(folder, columns, batches)
    except Unwritable:
        return

    table = f"{kind}_{number}".lower()
    order = columns[:1] + chosen.sample(columns[1:], len(columns) - 1) if kind not in ("CSV", "TSV") else columns
    run(connection, f"CREATE TABLE {table} ({', '.join(column.sql() for column in order)})")
    source = f"@{stage}/{folder.name}/"
    if kind not in ("CSV", "TSV", "NDJSON") and not writer.missing and chosen.random() < 0.25:
        # A transform reads the columns under their names in the file.
        names = ", ".join(f'"{writer.stored_name[column.name]}"' for column in order)
        source = f"(SELECT {names} FROM {source})"
    bad = any(row is None for file in files for row in file.rows)
    on_error = "CONTINUE" if bad else chosen.choice(["ABORT", "CONTINUE"])
    copy = f"COPY INTO {table} FROM {source} FILE_FORMAT = {options_sql(kind, writer.options)} ON_ERROR = {on_error}"
    try:
        report = run(connection, copy)
        told = {os.path.basename(row["File"]): row for row in report}
        for file in files:
            wanted_rows = [row for row in file.rows if row is not None]
            row = told.get(file.path.name)
            if row is None:
                assert not file.rows, f"{file.path.name} is not in the answer"
                continue
            counted = (row["Rows_loaded"], row["Errors_seen"])
            wanted = (len(wanted_rows), len(file.rows) - len(wanted_rows))
            assert counted == wanted, f"{file.path.name}: (rows, errors) {counted}, not {wanted}: {row['First_error']}"
            assert row["First_error_line"] == file.first_bad(), f"{row}: the first error is in line {file.first_bad()}"
        wanted = sorted((row for file in files for row in file.rows if row is not None), key=lambda row: row["id"])
        seen = read_back(server, chosen, database, table, columns) if wanted else []
        assert [row["id"] for row in seen] == [row["id"] for row in wanted]
        for ours, theirs in zip(seen, wanted):
            for column in columns:
                value, expected = ours[column.name], theirs[column.name]
                assert same(expected, value), (
                    f"row {ours['id']}, column {column.sql()}: {value!r:.300}, not {expected!r:.300}"
                )
    except Exception as error:
        raise AssertionError(f"case {number}, files {folder}\n{copy}\n{error}") from error
    run(connection, f"DROP TABLE {table}")
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", list(WRITERS))
def test_others_see_the_same_rows(server, connection, database, files, kind):
    folder = (files / "marker").parent
    numbers = [int(ONLY)] if ONLY else range(CASES)
    failures = []
    for number in numbers:
        try:
            run_case(server, connection, database, files.stage, folder / f"case_{number}", kind, number)
        except Exception:
            failures.append(traceback.format_exc(limit=-1))
    assert not failures, (
        f"{len(failures)} of {len(numbers)} cases differ (STEVEDORE_DIFFERENTIAL_SEED={SEED}):\n\n" + "\n\n".join(failures[:TOLD])
    )
