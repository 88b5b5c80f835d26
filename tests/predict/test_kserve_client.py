"""KServe's Python client, unmodified, over REST (protocol v1 and v2, JSON and binary) and over gRPC."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np

from tests.predict.toy_registry import PROJECT, RunningService, mixed, numeric
from tests.waiting import PATIENCE

ROWS = np.arange(12, dtype=float).reshape(2, 6).tolist()
ADM = {"gre": 700, "gpa": 3.5, "rank": 3, "city": "Rom"}


def test_kserves_client(served: RunningService) -> None:
    command = [sys.executable, "-m", "tests.predict.kserve_client", served.url, str(served.grpc_port)]
    done = subprocess.run([*command, served.toys.token], cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    expected, admitted = numeric().answer(ROWS)["y"], mixed(seed=1).answer([ADM])["admit"].tolist()
    rest, grpc = report["rest"], report["grpc"]
    assert (rest["live"], rest["ready"], rest["model_ready"]) == (True, True, True)
    for values in (rest["infer"], rest["binary"], rest["v1"], grpc["infer"], grpc["binary"]):
        np.testing.assert_allclose(np.reshape(values, (2, 2)), expected, rtol=1e-6)
    assert (rest["id"], rest["version"]) == ("seven", "1")
    for values in (rest["columns_false"], rest["columns_true"], grpc["columns"]):
        np.testing.assert_allclose(np.reshape(values, (1, 1)), admitted, rtol=1e-6)
    assert rest["explained"] == ["y"]
    assert rest["errors"] == [404, 401]
    assert (grpc["live"], grpc["ready"], grpc["model_ready"]) == (True, True, True)
    assert (grpc["id"], grpc["version"], grpc["error"]) == ("seven", "1", "NOT_FOUND")
