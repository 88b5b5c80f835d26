"""The Grafana dashboards are current, query existing series, and stay readable with 50 models."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.tables import telemetry_names

PROJECT = Path(__file__).resolve().parents[2]
GRAFANA = PROJECT / "deploy" / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
LABELS_OF_MODELS = {"model", "column", "version", "output"}


def queries(dashboard: dict[str, Any]) -> list[tuple[str, str]]:
    return [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]


def test_the_dashboards_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(GRAFANA)
    expected = importlib.import_module("make_dashboards").files()
    assert {path.name for path in expected} == {path.name for path in FILES}
    for path, text in expected.items():
        assert path.read_text() == text, f"python deploy/grafana/make_dashboards.py ({path.name})"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_query_existing_series(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    for title, query in queries(dashboard):
        series = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"fitserve_\w+", query)}
        assert series <= telemetry_names(), (title, series - telemetry_names())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_limit_the_number_of_models(path: Path) -> None:
    """Queries by model are limited to the `$top` largest and can be restricted to one model."""
    dashboard = json.loads(path.read_text())
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    for title, query in queries(dashboard):
        by = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", query))))
        if by & LABELS_OF_MODELS and not query.startswith(("count(", "sum(", "count by (version, python)")):
            assert query.startswith(("topk($top, ", "bottomk($top, ")) or "Shadows" in title, (title, query)
            assert "$model" in query, (title, query)
        assert set(re.findall(r"\$(\w+)", query)) - {"__rate_interval"} <= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_do_not_overlap(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    occupied: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert grid["x"] + grid["w"] <= 24
        assert not cells & occupied, panel["title"]
        occupied |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/fitserve.yml").read_text())["providers"]
    compose = (PROJECT / "docker-compose.yml").read_text()
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}" in compose
    assert "./deploy/grafana/provisioning:/etc/grafana/provisioning" in compose
