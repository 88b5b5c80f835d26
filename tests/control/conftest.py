"""A server with one resource of each kind, made once and copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.test_access_matrix import Scenario, create_resources, running


@pytest.fixture(scope="session")
def scenario_template(sqlite_template: Path, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    """One that has ended: its home, and what its resources are called."""
    home = tmp_path_factory.mktemp("scenario")
    shutil.copy(sqlite_template, home / "fitserve.db")
    with running(home, redis_url) as scenario:
        create_resources(scenario)
    scenario.toys.engine.dispose()
    return scenario


@pytest.fixture
def scenario(scenario_template: Scenario, redis_url: str, tmp_path: Path) -> Iterator[Scenario]:
    shutil.copytree(scenario_template.toys.home, tmp_path, dirs_exist_ok=True)
    with running(tmp_path, redis_url) as copy:
        copy.resources, copy.tokens = dict(scenario_template.resources), dict(scenario_template.tokens)
        yield copy
