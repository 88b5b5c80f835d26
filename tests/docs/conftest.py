"""The server of the documentation's pages, which choose their own names for tables and models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Server, start_server, stop_server


@pytest.fixture(scope="package")
def reader_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """It ends with the last page: a server that nobody asks takes a thirtieth of a processor."""
    running = start_server(tmp_path_factory.mktemp("reader") / "home")
    yield running
    stop_server(running)


@pytest.fixture(scope="package")
def server(reader_server: Server) -> Server:
    return reader_server
