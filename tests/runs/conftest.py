"""A dataset, a blob store, and short ways to make and claim runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from fitserve.blobs import FolderStore
from fitserve.runs import create, lease
from fitserve.settings import Limits
from fitserve.tables import Run
from tests.faults.cluster import Cluster, add_dataset

Submit = Callable[..., Run]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "blobs")


@pytest.fixture
def submit(engine: Engine, store: FolderStore) -> Submit:
    """Makes a run."""
    dataset = add_dataset(engine, store)

    def make(
        owner: str = "ann", key: create.RequestKey | None = None, limits: Limits | None = None, **fields: Any
    ) -> Run:
        new = create.NewRun(owner, fields.pop("dataset_id", dataset), {"a": 1}, {"b": 2}, {}, **fields)
        return create.create_run(engine, new, limits or Limits(), key)[0]

    return make


@pytest.fixture
def claim(engine: Engine) -> Callable[..., lease.Claim | None]:
    """Claims the best run."""

    def take(seconds: float = 30, limit: int = 1000, worker: str = "w1") -> lease.Claim | None:
        return lease.claim(engine, worker, lease_seconds=seconds, running_limit=limit)

    return take


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A home with a broker; the test starts the processes."""
    with Cluster(tmp_path / "home") as made:
        yield made
