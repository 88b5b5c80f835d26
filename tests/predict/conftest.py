"""One prediction service with three toy models for the tests that change nothing."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.predict.house import THREE, House, Served, mixed, numeric, serving


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Models `m1` (six numbers, two outputs), `adm` (mixed columns, binary) and `three` (three targets)."""
    house = House(tmp_path_factory.mktemp("house"))
    house.register("m1", numeric())
    house.register("adm", mixed())
    house.register("three", mixed(THREE))
    house.register("adm", mixed(seed=1))
    with serving(house) as running:
        yield running


@pytest.fixture
def client(served: Served) -> Iterator[httpx2.Client]:
    """With a key that may predict."""
    with httpx2.Client(base_url=served.url, headers=served.headers, timeout=20) as made:
        yield made


@pytest.fixture
def house(tmp_path) -> House:
    """A registry of this test's own."""
    return House(tmp_path / "house")
