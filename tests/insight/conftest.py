"""Runs of the whole system, which the tests of its routes and plots share."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.conftest import Server
from tests.waiting import PATIENCE, wait_until


@pytest.fixture(scope="session")
def api(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"{server.base_url}/api/v1", headers=server.headers, timeout=PATIENCE) as client:
        yield client


def ended(api: httpx2.Client, run: str) -> dict[str, Any]:
    """The run, when it has ended."""

    def has_ended() -> dict[str, Any] | None:
        found: dict[str, Any] = api.get(f"/runs/{run}").raise_for_status().json()
        return found if found["state"] in ("succeeded", "failed", "cancelled") else None

    return dict(wait_until(has_ended, f"the end of {run}", pause=0.1))


@pytest.fixture(scope="session")
def run(api: httpx2.Client) -> str:
    """A run that overfits: 60 epochs of a wide network on few rows."""
    spec = {
        "dataset": _uploaded(api),
        "target": "label",
        "features": ["a", "b", "c", "city"],
        "split": {"validation": 0.2, "test": 0.2},
        "network": [{"Dense": {"units": 64, "activation": "relu"}}, {"Dense": {"units": 8, "activation": "tanh"}}],
        "training": {"optimizer": {"Adam": {"learning_rate": 0.01}}, "epochs": 60},
    }
    return _trained(api, spec)


@pytest.fixture(scope="session")
def restarted(api: httpx2.Client) -> str:
    """A regression of three restarts, which train as one stacked network."""
    spec = {
        "dataset": _uploaded(api),
        "target": "amount",
        "features": ["a", "b", "city"],
        "split": {"validation": 0.2, "test": 0.2},
        "network": [{"Dense": {"units": 16, "activation": "relu"}}, {"Dense": {"units": 4, "activation": "tanh"}}],
        "training": {"optimizer": {"Adam": {"learning_rate": 0.02}}, "epochs": 40, "restarts": 3},
    }
    return _trained(api, spec)


def _trained(api: httpx2.Client, spec: dict[str, Any]) -> str:
    done = ended(api, api.post("/runs", json=spec).raise_for_status().json()["id"])
    assert done["state"] == "succeeded", done["error"]
    return str(done["id"])


def _uploaded(api: httpx2.Client) -> str:
    upload = api.post(
        "/datasets", params={"name": "insight-routes"}, content=_csv(), headers={"Content-Type": "text/csv"}
    )
    assert upload.status_code in (200, 201), upload.text
    return "insight-routes"


def _csv(rows: int = 240) -> bytes:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 3))
    label = np.where(x[:, 0] + x[:, 1] + rng.normal(0, 0.8, rows) > 0, "yes", "no")
    city = rng.choice(["rome", "oslo"], rows)
    amount = 100 + 20 * x[:, 0] * (city == "rome") + 5 * x[:, 1] + rng.normal(0, 2, rows)
    sink = io.StringIO("a,b,c,city,amount,label\n")
    sink.seek(0, 2)
    for values, place, much, answer in zip(x, city, amount, label, strict=True):
        sink.write(",".join(f"{v:.4f}" for v in values) + f",{place},{much:.3f},{answer}\n")
    return sink.getvalue().encode()
