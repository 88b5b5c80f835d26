"""Predictions through nginx, as deploy/nginx configures it: over connections that are kept, and by gRPC."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton_grpc

from tests import nginx
from tests.conftest import free_ports
from tests.needs import need
from tests.predict.toy_registry import ToyRegistry, numeric, run_service
from tests.waiting import PATIENCE, wait_until

ROW = [1.5, -2.0, 3.25, 4.0, 5.0, 6.0]


def test_rest_and_grpc_through_nginx(tmp_path: Path) -> None:
    program, toys = need("nginx"), ToyRegistry(tmp_path / "home")
    toys.register("m1", numeric())
    port, grpc_port = free_ports(2)
    with run_service(toys) as served:
        address, by_grpc = [f"127.0.0.1:{served.port}"], [f"127.0.0.1:{served.grpc_port}"]
        listen = [f"127.0.0.1:{port}", f"127.0.0.1:{grpc_port}"]
        folder = tmp_path / "nginx"
        folder.mkdir()
        path = nginx.configuration(program, folder, listen, {"api": address, "predict": address, "grpc": by_grpc})
        process = subprocess.Popen([program, "-e", str(folder / "error.log"), "-c", str(path)])
        try:
            wait_until((folder / "pid").exists, "nginx", process=process, log=folder / "error.log")
            expected = numeric().answer([ROW])["y"]
            body = json.dumps({"instances": [ROW]}).encode()
            headers = {**served.headers, "Content-Type": "application/json"}
            for _ in range(3):
                asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models/m1:predict", body, headers)
                with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
                    assert np.allclose(json.load(answer)["predictions"], expected)
            # Later ones came with a known head, over a connection that was kept.
            assert served.telemetry("fitserve_predict_fast_lane_requests_total") >= 1
            with triton_grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
                tensor = triton_grpc.InferInput("instances", [1, 6], "FP32")
                tensor.set_data_from_numpy(np.array([ROW], np.float32))
                answer = client.infer("m1", [tensor], headers={"authorization": f"Bearer {toys.token}"})
                assert np.allclose(answer.as_numpy("y"), expected)
        finally:
            process.terminate()
            process.wait()
