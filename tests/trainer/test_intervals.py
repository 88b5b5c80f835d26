"""Intervals whose widths follow the rows and the groups of the spec, and what a run says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fitserve.spread import Spread
from tests.trainer.requests import RecordingReporter, request_of
from workers.trainer.calibration.fit_spread import fit_spread
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow


def test_widths_follow_the_rows_and_the_groups_where_errors_do(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x, z = random.uniform(-2, 2, 2400), random.normal(size=2400)
    region = random.choice(["north", "south", "far"], 2400, p=[0.6, 0.395, 0.005])
    y = x + z + random.normal(size=2400) * (0.1 + np.abs(x)) * np.where(region == "south", 2, 1)
    table = pa.table({"x": x, "z": z, "region": region, "y": y})
    body = {
        "target": "y",
        "network": [{"Dense": {"units": 8, "activation": "relu"}}],
        "training": {"epochs": 8},
        "split": {"validation": 0.4, "test": 0.3},
        "interval": [0.9, 0.5],
        "coverage_by": "region",
    }
    result = train(request_of(table, body, tmp_path), RecordingReporter())
    assert result.manifest["interval"] == {"levels": [0.9, 0.5], "coverage_by": "region", "adaptive": None}
    said = result.result["intervals"]["y"]
    assert said["widths"] == "by_row", said["why"]
    assert [one["level"] for one in said["levels"]][:2] == [0.9, 0.5]  # those asked for first
    for level in said["levels"]:
        low, high = level["interval"]
        assert low - 0.02 <= level["level"] <= high + 0.02
    at = said["levels"][0]
    assert at["mean_size"] < 0.97 * at["one_width"]
    groups = {one["group"]: one for one in at["groups"]}
    assert [groups[name]["by_itself"] for name in ("north", "south", "far")] == [True, True, False]
    assert groups["south"]["mean_size"] > 1.5 * groups["north"]["mean_size"]

    # Errors that do not depend on the row have one width, which needs no rows for itself.
    values, feeds = np.zeros((600, 1)), {"x": random.normal(size=(600, 3)).astype(np.float32)}
    plain = fit_spread(values, feeds, random.normal(size=600), 0.9, 0)
    assert (plain.spread, len(plain.scored)) == (None, 600)
    few = fit_spread(values[:199], {"x": feeds["x"][:199]}, random.normal(size=199), 0.9, 0)
    assert "too few" in few.why


def test_the_distance_of_quantiles_is_the_spread_of_a_network_that_has_them() -> None:
    random = np.random.default_rng(1)
    scale = random.uniform(0.1, 3, 800)
    values = np.column_stack([-scale, np.zeros(800), scale])
    fitted = fit_spread(values, {}, random.normal(size=800) * scale, 0.9, 0)
    assert fitted.spread is not None
    assert fitted.spread["kind"] == "quantiles"
    np.testing.assert_allclose(Spread(fitted.spread).of(values, None), 2 * scale)
