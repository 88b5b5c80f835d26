"""A client of the real server, and a trained model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from fitserve.client import Client
from fitserve.client.runs import Run
from tests.client.client_use import ClientUse, recording
from tests.conftest import Server
from tests.waiting import PATIENCE

SPEC = {
    "target": "side",
    "split": {"method": "stratified", "validation": 0.2, "test": 0.2},
    "network": [{"Dense": {"units": 12, "activation": "tanh"}}],
    "training": {"optimizer": {"Adam": {"learning_rate": 0.03}}, "epochs": 25, "batch_size": 16, "restarts": 2},
}


def circle(rows: int = 240) -> pd.DataFrame:
    """Return points in a square, their colours, and whether each lies within a circle."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-5, 5, (rows, 2)).round(3)
    inside = np.hypot(points[:, 0], points[:, 1]) < 3.2
    colours = rng.choice(["red", "green", "blue"], rows)
    return pd.DataFrame(
        {"x": points[:, 0], "y": points[:, 1], "colour": colours, "side": np.where(inside, "in", "out")}
    )


ROWS = [{"x": 0.1, "y": -0.2, "colour": "red"}, {"x": 4.8, "y": 4.7, "colour": "blue"}]


@pytest.fixture(scope="session")
def client_use() -> Iterator[ClientUse]:
    with recording() as use:
        yield use


@pytest.fixture(autouse=True)
def _record_test(client_use: ClientUse, request: pytest.FixtureRequest) -> None:
    client_use.tests.add(f"{request.module.__name__}.{request.function.__name__}")


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[Client]:
    with Client(server.base_url, server.token) as connected:
        yield connected


@pytest.fixture(scope="session")
def trained(client: Client) -> Run:
    """A run of two trials that succeeded and registered the model `client-circle`."""
    dataset = client.datasets.upload(circle(), "client-circle")
    return client.runs.create(SPEC, dataset=dataset, model="client-circle").wait(PATIENCE)
