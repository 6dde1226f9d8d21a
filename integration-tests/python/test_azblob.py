"""Stages on Azure Blob Storage: Azurite, Microsoft's emulator, which checks signatures."""

import base64
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient

import sample_rows
from stevedore_server import error_of, free_port, run, send_presigned

CONTAINER = "road-tests"
ACCOUNT = "stevedore"
KEY = base64.b64encode(b"the key of an account in tests, of 64 bytes, as Azure has them..").decode()
READY_WITHIN_SECONDS = 60


def azurite():
    path = Path(os.environ.get("STEVEDORE_NODE_MODULES", "")) / "node_modules/.bin/azurite-blob"
    if not path.exists():
        raise RuntimeError("set STEVEDORE_NODE_MODULES to a folder with azurite (integration-tests/python/run does)")
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    port = free_port()
    folder = tmp_path_factory.mktemp("azurite")
    endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
    command = [
        azurite(), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--silent",
        "--skipApiVersionCheck", "--disableTelemetry",
    ]
    with open(folder / "log", "wb") as log:
        environment = dict(os.environ, AZURITE_ACCOUNTS=f"{ACCOUNT}:{KEY}")
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while True:
            try:
                urllib.request.urlopen(endpoint, timeout=5)
            except urllib.error.HTTPError:
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
        service = BlobServiceClient(endpoint, credential={"account_name": ACCOUNT, "account_key": KEY})
        service.create_container(CONTAINER)
        yield Container(endpoint, service.get_container_client(CONTAINER))
    finally:
        process.terminate()
        process.wait(30)


class Container:
    def __init__(self, endpoint, client):
        self.endpoint, self.client = endpoint, client

    def put(self, name, content):
        self.client.upload_blob(name, content, overwrite=True)

    def names(self, prefix):
        return sorted(self.client.list_blob_names(name_starts_with=prefix))

    def connection_options(self, key=KEY):
        return f"ENDPOINT_URL = '{self.endpoint}' ACCOUNT_NAME = '{ACCOUNT}' ACCOUNT_KEY = '{key}'"


@pytest.fixture
def prefix(request):
    """A folder of the test's own in the container."""
    return request.node.name


@pytest.fixture
def stage(connection, database, store, prefix):
    run(connection, f"CREATE CONNECTION {database} STORAGE_TYPE = 'azblob' {store.connection_options()}")
    run(
        connection,
        f"CREATE STAGE {database} URL = 'azblob://{CONTAINER}/{prefix}/' CONNECTION = (CONNECTION_NAME = '{database}')",
    )
    return database


def test_files_are_listed_previewed_and_loaded_once(connection, store, prefix, stage, tmp_path):
    for n in range(3):
        sample_rows.write_parquet(tmp_path / "x.parquet", sample_rows.rows(20))
        store.put(f"{prefix}/day=1/part {n} %41.parquet", (tmp_path / "x.parquet").read_bytes())
    store.put(f"{prefix}/day=1/notes.txt", b"not for loading")
    listed = run(connection, f"LIST @{stage}/day=1/ PATTERN = '.*[.]parquet'")
    assert [row["name"] for row in listed] == [f"day=1/part {n} %41.parquet" for n in range(3)]
    assert all(row["size"] > 0 and row["md5"] for row in listed)
    assert [row["name"] for row in run(connection, f"LIST '@{stage}/day=1/part 1'")] == ["day=1/part 1 %41.parquet"]
    previewed = run(connection, f"SELECT id, name FROM @{stage}/day=1/ (PATTERN => '.* 0 .*') ORDER BY id LIMIT 2")
    assert [row["id"] for row in previewed] == [1, 2]

    run(connection, "CREATE TABLE t (id BIGINT, price DECIMAL(12, 2))")
    copy = f"COPY INTO t FROM @{stage}/day=1/ PATTERN = '.*[.]parquet' FILE_FORMAT = (TYPE = PARQUET)"
    assert [row["Rows_loaded"] for row in run(connection, copy)] == [20, 20, 20]
    assert run(connection, copy) == []
    assert run(connection, "SELECT count(*) AS n, sum(id) AS s FROM t") == [{"n": 60, "s": 630}]


def test_files_are_purged_and_removed(connection, store, prefix, stage):
    for name in ("a.csv", "b.csv", "c.txt", "d.log"):
        store.put(f"{prefix}/{name}", b"1\n")
    run(connection, "CREATE TABLE t (id INT)")
    run(connection, f"COPY INTO t FROM @{stage} PATTERN = 'a[.]csv' FILE_FORMAT = (TYPE = CSV) PURGE = TRUE")
    assert run(connection, "SELECT id FROM t") == [{"id": 1}]
    assert store.names(prefix) == [f"{prefix}/b.csv", f"{prefix}/c.txt", f"{prefix}/d.log"]
    run(connection, f"REMOVE @{stage} PATTERN = '.*[.](csv|log)'")
    assert store.names(prefix) == [f"{prefix}/c.txt"]


def test_a_changed_file_is_another_version(connection, store, prefix, stage):
    run(connection, "CREATE TABLE t (id INT)")
    copy = f"COPY INTO t FROM @{stage} FILE_FORMAT = (TYPE = CSV)"
    store.put(f"{prefix}/a.csv", b"1\n")
    first = run(connection, f"LIST @{stage}")
    run(connection, copy)
    store.put(f"{prefix}/a.csv", b"2\n")
    assert run(connection, f"LIST @{stage}")[0]["md5"] != first[0]["md5"]
    run(connection, copy + " FORCE = TRUE")
    assert run(connection, "SELECT id FROM t ORDER BY id") == [{"id": 1}, {"id": 2}]


def test_wrong_keys_are_named_as_such_and_not_shown(connection, database, store, prefix):
    store.put(f"{prefix}/a.csv", b"1\n")
    wrong = base64.b64encode(b"another key").decode()
    error = error_of(connection, f"LIST 'azblob://{CONTAINER}/{prefix}/' CONNECTION = ({store.connection_options(wrong)})")
    assert CONTAINER in error and "refused" in error and "ACCOUNT_KEY" in error and wrong not in error, error
    error = error_of(connection, f"LIST 'azblob://{CONTAINER}/' CONNECTION = ({store.connection_options('no base64!')})")
    assert "ACCOUNT_KEY" in error and "no base64!" not in error, error
    error = error_of(connection, f"LIST 'azblob://no-such-container/' CONNECTION = ({store.connection_options()})")
    assert "no-such-container" in error and "does not exist" in error, error


def test_secrets_are_never_shown(connection, store, stage):
    for statement in ("SHOW CONNECTIONS", f"DESC CONNECTION {stage}", "SHOW STAGES", f"DESC STAGE {stage}"):
        assert KEY not in repr(run(connection, statement)), statement


def test_presigned_urls_upload_and_download_without_the_cluster(connection, store, prefix, stage):
    put = run(connection, f"PRESIGN UPLOAD @{stage}/new/a.csv EXPIRE = 60 CONTENT_TYPE = 'text/csv'")[0]
    send_presigned(put, b"1\n2\n")
    assert [row["name"] for row in run(connection, f"LIST @{stage}")] == ["new/a.csv"]
    get = run(connection, f"PRESIGN @{stage}/new/a.csv EXPIRE = 60")[0]
    assert send_presigned(get) == b"1\n2\n"
    run(connection, "CREATE TABLE t (id INT)")
    report = run(connection, f"COPY INTO t FROM @{stage} FILE_FORMAT = (TYPE = CSV)")
    assert [(row["File"], row["Rows_loaded"]) for row in report] == [("new/a.csv", 2)]
    # A URL is for one thing with one file.
    for url in (put["url"].replace("a.csv", "b.csv"), get["url"].replace("a.csv", "b.csv")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            send_presigned(dict(put, url=url), b"3\n")
        assert refused.value.code == 403
    assert [row["name"] for row in run(connection, f"LIST @{stage}")] == ["new/a.csv"]


def test_the_scripts_of_the_dialect_run_over_a_container(store):
    """The sqllogictest files that have stages, as cargo's tests run them over local files and S3."""
    environment = dict(
        os.environ, STEVEDORE_AZURE_ENDPOINT=store.endpoint, STEVEDORE_AZURE_ACCOUNT=ACCOUNT,
        STEVEDORE_AZURE_KEY=KEY, STEVEDORE_AZURE_CONTAINER=CONTAINER,
    )
    # As the workspace's tests are built: another choice of packages would build them anew.
    command = ["cargo", "test", "--workspace", "--test", "sql", "--", "--ignored", "over_azure"]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-20_000:] + result.stderr[-5_000:]
    assert "1 passed" in result.stdout, result.stdout
