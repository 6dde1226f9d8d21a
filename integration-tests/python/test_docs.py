"""The guide is true: every ```sql block of docs/guide and docs/zh runs, page by page, on a server of its own.

A statement after a comment `-- error: text` must fail with that text. A block that opens with ```sql no-run
is only shown. `fs:///data/` stands for the folder of the sample files, which every page gets afresh.
"""

import re
from pathlib import Path

import pytest

import guide_files
from stevedore_server import Server, error_of, run

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(path for path in [*DOCS.glob("guide/*.md"), *DOCS.glob("zh/*.md")] if "```sql\n" in path.read_text(encoding="utf-8"))
EXPECTED_ERROR = re.compile(r"^\s*--\s*error:\s*(.+?)\s*$", re.MULTILINE)


def statements(page):
    """(line, statement, expected error or None) of a page's runnable blocks."""
    text = page.read_text(encoding="utf-8")
    for block in re.finditer(r"^```sql\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        at = block.start(1)
        for statement in re.split(r"(?<=;)[ \t]*(?:--(?! error:)[^\n]*)?\n", block.group(1)):
            line = text.count("\n", 0, at) + 1
            at += len(statement) + 1
            expected = EXPECTED_ERROR.search(statement)
            sql = "\n".join(l for l in statement.splitlines() if not l.lstrip().startswith("--")).strip()
            if sql:
                yield line, sql.rstrip(";"), expected and expected.group(1)


def test_the_guide_has_pages():
    assert len(PAGES) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_the_statements_of_a_page_run(page, tmp_path):
    folder = (tmp_path / "files").resolve()
    guide_files.write(folder)
    failures = []
    with Server(tmp_path / "data", allow_fs=[folder]) as server, server.connect() as connection:
        for line, sql, expected in statements(page):
            sql = sql.replace("fs:///data/", f"fs://{folder}/")
            try:
                if expected is None:
                    run(connection, sql)
                elif expected.lower() not in (error := error_of(connection, sql)).lower():
                    failures.append(f"{page.name}:{line}: {sql}\n  expected: {expected}\n  got: {error}")
            except Exception as error:
                failures.append(f"{page.name}:{line}: {sql}\n  {error}")
    assert not failures, "\n".join(failures)
