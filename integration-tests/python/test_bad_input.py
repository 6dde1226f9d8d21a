"""Bad files of every kind (`bad_files.py`): a clear error or the right rows, within the memory, and the server lives.

    STEVEDORE_BAD_INPUT_SCALE   1 (default); 13 makes the field of 1 GiB, the bombs of 4 GiB, files of 100,000 columns
    STEVEDORE_BAD_INPUT_SEED    the seed of the random damage (default: the day), printed with each failure
    STEVEDORE_BAD_INPUT_ONLY    the name of one file, or its beginning

Each file is loaded beside a good one, with ON_ERROR = CONTINUE and with ABORT, previewed, and asked for its schema.
"""

import datetime
import os
import re
import time

import adbc_driver_manager
import pytest

import bad_files
from stevedore_server import Server, run

SCALE = int(os.environ.get("STEVEDORE_BAD_INPUT_SCALE", "1"))
SEED = os.environ.get("STEVEDORE_BAD_INPUT_SEED", datetime.date.today().isoformat())
ONLY = os.environ.get("STEVEDORE_BAD_INPUT_ONLY", "")
MIB = 1 << 20
BUDGET = 64 * MIB
# What a file may take beside the budget: two records of max_record_bytes, and batches of up to 16 MiB on each stage of
# their way (waiting, cast, encoded, sent).
ALLOWANCE = 192 * MIB
# What a value of 80 MiB takes beside that, as it is decoded, cast and encoded.
LARGE_VALUE = 3 * 80 * MIB
LARGE_VALUES = ("bomb", "lie-deflate-bomb", "lie-bzip2-bomb", "lie-bomb")
# What a process that has met all files of a kind may hold between them beside the budget: itself, its caches, and what
# the allocator keeps of the largest values that it has seen.
KEPT = 512 * MIB
# What a user should never read.
NOT_FOR_USERS = re.compile(
    r"internal|panick|unwrap\(\)|(?<!dictionary )index out of bounds|out of range for slice|assertion|attempt to \w+ with overflow"
    r"|capacity overflow|\.rs\b|not a char boundary|RecvError|SendError",
    re.IGNORECASE,
)
TOLD = 12
# A load that takes longer hangs, for all a user knows.
SECONDS = 100


@pytest.fixture
def budgeted(tmp_path_factory, folder):
    data_dir = tmp_path_factory.mktemp("budgeted") / "data"
    with Server(data_dir, allow_fs=[folder], arguments=["--memory-budget", str(BUDGET)]) as server:
        yield server


def memory(server, field):
    with open(f"/proc/{server.process.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def forget_peak(server):
    """What is resident from now on; the peak begins there."""
    with open(f"/proc/{server.process.pid}/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    return memory(server, "VmRSS")


def readable(text):
    if NOT_FOR_USERS.search(text):
        pytest.fail(f"not for users: {text:.600}")
    assert len(text) < 3000, f"an error of {len(text)} characters: {text:.300}"


def outcome(connection, sql):
    """Rows, or the text of the error."""
    try:
        return run(connection, sql), None
    except adbc_driver_manager.Error as error:
        # The driver says INTERNAL where it has no word for the server's status.
        return None, re.sub(r"^[A-Z_]+: \[FlightSQL\] ", "", str(error))


def load_beside_a_good_file(server, connection, bad, beside):
    """Loads and previews a bad file; what it took of memory."""
    def count():
        return run(connection, "SELECT count(*) AS n FROM t")[0]["n"]

    started = time.monotonic()
    before = forget_peak(server)
    assert before < BUDGET + KEPT, f"{before // MIB} MiB of memory between files"
    files = f"FILES = ('{bad.path.name}', '{beside.name}') FILE_FORMAT = {bad.format}"
    run(connection, "TRUNCATE TABLE t")
    rows, error = outcome(connection, f"COPY INTO t FROM @bad {files} ON_ERROR = CONTINUE")
    assert error is None, f"ON_ERROR = CONTINUE fails: {error:.600}"
    told = {row["File"]: row for row in rows}
    good = told.pop(beside.name)
    assert (good["Rows_loaded"], good["Errors_seen"]) == (bad_files.ROWS, 0), f"the good file: {good}"
    row = told.pop(bad.path.name, None)
    if bad.expect == "empty":
        assert row is None, f"{row}"
    elif bad.expect != "either" or row:
        assert row, "no row tells of the file"
    loaded, errors = (row["Rows_loaded"], row["Errors_seen"]) if row else (0, 0)
    if errors:
        readable(row["First_error"])
    assert bad.expect != "error" or errors, f"no error, {loaded} rows"
    assert bad.expect != "rows" or (loaded, errors) == (bad_files.ROWS, 0), f"{row}"
    assert count() == bad_files.ROWS + loaded, f"the table has {count()} rows"
    if "truncated" in bad.name or "without" in bad.name:
        seen = run(connection, "SELECT id, name, amount, note FROM t WHERE id < 1000000 ORDER BY id")
        # Of text, the last row may have lost its end.
        kept = seen[:-1] if bad.kind in bad_files.TEXT else seen
        assert all(row == bad_files.GOOD[row["id"]] for row in kept), "other rows than the file's"

    run(connection, "TRUNCATE TABLE t")
    rows, error = outcome(connection, f"COPY INTO t FROM @bad {files} ON_ERROR = ABORT")
    if errors:
        assert error, f"ON_ERROR = ABORT answers {rows}"
        readable(error)
        assert bad.path.name in error, f"the error does not name the file: {error:.300}"
        assert count() == 0, "an aborted load left rows"
    else:
        assert error is None, f"ON_ERROR = ABORT fails: {error:.600}"
        assert count() == bad_files.ROWS + loaded

    fields = "$1, $2" if bad.kind in ("csv", "tsv") else "*"
    kind = bad.kind
    # No decoder knows the name of its file: this condition is the engine's.
    for what, condition in ((fields, ""), (fields, "WHERE metadata$filename <> ''"), ("count(*)", "")):
        preview = f"SELECT {what} FROM @bad/{bad.path.name} (FILE_FORMAT => '{kind}') {condition} LIMIT 500"
        _, error = outcome(connection, preview)
        if error:
            readable(error)
            # A value that is larger than an answer may be.
            assert bad.path.name in error or "message length too large" in error, f"the preview's error does not name the file: {error:.300}"
    looks = [f"infer_schema(location => '@bad/{bad.path.name}', file_format => '{kind}')"]
    looks += [f"inspect_parquet('@bad/{bad.path.name}')"] if kind == "parquet" else []
    for look in looks:
        _, error = outcome(connection, f"SELECT * FROM {look}")
        if error:
            readable(error)
            assert bad.path.name in error, f"the error of {look} does not name the file: {error:.300}"
    assert run(connection, "SELECT 1 AS one") == [{"one": 1}]
    seconds = time.monotonic() - started
    assert seconds < SECONDS * SCALE, f"it took {seconds:.0f} seconds"
    return memory_taken(server, before, bad.path.name), before


def memory_taken(server, before, name):
    used = memory(server, "VmHWM") - before
    allowed = BUDGET + ALLOWANCE + (LARGE_VALUE if name.startswith(LARGE_VALUES) else 0)
    assert used < allowed, f"{used // MIB} MiB of memory, {allowed // MIB} may be"
    return used


@pytest.mark.parametrize("kind", list(bad_files.FORMATS))
def test_bad_files_end_in_an_error_or_in_rows(budgeted, tmp_path, folder, kind):
    path = folder / f"bad_{kind}"
    path.mkdir()
    failures, count, most, kept = [], 0, 0, 0
    with budgeted.connect() as connection:
        run(connection, f"CREATE DATABASE bad_{kind}")
        run(connection, f"USE bad_{kind}")
        run(connection, f"CREATE OR REPLACE STAGE bad URL = 'fs://{path}/'")
        run(connection, f"CREATE TABLE t ({bad_files.COLUMNS})")
        beside = path / f"good.{kind}"
        rows = [{**row, "id": row["id"] + 1_000_000} for row in bad_files.GOOD]
        beside.write_bytes(bad_files.good(kind, rows))
        for bad in bad_files.bad_files(path, kind, SEED, SCALE):
            if not bad.path.stem.startswith(ONLY):
                continue
            count += 1
            try:
                taken, before = load_beside_a_good_file(budgeted, connection, bad, beside)
                most, kept = max(most, taken), max(kept, before)
            except (AssertionError, pytest.fail.Exception, adbc_driver_manager.Error) as error:
                failures.append(f"{bad.path.name}: {str(error).partition(chr(10) + 'assert')[0]:.900}")
                if budgeted.process.poll() is not None:
                    pytest.fail(f"{bad.path.name} ended the server:\n{budgeted.log_text()}")
            else:
                bad.path.unlink()
    print(f"{kind}: {count} files, at most {most // MIB} MiB, {kept // MIB} MiB between them")
    assert not failures, (
        f"{len(failures)} of {count} bad files (STEVEDORE_BAD_INPUT_SEED={SEED}):\n\n" + "\n\n".join(failures[:TOLD])
    )


# A few bytes of text that are a row of any table.
ROWS = {"ndjson": b"{}\n", "tsv": b"\n", "csv": b"1\n"}
SHORT = {"json": "MISSING_FIELD_AS = FIELD_DEFAULT", "ndjson": "MISSING_FIELD_AS = FIELD_DEFAULT"}


@pytest.mark.parametrize("name", ["rows.ndjson", "rows.ndjson.gz", "rows.json", "rows.tsv", "rows.csv", "rows.csv.gz"])
def test_short_rows_of_a_wide_table_take_no_more_memory_than_others(budgeted, folder, name):
    path = folder / f"short_{name}"
    path.mkdir()
    kind, rows, columns = name.split(".")[1], 60_000 * SCALE, 1000
    data = b"[" + b",".join([b"{}"] * rows) + b"]" if kind == "json" else ROWS[kind] * rows
    (path / name).write_bytes(bad_files.COMPRESSED[".gz"](data) if name.endswith(".gz") else data)
    options = SHORT.get(kind, "ERROR_ON_COLUMN_COUNT_MISMATCH = FALSE")
    with budgeted.connect() as connection:
        database = path.name.replace(".", "_")
        run(connection, f"CREATE DATABASE {database}")
        run(connection, f"USE {database}")
        run(connection, f"CREATE STAGE bad URL = 'fs://{path}/'")
        run(connection, f"CREATE TABLE t ({', '.join(f'c{n} BIGINT' for n in range(columns))})")
        before = forget_peak(budgeted)
        [told] = run(connection, f"COPY INTO t FROM @bad FILE_FORMAT = (TYPE = {kind} {options})")
        assert (told["Rows_loaded"], told["Errors_seen"]) == (rows, 0), f"{told}"
        print(f"{name}: {memory_taken(budgeted, before, name) // MIB} MiB")
        assert run(connection, "SELECT count(*) AS n, count(c999) AS values FROM t") == [{"n": rows, "values": 0}]
