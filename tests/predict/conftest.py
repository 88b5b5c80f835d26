"""One prediction service with three toy models, for tests that do not change it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.predict.toy_registry import THREE, RunningService, ToyRegistry, mixed, numeric, run_service
from tests.waiting import PATIENCE


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Serve models `m1` (six numbers, two outputs), `adm` (mixed columns, binary) and `three` (three targets)."""
    toys = ToyRegistry(tmp_path_factory.mktemp("toys"))
    toys.register("m1", numeric())
    toys.register("adm", mixed())
    toys.register("three", mixed(THREE))
    toys.register("adm", mixed(seed=1))
    with run_service(toys) as running:
        yield running


@pytest.fixture
def client(served: RunningService) -> Iterator[httpx2.Client]:
    """Return a client whose key may predict."""
    with httpx2.Client(base_url=served.url, headers=served.headers, timeout=PATIENCE) as made:
        yield made


@pytest.fixture
def toys(tmp_path) -> ToyRegistry:
    """Return a registry for this test alone."""
    return ToyRegistry(tmp_path / "toys")
