"""A cluster for tests that start its processes themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A home with a broker; the test starts the processes."""
    with Cluster(tmp_path / "home") as made:
        yield made
