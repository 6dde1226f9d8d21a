"""A `stevedore local` process on loopback ports, and connections to it."""

import json
import os
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import adbc_driver_flightsql.dbapi
import adbc_driver_manager

READY_WITHIN_SECONDS = 60
STOPPED_WITHIN_SECONDS = 30
CALL_WITHIN_SECONDS = "120"
CLIENT_OPTIONS = {
    "adbc.flight.sql.rpc.with_cookie_middleware": "true",
    # A call that hangs fails its test.
    "adbc.flight.sql.rpc.timeout_seconds.fetch": CALL_WITHIN_SECONDS,
    "adbc.flight.sql.rpc.timeout_seconds.query": CALL_WITHIN_SECONDS,
    "adbc.flight.sql.rpc.timeout_seconds.update": CALL_WITHIN_SECONDS,
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def binary():
    path = os.environ.get("STEVEDORE_BIN")
    if not path or not os.access(path, os.X_OK):
        raise RuntimeError("set STEVEDORE_BIN to the stevedore binary (integration-tests/python/run does)")
    return path


class Server:
    """Runs from entering a `with` block until leaving it."""

    def __init__(self, data_dir, allow_fs=(), allow_private_network=False, arguments=(), environment=None):
        self.environment = {**os.environ, **(environment or {})}
        self.data_dir = Path(data_dir)
        self.port, self.http_port = free_port(), free_port()
        self.log = self.data_dir.with_name(self.data_dir.name + ".log")
        self.command = [
            binary(), "local", "--data-dir", str(self.data_dir),
            "--listen", f"127.0.0.1:{self.port}", "--http", f"127.0.0.1:{self.http_port}",
        ]
        for folder in allow_fs:
            self.command += ["--allow-fs", str(folder)]
        if allow_private_network:
            self.command.append("--allow-private-network")
        self.command += list(arguments)
        self.process = None

    @property
    def address(self):
        return f"grpc://127.0.0.1:{self.port}"

    def __enter__(self):
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment
            )
        ready = threading.Event()

        def watch():
            for line in self.process.stdout:
                if "is ready" in line:
                    ready.set()

        threading.Thread(target=watch, daemon=True).start()
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while not ready.wait(0.1):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the server did not start: {' '.join(self.command)}\n{self.log_text()}")
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOPPED_WITHIN_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def log_text(self):
        return self.log.read_text(errors="replace")[-8000:]

    def http(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=10) as answer:
            return answer.read().decode()

    def connect(self, options=None):
        """A connection with a session of its own: USE and SET hold for it."""
        options = CLIENT_OPTIONS | (options or {})
        return adbc_driver_flightsql.dbapi.connect(self.address, db_kwargs=options, autocommit=True)

    def sql_shell(self, *arguments):
        """Runs `stevedore sql` against this server."""
        command = [binary(), "sql", "--addr", self.address, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def newest_metadata(self, database, table):
        """The metadata file of a table's newest version, as a client of Iceberg is given it."""
        files = self.data_dir.glob(f"warehouse/{database}/{table}-*/metadata/*.metadata.json")
        newest = max(files, key=lambda path: (int(path.name.split("-")[0]), path.stat().st_mtime))
        return newest.as_uri()


def run(connection, sql, parameters=None):
    """Runs a statement and answers its rows as dicts, or an empty list for statements that give none."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        try:
            return cursor.fetch_arrow_table().to_pylist()
        except adbc_driver_manager.ProgrammingError as error:
            if "no result set" in str(error).lower() or "not executed" in str(error).lower():
                return []
            raise


def send_presigned(row, body=None):
    """Sends the request that a row of PRESIGN describes, as anybody can, and answers its body."""
    headers = json.loads(row["headers"])
    request = urllib.request.Request(row["url"], data=body, method=row["method"], headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def arrow(connection, sql, parameters=None):
    """Runs a query and answers its rows as an Arrow table."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetch_arrow_table()


def error_of(connection, sql, parameters=None):
    """Runs a statement that must fail and answers the text of the error."""
    try:
        rows = run(connection, sql, parameters)
    except adbc_driver_manager.Error as error:
        return str(error)
    raise AssertionError(f"expected an error from: {sql}\ngot: {rows}")
