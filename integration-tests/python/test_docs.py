"""The documents are true: every ```sql block of the user guide and of the quickstart, in English and in Chinese, runs,
page by page, on a server of its own; the session that the README shows gives what it shows.

A statement after a comment `-- error: text` must fail with that text. A block that opens with ```sql no-run
is only shown. In the guide `fs:///data/` stands for the folder of the sample files, which every page gets afresh.

The quickstart goes over the files that `stevedore quickstart` makes. Its blocks that open with ```sql s3 run where the
files are in a bucket.
"""

import re
import shutil
import subprocess
import time
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

import guide_files
from stevedore_server import Server, binary, error_of, run

DOCS = Path(__file__).resolve().parents[2] / "docs"
README = DOCS.parent / "README.md"
PAGES = sorted(path for path in DOCS.glob("guide/*.md") if "```sql\n" in path.read_text(encoding="utf-8"))
QUICKSTARTS = {"en": DOCS / "quickstart.md", "zh": DOCS / "zh/quickstart.md"}
EXPECTED_ERROR = re.compile(r"^\s*--\s*error:\s*(.+?)\s*$", re.MULTILINE)
# A command that makes files, in a line of its own or within the text; or a statement and its answer.
STEP_OF_A_SESSION = re.compile(
    r"^(mkdir [^\n]*|printf [^\n]*)$|`(printf [^`]*)`|^stevedore> (.*?;)\n(.*?)(?=\n\n|\n```)", re.MULTILINE | re.DOTALL
)
TASKS_END_WITHIN_SECONDS = 120


def statements(page, kinds=("",)):
    """(line, statement, expected error or None) of a page's blocks that open with ```sql and one of the words."""
    text = page.read_text(encoding="utf-8")
    for block in re.finditer(r"^```sql ?([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if block.group(1) not in kinds:
            continue
        at = block.start(2)
        for statement in re.split(r"(?<=;)[ \t]*(?:--(?! error:)[^\n]*)?\n", block.group(2)):
            line = text.count("\n", 0, at) + 1
            at += len(statement) + 1
            expected = EXPECTED_ERROR.search(statement)
            sql = "\n".join(l for l in statement.splitlines() if not l.lstrip().startswith("--")).strip()
            if sql:
                yield line, sql.rstrip(";"), expected and expected.group(1)


def run_page(connection, page, replaced, kinds=("",)):
    """Runs a page, with some texts replaced; fails where something does not come out as the page says."""
    failures = []
    for line, sql, expected in statements(page, kinds):
        for text, other in replaced.items():
            sql = sql.replace(text, other)
        try:
            if expected is None:
                run(connection, sql)
            elif expected.lower() not in (error := error_of(connection, sql)).lower():
                failures.append(f"{page.name}:{line}: {sql}\n  expected: {expected}\n  got: {error}")
        except Exception as error:
            failures.append(f"{page.name}:{line}: {sql}\n  {error}")
    assert not failures, "\n".join(failures)


def test_the_guide_has_pages():
    assert len(PAGES) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_statements_of_a_page_run(page, tmp_path):
    folder = (tmp_path / "files").resolve()
    guide_files.write(folder)
    with Server(tmp_path / "data", allow_fs=[folder]) as server, server.connect() as connection:
        run_page(connection, page, {"fs:///data/": f"fs://{folder}/"})


def test_the_quickstart_has_the_same_statements_in_both_languages():
    def shown(page):
        return [(re.sub(r"--.*", "--", sql), expected) for _, sql, expected in statements(page, ("", "s3", "no-run"))]

    english, chinese = map(shown, QUICKSTARTS.values())
    assert len(english) > 30
    assert english == chinese


def test_links_within_the_documents_lead_somewhere():
    pages = [*DOCS.rglob("*.md"), README, DOCS.parent / "CHANGELOG.md"]
    dead = [
        f"{page.relative_to(DOCS.parent)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not dead


def test_the_session_of_the_readme_gives_what_it_shows(tmp_path):
    def without_times(text):
        return re.sub(r"\d+ ms", "… ms", text).strip()

    folder = (tmp_path / "tour").resolve()
    text = README.read_text(encoding="utf-8")
    text = text[text.index("## Five minutes") : text.index("## What works today")].replace("/tmp/tour", str(folder))
    steps = STEP_OF_A_SESSION.findall(text)
    assert sum(bool(sql) for _, _, sql, _ in steps) > 10
    subprocess.run(["mkdir", "-p", folder], check=True)
    with Server(folder / "data", allow_fs=[folder]) as server:
        before = ""
        for line, inline, sql, shown in steps:
            if not sql:
                subprocess.run(["sh", "-c", line or inline], check=True)
                continue
            # A task that was just told to run may take a moment.
            deadline = time.monotonic() + (TASKS_END_WITHIN_SECONDS if before.startswith("EXECUTE TASK") else 0)
            while True:
                answer = server.sql_shell("-e", sql)
                found = without_times(answer.stdout + answer.stderr)
                if found == without_times(shown) or time.monotonic() > deadline:
                    break
                time.sleep(0.1)
            assert found == without_times(shown), sql
            before = sql


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """What `stevedore quickstart` prints, and the folder of its files."""
    folder = tmp_path_factory.mktemp("everdrive").resolve()
    command = [binary(), "quickstart", "--data-dir", str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout, folder / "files"


def test_the_tour_of_quickstart_comes_to_its_end(tour):
    # It checks its results itself, and fails where one is not as foretold.
    printed, _ = tour
    for step in ("LIST @drive_data", "COPY INTO frame_events", "CREATE STREAM", "EXECUTE TASK", "The tour took"):
        assert step in printed


@pytest.fixture
def bucket(tour):
    """The tour's files in the quickstart's bucket, and the endpoint of its server."""
    _, files = tour
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    endpoint = f"http://127.0.0.1:{port}"
    try:
        keys = dict(aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1")
        client = boto3.client("s3", endpoint_url=endpoint, **keys)
        client.create_bucket(Bucket="everdrive-lakehouse")
        for path in files.rglob("*.parquet"):
            client.upload_file(str(path), "everdrive-lakehouse", f"raw/{path.relative_to(files)}")
        yield endpoint
        # The buckets of this kind of server outlive it.
        for listed in client.list_objects_v2(Bucket="everdrive-lakehouse")["Contents"]:
            client.delete_object(Bucket="everdrive-lakehouse", Key=listed["Key"])
        client.delete_bucket(Bucket="everdrive-lakehouse")
    finally:
        server.stop()


@pytest.mark.parametrize("language", QUICKSTARTS)
def test_the_quickstart_runs_on_local_files(language, tour, tmp_path):
    folder = (tmp_path / "files").resolve()
    shutil.copytree(tour[1], folder)
    with Server(tmp_path / "data", allow_fs=[folder]) as server, server.connect() as connection:
        replaced = {"fs:///tmp/everdrive/files/": f"fs://{folder}/"}
        run_page(connection, QUICKSTARTS[language], replaced)
        assert_the_pipeline_ran(connection)
        assert len(list((folder / "frame-events").iterdir())) == 5


@pytest.mark.parametrize("language", QUICKSTARTS)
def test_the_quickstart_runs_on_a_bucket(language, tour, bucket, tmp_path):
    _, files = tour
    with (
        Server(tmp_path / "data", allow_fs=[files], allow_private_network=True) as server,
        server.connect() as connection,
    ):
        replaced = {
            "fs:///tmp/everdrive/files/": f"fs://{files}/",
            "STORAGE_TYPE = 's3'": f"STORAGE_TYPE = 's3' ENDPOINT_URL = '{bucket}' REGION = 'us-east-1'",
            "<AWS_ACCESS_KEY_ID>": "key",
            "<AWS_SECRET_ACCESS_KEY>": "secret",
        }
        run_page(connection, QUICKSTARTS[language], replaced, ("", "s3"))
        assert_the_pipeline_ran(connection)
        listed = run(connection, "LIST @drive_stage/frame-events/")
        assert len(listed) == 5
        # It was the bucket that the batches went to.
        assert len(list((files / "frame-events").iterdir())) == 3


def assert_the_pipeline_ran(connection):
    """Both batches of the page are in both tables, each row once, and nothing is left to do."""
    ended = "SELECT name, state FROM system.task_history WHERE completed_time IS NOT NULL ORDER BY name"
    expected = [
        {"name": "task_load_frame_events", "state": "SUCCEEDED"},
        {"name": "task_risky_frames", "state": "SUCCEEDED"},
    ]
    deadline = time.monotonic() + TASKS_END_WITHIN_SECONDS
    while (found := run(connection, ended)) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found == expected
    assert run(connection, "SELECT count(*) AS n FROM frame_events_stream") == [{"n": 0}]
    counts = run(
        connection,
        """
        SELECT count(*) AS num_rows, count(DISTINCT frame_id) AS frames,
               count(*) FILTER (WHERE frame_id LIKE 'F-%') AS first_batch,
               count(*) FILTER (WHERE frame_id LIKE 'F-%' AND event_type = 'near_miss') AS near_misses,
               count(*) FILTER (WHERE frame_id LIKE 'second-%') AS second_batch,
               count(*) FILTER (WHERE frame_id LIKE 'third-%') AS third_batch
        FROM frame_events
        """,
    )[0]
    assert counts["num_rows"] == counts["frames"]
    assert counts["first_batch"] == 201_000
    assert counts["near_misses"] == counts["second_batch"] == counts["third_batch"] > 0
    risky = "SELECT frame_id, event_type, risk_score FROM risky_frames ORDER BY frame_id"
    expected = """
        SELECT frame_id, event_type, risk_score FROM frame_events
        WHERE risk_score >= 0.9 AND frame_id NOT LIKE 'F-%' ORDER BY frame_id
    """
    found = run(connection, risky)
    assert len(found) > 0 and found == run(connection, expected)
    started = run(connection, "SELECT count(*) AS n FROM system.tasks WHERE state = 'Started'")
    assert started == [{"n": 3}]
