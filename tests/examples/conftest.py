"""The server of the lessons, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fitserve.client import Client
from tests.conftest import Server, start_server, stop_server


@pytest.fixture(scope="package")
def lesson_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One of their own: the documentation's pages give tables the names that lessons use, too."""
    running = start_server(tmp_path_factory.mktemp("lessons") / "home")
    yield running
    stop_server(running)


@pytest.fixture(scope="package")
def server(lesson_server: Server) -> Server:
    return lesson_server


@pytest.fixture(scope="package")
def client(server: Server) -> Iterator[Client]:
    with Client(server.base_url, server.token) as made:
        yield made
