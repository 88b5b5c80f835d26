"""Rollouts over the API: answers, refusals with their fixes, the audit log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from fitserve import registry
from fitserve.rollouts import evidence
from fitserve.rollouts.guards import ArmCounts, StepCounts
from fitserve.settings import Settings
from services.control.app import create_app
from tests.predict.toy_registry import ToyRegistry, numeric
from workers.rollout_driver import RolloutDriver

ROLLOUTS = "/api/v1/models/m/rollouts"


def test_the_api_of_rollouts(sqlite_url: str, redis_url: str, tmp_path: Path) -> None:
    toys = ToyRegistry(tmp_path, url=sqlite_url)
    for seed in (1, 2, 3):
        toys.register("m", numeric(seed, hidden=(2,)))
    toys.change(registry.set_label, "m", "champion", version_number=1)
    app = create_app(Settings(home=tmp_path, database_url=sqlite_url, redis_url=redis_url))
    with TestClient(app, headers={"Authorization": f"Bearer {toys.create_key(['admin'])}"}) as client:

        def refused(status: int, pointer: str | None, **body: Any) -> str:
            answer = client.post(ROLLOUTS, json=body)
            problem = answer.json()
            first = (problem.get("errors") or [problem])[0]
            assert (answer.status_code, first.get("pointer")) == (status, pointer), problem
            return str(problem)

        assert "grow" in refused(422, "/steps/1", to=2, steps=[50, 10])
        refused(422, "/steps/0", to=2, steps=[0])
        refused(422, "/guards/errors", to=2, guards={"errors": 2})
        refused(422, "/guards/latency", to=2, guards={"latency": 1})
        assert "shadow: true" in refused(422, "/guards/disagreement", to=2, guards={"disagreement": 0.2})
        refused(422, "/to", steps=[1])
        assert "already" in refused(409, "/to", to=1)
        assert client.post(ROLLOUTS, json={"to": 9}).status_code == 404
        assert client.post(ROLLOUTS.replace("/m/", "/none/"), json={"to": 1}).status_code == 404
        started = client.post(ROLLOUTS, json={"to": 2, "steps": [50], "guards": {"errors": 0.01}})
        assert started.status_code == 201
        path, id = started.headers["location"], started.json()["id"]
        assert path == f"{ROLLOUTS}/{id}"
        assert "Promote it, abort it" in client.post(ROLLOUTS, json={"to": 3}).json()["fix"]
        evidence.write_counts(toys.engine, "p", {(id, 0): StepCounts(ArmCounts(3_000, 3), ArmCounts(3_000, 600))})
        RolloutDriver(toys.engine).tick()
        found = client.get(path).json()
        assert (found["state"], found["share"], found["reason"]["guard"]) == ("rolled_back", 0.0, "errors")
        (figure,) = [one for one in found["steps"][0]["figures"] if one["guard"] == "errors"]
        assert figure["breached"]
        assert 0.1 < figure["low"] < figure["value"] < figure["high"]
        assert found["steps"][0]["curves"]["errors"][0]["rows"] == 6_000
        assert client.post(f"{path}/pause").status_code == 409
        assert client.get(f"{ROLLOUTS}/rol_none").status_code == 404
        second = client.post(ROLLOUTS, json={"to": 2, "kind": "ab"}).json()
        assert (second["shares"], second["hold"]) == ([0.5], None)
        page = client.get(ROLLOUTS, params={"limit": 1}).json()
        assert [one["id"] for one in page["items"]] == [second["id"]]
        page = client.get(ROLLOUTS, params={"limit": 1, "cursor": page["next_cursor"]}).json()
        assert ([one["id"] for one in page["items"]], page["next_cursor"]) == ([id], None)
        told = [(one["action"], one["target"]) for one in client.get("/api/v1/audit").json()["items"]]
        assert ("rollout rolled_back", path) in told
        assert ("POST /api/v1/models/{name}/rollouts", ROLLOUTS) in told
        assert client.delete("/api/v1/models/m").status_code == 204
