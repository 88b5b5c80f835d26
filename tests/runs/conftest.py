"""A dataset, a blob store, and functions to create and claim runs."""

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
    """Return a function that creates a run."""
    dataset = add_dataset(engine, store)

    def create_run(
        owner: str = "ann", key: create.RequestKey | None = None, limits: Limits | None = None, **fields: Any
    ) -> Run:
        new = create.NewRun(owner, fields.pop("dataset_id", dataset), {"a": 1}, {"b": 2}, {}, **fields)
        return create.create_run(engine, new, limits or Limits(), key)[0]

    return create_run


@pytest.fixture
def claim(engine: Engine) -> Callable[..., lease.Claim | None]:
    """Return a function that claims the best run."""

    def claim_run(seconds: float = 30, limit: int = 1000, worker: str = "w1") -> lease.Claim | None:
        return lease.claim(engine, worker, lease_seconds=seconds, running_limit=limit)

    return claim_run


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Yield a home with a broker; the test starts the processes."""
    with Cluster(tmp_path / "home") as cluster:
        yield cluster
