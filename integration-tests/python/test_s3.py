"""Stages on an S3-protocol server that checks its callers."""

import json
import threading
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from moto.server import ThreadedMotoServer

import sample_rows
from stevedore_server import Server, error_of, run

BUCKET = "road-tests"
ROLE = "arn:aws:iam::123456789012:role/loader"


class ObjectStore:
    def __init__(self, endpoint, key, secret):
        self.endpoint, self.key, self.secret = endpoint, key, secret
        self.client = boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1"
        )

    def put(self, key, body):
        self.client.put_object(Bucket=BUCKET, Key=key, Body=body)

    def keys(self):
        return sorted(o["Key"] for o in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", []))

    def connection_options(self, key=None, secret=None):
        return (
            f"ENDPOINT_URL = '{self.endpoint}' ACCESS_KEY_ID = '{key or self.key}' "
            f"SECRET_ACCESS_KEY = '{secret or self.secret}' REGION = 'us-east-1'"
        )


@pytest.fixture(scope="module")
def store():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    endpoint = f"http://127.0.0.1:{port}"
    try:
        admin = dict(endpoint_url=endpoint, aws_access_key_id="admin", aws_secret_access_key="admin")
        iam = boto3.client("iam", region_name="us-east-1", **admin)
        iam.create_user(UserName="loader")
        everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        iam.put_user_policy(
            UserName="loader", PolicyName="all",
            PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [everything]}),
        )
        key = iam.create_access_key(UserName="loader")["AccessKey"]
        # Who may do nothing but take on the role.
        iam.create_user(UserName="guest")
        only_assume = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}
        iam.put_user_policy(
            UserName="guest", PolicyName="assume",
            PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [only_assume]}),
        )
        guest = iam.create_access_key(UserName="guest")["AccessKey"]
        trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}}
        iam.create_role(
            RoleName="loader",
            AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
        )
        iam.put_role_policy(
            RoleName="loader", PolicyName="all",
            PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [everything]}),
        )
        boto3.client("s3", region_name="us-east-1", **admin).create_bucket(Bucket=BUCKET)
        # From here on every request is authenticated.
        reset = urllib.request.Request(
            f"{endpoint}/moto-api/reset-auth", data=b"0", method="POST", headers={"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(reset, timeout=10).read()
        store = ObjectStore(endpoint, key["AccessKeyId"], key["SecretAccessKey"])
        store.guest = guest["AccessKeyId"], guest["SecretAccessKey"]
        yield store
    finally:
        server.stop()


@pytest.fixture
def prefix(request, store):
    """A folder of the test's own in the bucket."""
    return request.node.name.replace("[", "-").replace("]", "")


@pytest.fixture
def stage(connection, database, store, prefix):
    run(connection, f"CREATE CONNECTION {database} STORAGE_TYPE = 's3' {store.connection_options()}")
    run(
        connection,
        f"CREATE STAGE {database} URL = 's3://{BUCKET}/{prefix}/' CONNECTION = (CONNECTION_NAME = '{database}')",
    )
    return database


def test_files_are_listed_previewed_and_loaded_once(connection, store, prefix, stage, tmp_path):
    for n in range(3):
        sample_rows.write_parquet(tmp_path / "x.parquet", sample_rows.rows(20))
        store.put(f"{prefix}/day=1/part-{n}.parquet", (tmp_path / "x.parquet").read_bytes())
    store.put(f"{prefix}/day=1/notes.txt", b"not for loading")
    listed = run(connection, f"LIST @{stage}/day=1/ PATTERN = '.*[.]parquet'")
    assert [row["name"] for row in listed] == [f"day=1/part-{n}.parquet" for n in range(3)]
    assert all(row["size"] > 0 and row["md5"] for row in listed)
    previewed = run(connection, f"SELECT id, name FROM @{stage}/day=1/part-0.parquet ORDER BY id LIMIT 2")
    assert [row["id"] for row in previewed] == [1, 2]

    run(connection, "CREATE TABLE t (id BIGINT, price DECIMAL(12, 2))")
    copy = f"COPY INTO t FROM @{stage}/day=1/ PATTERN = '.*[.]parquet' FILE_FORMAT = (TYPE = PARQUET)"
    assert [row["Rows_loaded"] for row in run(connection, copy)] == [20, 20, 20]
    assert run(connection, copy) == []
    assert run(connection, "SELECT count(*) AS n, sum(id) AS s FROM t") == [{"n": 60, "s": 630}]


def test_a_location_needs_no_stage(connection, database, store, prefix):
    store.put(f"{prefix}/a.csv", b"1,x\n2,y\n")
    run(connection, "CREATE TABLE t (id INT, name VARCHAR)")
    report = run(
        connection,
        f"COPY INTO t FROM 's3://{BUCKET}/{prefix}/' CONNECTION = ({store.connection_options()}) "
        "FILE_FORMAT = (TYPE = CSV)",
    )
    assert [(row["File"], row["Rows_loaded"]) for row in report] == [("a.csv", 2)]


def test_secrets_are_never_shown(connection, store, stage):
    for statement in ("SHOW CONNECTIONS", f"DESC CONNECTION {stage}", "SHOW STAGES", f"DESC STAGE {stage}"):
        assert store.secret not in repr(run(connection, statement)), statement


def test_wrong_credentials_are_named_as_such(connection, database, store, prefix):
    store.put(f"{prefix}/a.csv", b"1\n")
    run(connection, "CREATE TABLE t (id INT)")
    for key, secret in (("AKIAUNKNOWN000000000", store.secret), (store.key, "not-the-secret")):
        location = f"'s3://{BUCKET}/{prefix}/' CONNECTION = ({store.connection_options(key, secret)})"
        for statement in (f"COPY INTO t FROM {location} FILE_FORMAT = (TYPE = CSV)", f"LIST {location}"):
            error = error_of(connection, statement)
            assert BUCKET in error and "refused" in error and "SECRET_ACCESS_KEY" in error, error
            assert secret not in error
    assert run(connection, "SELECT count(*) AS n FROM t") == [{"n": 0}]


def test_a_bucket_that_does_not_exist_is_named(connection, store):
    error = error_of(connection, f"LIST 's3://no-such-bucket/' CONNECTION = ({store.connection_options()})")
    assert "no-such-bucket" in error and "exist" in error, error


def test_an_endpoint_that_does_not_answer_is_named(connection, store):
    options = store.connection_options().replace(store.endpoint, "http://127.0.0.1:9")
    error = error_of(connection, f"LIST 's3://{BUCKET}/' CONNECTION = ({options})")
    assert "127.0.0.1:9" in error, error


def test_a_folder_without_files_loads_nothing(connection, stage):
    run(connection, "CREATE TABLE t (id INT)")
    assert run(connection, f"LIST @{stage}") == []
    assert run(connection, f"COPY INTO t FROM @{stage} FILE_FORMAT = (TYPE = CSV)") == []


def test_loaded_files_are_purged(connection, store, prefix, stage):
    store.put(f"{prefix}/a.csv", b"1\n")
    store.put(f"{prefix}/b.txt", b"kept")
    run(connection, "CREATE TABLE t (id INT)")
    run(connection, f"COPY INTO t FROM @{stage} PATTERN = '.*[.]csv' FILE_FORMAT = (TYPE = CSV) PURGE = TRUE")
    assert run(connection, "SELECT id FROM t") == [{"id": 1}]
    assert [key for key in store.keys() if key.startswith(f"{prefix}/")] == [f"{prefix}/b.txt"]


def test_remove_deletes_files(connection, store, prefix, stage):
    for name in ("a.csv", "b.csv", "c.txt"):
        store.put(f"{prefix}/{name}", b"1\n")
    run(connection, f"REMOVE @{stage} PATTERN = '.*[.]csv'")
    assert [key for key in store.keys() if key.startswith(f"{prefix}/")] == [f"{prefix}/c.txt"]


def test_a_role_opens_what_its_user_may_not(connection, database, store, prefix):
    store.put(f"{prefix}/a.csv", b"1\n2\n")
    keys = store.connection_options(*store.guest)
    error = error_of(connection, f"LIST 's3://{BUCKET}/{prefix}/' CONNECTION = ({keys})")
    assert "refused" in error, error
    run(
        connection,
        f"CREATE CONNECTION {database} STORAGE_TYPE = 's3' {keys} ROLE_ARN = '{ROLE}' EXTERNAL_ID = 'of-a-tenant'",
    )
    assert "of-a-tenant" not in repr(run(connection, f"DESC CONNECTION {database}"))
    location = f"'s3://{BUCKET}/{prefix}/' CONNECTION = (CONNECTION_NAME = '{database}')"
    assert [row["name"] for row in run(connection, f"LIST {location}")] == ["a.csv"]
    run(connection, "CREATE TABLE t (id INT)")
    report = run(connection, f"COPY INTO t FROM {location} FILE_FORMAT = (TYPE = CSV)")
    assert [(row["File"], row["Rows_loaded"]) for row in report] == [("a.csv", 2)]


def test_a_role_that_does_not_exist_is_named(connection, store, prefix):
    keys = store.connection_options(store.guest[0], "not-the-secret")
    error = error_of(connection, f"LIST 's3://{BUCKET}/{prefix}/' CONNECTION = ({keys} ROLE_ARN = '{ROLE}')")
    assert "STS" in error and ROLE in error and "not-the-secret" not in error, error


def test_the_identity_of_the_machine_is_used_only_where_the_operator_allows_it(store, prefix, tmp_path):
    store.put(f"{prefix}/a.csv", b"1\n")
    environment = {"AWS_ACCESS_KEY_ID": store.key, "AWS_SECRET_ACCESS_KEY": store.secret}
    place = f"ENDPOINT_URL = '{store.endpoint}' REGION = 'us-east-1'"
    statement = f"LIST 's3://{BUCKET}/{prefix}/' CONNECTION = ({place})"
    options = dict(allow_private_network=True, environment=environment)
    with Server(tmp_path / "closed", **options) as server, server.connect() as connection:
        # (This server fails on requests that nobody signed, so what is read as public is not shown here.)
        error = error_of(connection, statement.replace(place, f"{place} ROLE_ARN = '{ROLE}'"))
        assert "--allow-ambient-credentials" in error, error
    options["arguments"] = ["--allow-ambient-credentials"]
    with Server(tmp_path / "open", **options) as server, server.connect() as connection:
        assert [row["name"] for row in run(connection, statement)] == ["a.csv"]
        run(connection, "CREATE TABLE t (id INT)")
        location = statement.removeprefix("LIST ").replace(place, f"{place} ROLE_ARN = '{ROLE}'")
        report = run(connection, f"COPY INTO t FROM {location} FILE_FORMAT = (TYPE = CSV)")
        assert [row["Rows_loaded"] for row in report] == [1]


TOKEN = "what-the-cluster-says-of-this-pod"
MACHINE_ROLE = "arn:aws:iam::123456789012:role/of-the-machine"
FOREVER = "2999-01-01T00:00:00Z"


@pytest.fixture
def identity_services(store):
    """A machine's metadata service (IMDSv2) and a security token service, which both hand out keys of the role."""
    sts = boto3.client(
        "sts", endpoint_url=store.endpoint, region_name="us-east-1", aws_access_key_id=store.key,
        aws_secret_access_key=store.secret,
    )
    role = sts.assume_role(RoleArn=ROLE, RoleSessionName="machine")["Credentials"]

    class Service(BaseHTTPRequestHandler):
        def do_PUT(self):
            assert self.path == "/latest/api/token", self.path
            self.answer(b"a-session")

        def do_GET(self):
            if self.headers.get("X-aws-ec2-metadata-token") != "a-session":
                return self.answer(b"no session", 401)
            if self.path.endswith("/security-credentials/"):
                return self.answer(b"machine")
            assert self.path.endswith("/security-credentials/machine"), self.path
            keys = {"AccessKeyId": role["AccessKeyId"], "SecretAccessKey": role["SecretAccessKey"]}
            keys |= {"Token": role["SessionToken"], "Expiration": FOREVER}
            self.answer(json.dumps(keys).encode())

        def do_POST(self):
            asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
            right = {"Action": "AssumeRoleWithWebIdentity", "RoleArn": MACHINE_ROLE, "WebIdentityToken": TOKEN}
            if {key: asked.get(key) for key in right} != right:
                return self.answer(b"<Error><Code>InvalidIdentityToken</Code></Error>", 400)
            keys = (
                f"<AccessKeyId>{role['AccessKeyId']}</AccessKeyId>"
                f"<SecretAccessKey>{role['SecretAccessKey']}</SecretAccessKey>"
                f"<SessionToken>{role['SessionToken']}</SessionToken><Expiration>{FOREVER}</Expiration>"
            )
            name = "AssumeRoleWithWebIdentity"
            result = f"<{name}Result><Credentials>{keys}</Credentials></{name}Result>"
            self.answer(f"<{name}Response>{result}</{name}Response>".encode())

        def answer(self, body, status=200):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("identity", ["instance", "web-identity", "another-web-identity"])
def test_a_machine_is_known_by_its_metadata_service_or_its_web_identity(store, prefix, tmp_path, identity, identity_services):
    store.put(f"{prefix}/a.csv", b"1\n")
    if identity == "instance":
        environment = {"AWS_METADATA_ENDPOINT": identity_services}
    else:
        (tmp_path / "token").write_text(TOKEN if identity == "web-identity" else "of somebody else")
        environment = {
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"), "AWS_ROLE_ARN": MACHINE_ROLE,
            "AWS_ENDPOINT_URL_STS": identity_services,
        }
    place = f"ENDPOINT_URL = '{store.endpoint}' REGION = 'us-east-1'"
    statement = f"LIST 's3://{BUCKET}/{prefix}/' CONNECTION = ({place})"
    options = dict(allow_private_network=True, environment=environment, arguments=["--allow-ambient-credentials"])
    with Server(tmp_path / "data", **options) as server, server.connect() as connection:
        if identity == "another-web-identity":
            error = error_of(connection, statement)
            assert BUCKET in error and "InvalidIdentityToken" in error and TOKEN not in error, error
        else:
            assert [row["name"] for row in run(connection, statement)] == ["a.csv"]


def test_oss_and_cos_are_s3_under_other_names(connection, database, store, prefix):
    store.put(f"{prefix}/a.csv", b"1\n")
    run(connection, "CREATE TABLE t (id INT)")
    for scheme, keys in (("oss", ("ACCESS_KEY_ID", "ACCESS_KEY_SECRET")), ("cos", ("SECRET_ID", "SECRET_KEY"))):
        options = f"ENDPOINT_URL = '{store.endpoint}' {keys[0]} = '{store.key}' {keys[1]} = '{store.secret}'"
        location = f"'{scheme}://{BUCKET}/{prefix}/' CONNECTION = ({options})"
        for expected in ([1], []):
            report = run(connection, f"COPY INTO t FROM {location} FILE_FORMAT = (TYPE = CSV)")
            assert [row["Rows_loaded"] for row in report] == expected
    error = error_of(connection, f"LIST 'oss://{BUCKET}/' CONNECTION = ({options.replace('SECRET_', 'X_')})")
    assert "have no option" in error and "ACCESS_KEY_SECRET" in error and store.secret not in error, error
