"""A cluster whose processes the tests start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A home with a broker, and no processes yet."""
    with Cluster(tmp_path / "home") as cluster:
        yield cluster
