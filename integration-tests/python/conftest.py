import itertools

import pytest

from stevedore_server import Server, run

numbers = itertools.count(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The local folder that stages may name."""
    return tmp_path_factory.mktemp("files").resolve()


@pytest.fixture(scope="session")
def server(tmp_path_factory, folder):
    data_dir = tmp_path_factory.mktemp("server") / "data"
    with Server(data_dir, allow_fs=[folder], allow_private_network=True) as server:
        yield server


@pytest.fixture
def connection(server):
    with server.connect() as connection:
        yield connection


@pytest.fixture
def database(connection):
    """A database of the test's own, which is the current one of `connection`."""
    name = f"test_{next(numbers)}"
    run(connection, f"CREATE DATABASE {name}")
    run(connection, f"USE {name}")
    return name


@pytest.fixture
def files(folder, connection):
    """A folder of the test's own; the stage of the answered name shows it."""
    name = f"files_{next(numbers)}"
    path = folder / name
    path.mkdir()
    run(connection, f"CREATE STAGE {name} URL = 'fs://{path}/'")

    class Files:
        stage = name

        def __truediv__(self, relative):
            target = path / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            return target

    return Files()
