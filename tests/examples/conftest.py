"""A client of the server that tests share. Their tables have names that no lesson uses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fitserve.client import Client
from tests.conftest import Server


@pytest.fixture(scope="package")
def client(server: Server) -> Iterator[Client]:
    with Client(server.base_url, server.token) as made:
        yield made
