"""Transactions as DB-API programs have them: autocommit off, commit, rollback."""

import adbc_driver_flightsql.dbapi
import adbc_driver_manager
import pyarrow
import pytest

from stevedore_server import CLIENT_OPTIONS, run


@pytest.fixture
def table(connection):
    run(connection, "CREATE OR REPLACE TABLE ledger (id BIGINT, name STRING)")
    return "ledger"


def manual(server):
    """A connection with autocommit off, as DB-API has it unless it is told otherwise."""
    return adbc_driver_flightsql.dbapi.connect(server.address, db_kwargs=CLIENT_OPTIONS, autocommit=False)


def rows(connection, sql):
    return [tuple(row.values()) for row in run(connection, sql)]


def test_commit_makes_it_visible_and_rollback_undoes_it(server, connection, table):
    with manual(server) as mine:
        run(mine, f"INSERT INTO {table} VALUES (1, 'a')")
        run(mine, f"INSERT INTO {table} VALUES (?, ?)", [2, "b"])
        run(mine, f"UPDATE {table} SET name = 'z' WHERE id = 1")
        assert rows(mine, f"SELECT id, name FROM {table} ORDER BY id") == [(1, "z"), (2, "b")]
        assert rows(connection, f"SELECT count(*) FROM {table}") == [(0,)]
        mine.commit()
        assert rows(connection, f"SELECT id, name FROM {table} ORDER BY id") == [(1, "z"), (2, "b")]
        run(mine, f"DELETE FROM {table}")
        assert rows(mine, f"SELECT count(*) FROM {table}") == [(0,)]
        mine.rollback()
        assert rows(mine, f"SELECT count(*) FROM {table}") == [(2,)]
        # What is not committed when the connection closes is not there.
        run(mine, f"INSERT INTO {table} VALUES (3, 'c')")
    assert rows(connection, f"SELECT count(*) FROM {table}") == [(2,)]


def test_statements_take_effect_though_nobody_fetches_their_answers(server, connection, table):
    with manual(server) as mine:
        with mine.cursor() as cursor:
            for id in range(3):
                cursor.execute(f"INSERT INTO {table} VALUES ({id}, 'a')")
        mine.commit()
        assert rows(connection, f"SELECT id FROM {table} ORDER BY id") == [(0,), (1,), (2,)]
        with mine.cursor() as cursor:
            cursor.execute(f"DELETE FROM {table} WHERE id = 1")
            # It ran when it was executed; its answer is there as well.
            assert [tuple(row) for row in cursor.fetchall()] == [(1,)]
            with pytest.raises(adbc_driver_manager.Error, match="nowhere"):
                cursor.execute("DELETE FROM nowhere")
        mine.rollback()
        assert rows(connection, f"SELECT count(*) FROM {table}") == [(3,)]
    options = dict(db_kwargs=CLIENT_OPTIONS, autocommit=True)
    with adbc_driver_flightsql.dbapi.connect(server.address, **options) as by_itself, by_itself.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} VALUES (?, ?)", [3, "b"])
        cursor.execute("BEGIN")
        cursor.execute(f"UPDATE {table} SET name = 'c'")
        cursor.execute("ROLLBACK")
        cursor.execute(f"INSERT INTO {table} VALUES (4, 'b')")
        cursor.adbc_prepare(f"DELETE FROM {table}")
    assert rows(connection, f"SELECT name, count(*) FROM {table} GROUP BY name ORDER BY name") == [("a", 3), ("b", 2)]


def test_a_whole_program_without_a_word_on_autocommit(server, connection):
    run(connection, "DROP TABLE IF EXISTS made")
    with manual(server) as mine:
        run(mine, "CREATE TABLE made (id BIGINT)")
        run(mine, "INSERT INTO made VALUES (1)")
        mine.commit()
        run(mine, "INSERT INTO made VALUES (2)")
        with pytest.raises(adbc_driver_manager.Error, match="DROP TABLE cannot run inside a transaction"):
            run(mine, "DROP TABLE made")
        mine.commit()
        run(mine, "DROP TABLE made")
    assert rows(connection, "SELECT count(*) FROM system.tables WHERE name = 'made'") == [(0,)]


def test_bulk_ingestion_joins_the_transaction_of_its_session(server, connection, table):
    data = pyarrow.table({"id": pyarrow.array(range(10), pyarrow.int64())})
    counted = f"SELECT count(*) FROM {table}"
    with server.connect() as other:
        for end, left in (("ROLLBACK", 0), ("COMMIT", 10)):
            run(connection, "BEGIN")
            with connection.cursor() as cursor:
                assert cursor.adbc_ingest(table, data, mode="append") == 10
            assert (rows(connection, counted), rows(other, counted)) == ([(10,)], [(0,)])
            run(connection, end)
            assert rows(other, counted) == [(left,)]


def test_the_second_of_two_writers_is_told(server, connection, table):
    run(connection, f"INSERT INTO {table} VALUES (1, 'a')")
    with manual(server) as one, manual(server) as two:
        run(one, f"UPDATE {table} SET name = 'one'")
        run(two, f"UPDATE {table} SET name = 'two'")
        one.commit()
        with pytest.raises(adbc_driver_manager.Error, match="was changed by another commit"):
            two.commit()
    assert rows(connection, f"SELECT name FROM {table}") == [("one",)]


def test_begin_and_commit_in_the_shell(server, connection, table, tmp_path):
    script = tmp_path / "both.sql"
    script.write_text(
        f"BEGIN;\nINSERT INTO {table} VALUES (1, 'a');\nINSERT INTO {table} VALUES (2, 'b');\nCOMMIT;\n"
        f"BEGIN TRANSACTION;\nDELETE FROM {table};\nROLLBACK;\n"
    )
    ran = server.sql_shell("-f", str(script))
    assert ran.returncode == 0, ran.stderr
    assert rows(connection, f"SELECT count(*) FROM {table}") == [(2,)]
    # A script that ends, or fails, within a transaction has changed nothing.
    script.write_text(f"BEGIN;\nINSERT INTO {table} VALUES (3, 'c');\nSELECT nothing FROM {table};\nCOMMIT;\n")
    assert server.sql_shell("-f", str(script)).returncode != 0
    script.write_text(f"BEGIN;\nINSERT INTO {table} VALUES (3, 'c');\n")
    assert server.sql_shell("-f", str(script)).returncode == 0
    assert rows(connection, f"SELECT count(*) FROM {table}") == [(2,)]
