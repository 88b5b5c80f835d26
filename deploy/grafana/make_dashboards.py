"""Generate the four Grafana dashboards from `panels.py`: `python deploy/grafana/make_dashboards.py`.

A test checks that the files are current.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from panels import DASHBOARDS, PRE, WIDE, Dashboard, Panel

FOLDER = Path(__file__).parent / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def variables(by_model: bool) -> list[dict[str, Any]]:
    """The variables shown at the top of a dashboard."""
    datasource = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    limit = {"name": "top", "label": "Show at most", "type": "custom", "query": "5,10,20,50"}
    limit["current"] = {"text": "10", "value": "10"}  # type: ignore[assignment]
    result: list[dict[str, Any]] = [datasource, limit]
    if by_model:
        query = f"label_values({PRE}_rows_total, model)"
        choice = {"multi": True, "includeAll": True, "allValue": ".*", "refresh": 2, "sort": 1}
        choice["current"] = {"text": "All", "value": "$__all"}
        result.append(
            {"name": "model", "label": "Model", "type": "query", "datasource": DATASOURCE, "query": query, **choice}
        )
    return result


def panel_json(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """A panel as Grafana's JSON."""
    colors = ("green", "orange", "red") if panel.title != "Disk free" else ("red", "orange", "green")
    steps: list[dict[str, Any]] = [{"color": colors[0], "value": None}]
    steps += [{"color": color, "value": value} for color, value in zip(colors[1:], panel.thresholds, strict=False)]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.title == "Regression predictions (median)":
        del defaults["min"]
    options: dict[str, Any] = {"legend": {"displayMode": "table", "placement": "right", "calcs": ["lastNotNull"]}}
    if panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
    targets = [
        {"refId": chr(65 + at), "expr": query, "legendFormat": legend, "datasource": DATASOURCE}
        for at, (query, legend) in enumerate(panel.queries)
    ]
    height = 4 if panel.kind == "stat" else 8
    return {
        "id": number,
        "title": panel.title,
        "description": panel.help,
        "type": panel.kind,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": height},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": targets,
    }


def dashboard_json(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard as Grafana's JSON."""
    panels, x, y = [], 0, 0
    for number, panel in enumerate(dashboard.panels, 1):
        if x + panel.width > WIDE:
            x, y = 0, y + panels[-1]["gridPos"]["h"]
        panels.append(panel_json(panel, number, x, y))
        x += panel.width
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": list(dashboard.tags),
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "timezone": "browser",
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables(dashboard.by_model)},
        "panels": panels,
    }


def files() -> dict[Path, str]:
    """Each dashboard file and its content."""
    return {
        FOLDER / f"{one.uid.removeprefix('fitserve-')}.json": json.dumps(dashboard_json(one), indent=1) + "\n"
        for one in DASHBOARDS
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for path, text in files().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
