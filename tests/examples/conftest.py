"""A client of one real server for all lessons."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fitserve.client import Client
from tests.conftest import Server


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[Client]:
    with Client(server.base_url, server.token) as made:
        yield made
