"""A new server of their own, and a client of it, for all lessons."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fitserve.client import Client
from tests.conftest import Server, start_server, stop_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start_server(tmp_path_factory.mktemp("lessons") / "home")
    yield running
    stop_server(running)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.base_url, server.token) as made:
        yield made
