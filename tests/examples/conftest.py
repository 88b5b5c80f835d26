"""The server of the lessons, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fitserve.client import Client
from tests.conftest import Server


@pytest.fixture(scope="session")
def server(reader_server: Server) -> Server:
    return reader_server


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[Client]:
    with Client(server.base_url, server.token) as made:
        yield made
