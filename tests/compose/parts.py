"""Parts that the server's image must still contain after trimming, each used once in a container."""

from __future__ import annotations

import http.server
import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pyarrow.csv
import pyarrow.parquet

from tests.compose.engine import Engine, until
from tests.conftest import free_ports, listens
from tests.journey.test_journey import ROWS, circle

IMPORTS = """
import importlib, pkgutil, fitserve, migrations, services
# Command line, `up`, estimator and tools for language models are not in the image; only Alembic can import its env.
excluded = ("fitserve.cli", "services.up", "fitserve.sklearn", "fitserve.mcp", "services.mcp", "migrations.env")
names = [found.name for top in (fitserve, migrations, services)
         for found in pkgutil.walk_packages(top.__path__, top.__name__ + ".", onerror=print)]
names = [name for name in names if not name.startswith(excluded) and not name.endswith("__main__")]
print(len([importlib.import_module(name) for name in names]))
"""

INFER = """
import grpc, sys
from services.predict.protocols.proto import inference_pb2 as pb
call = grpc.insecure_channel("127.0.0.1:8500").unary_unary(
    "/inference.GRPCInferenceService/ModelInfer",
    pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString)
request = pb.ModelInferRequest(model_name="circle")
for name, kind, values in (("x", "FP64", {"fp64_contents": [0.1, 4.8]}), ("y", "FP64", {"fp64_contents": [-0.2, 4.7]}),
                           ("colour", "BYTES", {"bytes_contents": [b"red", b"blue"]})):
    request.inputs.add(name=name, datatype=kind, shape=[2, 1], contents=pb.InferTensorContents(**values))
answer = call(request, metadata=[("authorization", sys.argv[1])], timeout=10)
print(*[f"{one.name}:{list(one.shape)}" for one in answer.outputs])
"""

STORE = """
from pathlib import Path
from fitserve.blobs import open_store
store = open_store("s3://parts/blobs")
store.prepare()
stored = store.put_bytes(b"stored")
assert store.local(stored.sha256, Path("/tmp/cache")).read_bytes() == store.read(stored.sha256) == b"stored"
print("stored")
"""

TRACE = """
import sys
from fitserve import tracing
tracing.configure(sys.argv[1], "parts")
with tracing.span("traced"):
    pass
tracing.stop()
"""


def upload_parquet(client: httpx2.Client) -> None:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(io.BytesIO(circle().encode())), sink)
    kind = {"Content-Type": "application/vnd.apache.parquet"}
    uploaded = client.put("/api/v1/datasets/circle-parquet", content=sink.getvalue(), headers=kind)
    assert uploaded.status_code == 201, uploaded.text
    assert uploaded.json()["rows"] == ROWS


def plots(client: httpx2.Client, run_id: str) -> None:
    for kind in ("complexity", "layers", "confusion", "roc"):
        for form, first in (("png", b"\x89PNG"), ("svg", b"<?xml")):
            drawn = client.get(f"/api/v1/runs/{run_id}/plots/{kind}.{form}")
            assert drawn.status_code == 200, drawn.text
            assert drawn.content.startswith(first), kind


def imports(engine: Engine) -> int:
    """Import all our modules in the API's container and return their number."""
    (api,) = engine.containers("api")
    return int(engine.run("exec", api, "python3", "-W", "ignore", "-c", IMPORTS).split()[-1])


def grpc_infer(engine: Engine, authorization: str) -> None:
    (predict,) = engine.containers("predict")
    printed = engine.run("exec", predict, "python3", "-c", INFER, authorization)
    assert "[2" in printed, printed


def s3_store(engine: Engine, image: str) -> None:
    """Store a blob on an S3 server (moto, on this machine) and read it back."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            until(lambda: listens(port), 30, "the S3 server")
            variables = {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": "tester",
                "AWS_SECRET_ACCESS_KEY": "tester",
            }
            assert once(engine, image, STORE, **variables).split()[-1] == "stored"
        finally:
            server.kill()


def traces(engine: Engine, image: str) -> None:
    """Send a span to a collector on this machine."""
    with collector() as (endpoint, received):
        once(engine, image, TRACE, endpoint)
        assert any(path == "/v1/traces" and b"traced" in body for path, body in received), received


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    received: list[tuple[str, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", received
        finally:
            server.shutdown()


def once(engine: Engine, image: str, script: str, *arguments: str, **environment: str) -> str:
    """Run statements in a new container that shares this machine's loopback."""
    variables = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
    fixed = ["--rm", "--read-only", "--tmpfs", "/tmp", "--network", "host", "--cap-drop", "ALL"]
    return engine.run("run", *fixed, *variables, image, "python3", "-c", script, *arguments)
