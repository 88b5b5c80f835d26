"""A client of the real server, and one trained model to ask."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from fitserve.client import Client
from fitserve.client.effects import Sync
from fitserve.client.runs import Run
from tests.client.driven import Driven, noting
from tests.conftest import Server

SPEC = {
    "target": "side",
    "split": {"method": "stratified", "validation": 0.2, "test": 0.2},
    "network": [{"Dense": {"units": 12, "activation": "tanh"}}],
    "training": {"optimizer": {"Adam": {"learning_rate": 0.03}}, "epochs": 25, "batch_size": 16, "restarts": 2},
}


def circle(rows: int = 240) -> pd.DataFrame:
    """Points in a square, a colour, and whether they lie within a circle."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-5, 5, (rows, 2)).round(3)
    inside = np.hypot(points[:, 0], points[:, 1]) < 3.2
    colours = rng.choice(["red", "green", "blue"], rows)
    return pd.DataFrame(
        {"x": points[:, 0], "y": points[:, 1], "colour": colours, "side": np.where(inside, "in", "out")}
    )


ROWS = [{"x": 0.1, "y": -0.2, "colour": "red"}, {"x": 4.8, "y": 4.7, "colour": "blue"}]


@pytest.fixture(scope="session")
def driven() -> Iterator[Driven]:
    with noting() as found:
        yield found


@pytest.fixture(autouse=True)
def noted(driven: Driven, request: pytest.FixtureRequest) -> None:
    """Each test of this folder is noted."""
    driven.tests.add(f"{request.module.__name__}.{request.function.__name__}")


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[Client]:
    with Client(server.base_url, server.token) as made:
        yield made


@pytest.fixture(scope="session")
def trained(client: Client) -> Run[Sync]:
    """A run of two trials that succeeded and registered the model `client-circle`."""
    dataset = client.datasets.upload(circle(), "client-circle")
    return client.runs.create(SPEC, dataset=dataset, model="client-circle").wait(120)
