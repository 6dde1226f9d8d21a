"""Stages on Google Cloud Storage: its XML API, and tokens that a service account signs."""

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

import sample_rows
from fake_gcs import FakeGcs
from stevedore_server import error_of, run

BUCKET = "road-tests"


@pytest.fixture
def store():
    with FakeGcs(BUCKET) as store:
        yield store


@pytest.fixture
def stage(connection, database, store):
    options = f"ENDPOINT_URL = '{store.endpoint}' CREDENTIAL = '{store.credential()}'"
    run(connection, f"CREATE CONNECTION {database} STORAGE_TYPE = 'gcs' {options}")
    run(connection, f"CREATE STAGE {database} URL = 'gcs://{BUCKET}/in/' CONNECTION = (CONNECTION_NAME = '{database}')")
    return database


def test_files_are_listed_loaded_once_and_removed(connection, store, stage, tmp_path):
    for n in range(5):
        store.put(f"in/day=1/part {n}.csv", f"{n},x\n".encode())
    store.put("in/day=1/notes.txt", b"not for loading")
    store.put("elsewhere/part.csv", b"9,x\n")
    listed = run(connection, f"LIST @{stage}/day=1/ PATTERN = '.*[.]csv'")
    assert [(row["name"], row["size"]) for row in listed] == [(f"day=1/part {n}.csv", 4) for n in range(5)]
    run(connection, "CREATE TABLE t (id BIGINT, name VARCHAR)")
    copy = f"COPY INTO t FROM @{stage} PATTERN = '.*[.]csv' FILE_FORMAT = (TYPE = CSV)"
    assert [row["Rows_loaded"] for row in run(connection, copy)] == [1] * 5
    assert run(connection, copy) == []
    # A version is known by its etag, also where a generation is.
    named = f"COPY INTO t FROM @{stage}/day=1/ FILES = ('part 0.csv') FILE_FORMAT = (TYPE = CSV)"
    assert run(connection, named) == []
    assert run(connection, "SELECT count(*) AS n, sum(id) AS s FROM t") == [{"n": 5, "s": 10}]
    run(connection, f"REMOVE @{stage} PATTERN = '.*[.]csv'")
    assert sorted(store.objects) == ["elsewhere/part.csv", "in/day=1/notes.txt"]


def test_parquet_is_read_in_ranges(connection, store, stage, tmp_path):
    sample_rows.write_parquet(tmp_path / "x.parquet", sample_rows.rows(20))
    store.put("in/x.parquet", (tmp_path / "x.parquet").read_bytes())
    assert [row["id"] for row in run(connection, f"SELECT id FROM @{stage}/x.parquet ORDER BY id LIMIT 2")] == [1, 2]


def test_a_key_that_google_does_not_know_is_refused_and_not_shown(connection, database, store):
    stranger = store.credential(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    options = f"ENDPOINT_URL = '{store.endpoint}' CREDENTIAL = '{stranger}'"
    error = error_of(connection, f"LIST 'gcs://{BUCKET}/in/' CONNECTION = ({options})")
    assert BUCKET in error and "refused" in error and "CREDENTIAL" in error, error
    assert stranger[:40] not in error
    error = error_of(connection, f"LIST 'gcs://{BUCKET}/in/' CONNECTION = (ENDPOINT_URL = '{store.endpoint}')")
    assert "refused" in error, error


def test_what_does_not_exist_is_named(connection, store, stage):
    options = f"ENDPOINT_URL = '{store.endpoint}' CREDENTIAL = '{store.credential()}'"
    error = error_of(connection, f"LIST 'gcs://no-such-bucket/' CONNECTION = ({options})")
    assert "no-such-bucket" in error and "does not exist" in error, error
    run(connection, "CREATE TABLE t (id BIGINT)")
    error = error_of(connection, f"COPY INTO t FROM @{stage} FILES = ('none.csv') FILE_FORMAT = (TYPE = CSV)")
    assert "none.csv" in error, error


def test_secrets_are_never_shown(connection, store, stage):
    for statement in ("SHOW CONNECTIONS", f"DESC CONNECTION {stage}", "SHOW STAGES", f"DESC STAGE {stage}"):
        assert store.credential()[:40] not in repr(run(connection, statement)), statement
