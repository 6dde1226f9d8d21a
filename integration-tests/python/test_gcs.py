"""Stages on Google Cloud Storage: its XML API, and tokens that a service account signs."""

import json
import urllib.error

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

import sample_rows
from fake_gcs import FakeGcs
from stevedore_server import error_of, run, send_presigned

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


def test_presigned_urls_upload_and_download_without_the_cluster(connection, database, store, stage):
    error = error_of(connection, f"PRESIGN @{stage}/a.csv")
    assert "not supported: PRESIGN" in error and "signed for storage.googleapis.com" in error, error
    # Signed for Google's own host, so it is sent here under that host's name.
    google = f"google_{database}"
    run(connection, f"CREATE CONNECTION {google} STORAGE_TYPE = 'gcs' CREDENTIAL = '{store.credential()}'")
    run(connection, f"CREATE STAGE {google} URL = 'gcs://{BUCKET}/in/' CONNECTION = (CONNECTION_NAME = '{google}')")
    host = "storage.googleapis.com"

    def send(row, name="a.csv", body=None):
        assert row["url"].startswith(f"https://{host}/{BUCKET}/in/a.csv?"), row
        url = row["url"].replace(f"https://{host}", store.endpoint).replace("a.csv", name)
        headers = json.dumps({"Host": host, **json.loads(row["headers"])})
        return send_presigned(dict(row, url=url, headers=headers), body)

    put = run(connection, f"PRESIGN UPLOAD @{google}/a.csv EXPIRE = 60 CONTENT_TYPE = 'text/csv'")[0]
    send(put, body=b"1\n2\n")
    assert store.objects["in/a.csv"][0] == b"1\n2\n"
    get = run(connection, f"PRESIGN @{google}/a.csv EXPIRE = 60")[0]
    assert send(get) == b"1\n2\n"
    # A URL is for one thing with one file.
    for row, name in ((put, "b.csv"), (dict(get, method="PUT"), "a.csv")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            send(row, name, b"3\n")
        assert refused.value.code == 401
    assert list(store.objects) == ["in/a.csv"]
