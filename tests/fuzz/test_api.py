"""schemathesis on the control API with all checks: examples, boundaries, random and stateful cases.

The short form sends a few cases per operation, the long one (`-m long`) at least 20,000 in total.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from fitserve import db
from fitserve.runs import create
from fitserve.settings import Limits
from tests.conftest import PROJECT
from tests.fuzz.servers import servers
from tests.predict.toy_registry import ToyRegistry
from tests.waiting import PATIENCE

pytestmark = pytest.mark.xdist_group("api-fuzz")

# By its schema, a request with an unreadable table or a rejected spec is valid.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 304, 400, 401, 403, 404, 409, 410, 412, 413, 415, 422, 423, 429]

# 412: an unsupported version of tus.
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 410, 412, 413, 415, 422, 423, 428, 429]
"""


PHASES = "examples,coverage,fuzzing,stateful"


@dataclass(frozen=True)
class Api:
    """A running control API with a dataset, a run and a model, and the prediction service."""

    url: str
    predict_url: str
    token: str
    real: dict[str, list[object]]
    log: Path


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Api]:
    with servers(tmp_path_factory.mktemp("fuzzed") / "home", redis_url) as started:
        objects = _create_objects(started.api_url, started.token, started.toys)
        yield Api(started.api_url, started.predict_url, started.token, objects, started.log)


def _create_objects(url: str, token: str, toys: ToyRegistry) -> dict[str, list[object]]:
    """Create an object for each kind of path parameter."""
    table = "a,b,y\n" + "".join(f"{n},{n % 7},{n % 2}\n" for n in range(60))
    with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE) as client:
        dataset = client.put("/api/v1/datasets/table", content=table).raise_for_status().json()
        spec = {"dataset": "table", "target": "y", "network": [{"Dense": 2}]}
        run = client.post("/api/v1/runs", json=spec).raise_for_status().json()
        for built in ("schemas/spec", "openapi.json"):  # at their first request, which may take its time
            client.get(f"/api/v1/{built}").raise_for_status()
        upload = client.post("/api/v1/uploads", headers={"Upload-Length": "5"}).raise_for_status()
    cancelled = create.create_run(
        toys.engine, create.NewRun("ada", dataset["id"], spec, run["resolved"], {}), Limits()
    )[0]
    with db.transaction(toys.engine) as session:
        session.merge(cancelled).state = "cancelled"
    return {
        "ref": ["table", dataset["id"]],
        "name": ["adm"],
        "run_id": [run["id"], cancelled.id],
        "upload_id": [upload.headers["location"].rpartition("/")[2]],
        "number": [1],
        "label": ["champion"],
        "model": ["adm"],
        "version": [1],
        "kind": ["onnx", "curves"],
    }


def fuzz(
    api: Api,
    folder: Path,
    examples: int,
    seed: int,
    seconds: int,
    phases: str = PHASES,
    document: str = "",
    answer_seconds: float = 2,
) -> tuple[int, str]:
    """Run schemathesis. Returns the number of cases and its output; fails if it found anything."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run"]
    command += [document or f"{api.url}/api/v1/openapi.json", "-H", f"Authorization: Bearer {api.token}"]
    command += ["--checks", "all", "--max-examples", str(examples), "--max-response-time", str(answer_seconds)]
    command += ["--request-timeout", str(PATIENCE)]
    command += [
        "--phases",
        phases,
        "--continue-on-failure",
        "--no-color",
        "--seed",
        str(seed),
        "--suppress-health-check",
        "all",
    ]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "tests.fuzz.api_hooks",
        "FITSERVE_TEST_REAL": json.dumps(api.real),
        "PYTHONPATH": str(PROJECT),
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds, errors="replace"
    )
    counted = re.search(r"([\d,]+) generated", done.stdout)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert "traceback" not in api.log.read_text(errors="replace"), "an exception was logged"
    return int(counted[1].replace(",", "")) if counted else 0, done.stdout


@pytest.mark.timeout(400)
def test_every_operation_withstands_fuzzing(api: Api, tmp_path: Path) -> None:
    phases = "examples,fuzzing,stateful"
    cases, output = fuzz(api, tmp_path, examples=1, seed=1, seconds=380, phases=phases, answer_seconds=PATIENCE)
    assert cases >= 200, output[-3000:]


@pytest.mark.timeout(400)
def test_predictions_withstand_fuzzing(api: Api, tmp_path: Path) -> None:
    document = f"{api.predict_url}/openapi.json"
    patient = {"document": document, "answer_seconds": PATIENCE}
    cases, output = fuzz(api, tmp_path, examples=3, seed=1, seconds=380, phases="fuzzing", **patient)
    assert cases >= 60, output[-3000:]


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_every_operation_withstands_20_000_cases(api: Api, tmp_path: Path) -> None:
    cases, output = 0, ""
    for seed in range(1, 40):
        sent, output = fuzz(api, tmp_path, examples=60, seed=seed, seconds=3000)
        cases += sent
        if cases >= 20_000:
            break
    assert cases >= 20_000, output[-3000:]
