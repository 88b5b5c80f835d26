"""The server of the documentation's pages, which choose their own names for tables and models."""

from __future__ import annotations

import pytest

from tests.conftest import Server


@pytest.fixture(scope="session")
def server(reader_server: Server) -> Server:
    return reader_server
