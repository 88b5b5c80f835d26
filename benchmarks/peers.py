"""Other servers for the same network, each in its own virtual environment.

A folder holds one folder per peer: how its users would serve the model, reading the ONNX file named by `M1_ONNX` and
listening on 127.0.0.1:8100. The environments are created on demand in another folder, with `uv` if available.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.wrk import DidNotStart, Side, started

VALUES = [1.5, -2.25, 3.0, 0.125, 5.75, -6.5]
ROWS = json.dumps({"instances": [VALUES]})
_UVICORN = ["-m", "uvicorn", "app:app", "--port", "8100", "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
_MLFLOW = ["-m", "mlflow", "models", "serve", "-m", "onnx_model", "--env-manager", "local", "-h", "127.0.0.1"]
_BENTO = ["-m", "bentoml", "serve", "service:M1", "--host", "127.0.0.1", "--port", "8100"]


class NotInstalled(Exception):
    """A peer that is not available here, and why."""


@dataclass(frozen=True)
class Peer:
    """How to install, start and query another server. Without requirements it uses our interpreter."""

    requirements: tuple[str, ...]
    command: list[str]
    path: str
    body: str = ROWS
    prepare: list[str] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    program: str | None = None  # not a Python package; must be on the PATH


PEERS = {
    "naive": Peer((), _UVICORN, "/predict"),
    "mlserver": Peer(
        ("mlserver", "onnxruntime"),
        ["-c", "from mlserver.cli import main; main()", "start", "."],
        "/v2/models/m1/infer",
        json.dumps({"inputs": [{"name": "x", "shape": [1, 6], "datatype": "FP32", "data": VALUES}]}),
    ),
    "kserve": Peer(("kserve", "onnxruntime"), ["server.py"], "/v1/models/m1:predict"),
    "bentoml": Peer(("bentoml", "onnxruntime"), _BENTO, "/predict"),
    "litserve": Peer(("litserve", "onnxruntime"), ["server.py"], "/predict"),
    "ray": Peer(
        ("ray[serve]", "onnxruntime"),
        ["app.py"],
        "/predict",
        environment={"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
    ),
    "mlflow": Peer(
        ("mlflow", "onnxruntime", "onnx"),
        [*_MLFLOW, "-p", "8100"],
        "/invocations",
        ROWS.replace("instances", "inputs"),
        prepare=["save.py"],
    ),
    "tensorflow-serving": Peer(
        (),
        ["--rest_api_port=8100", "--model_name=m1", "--model_base_path={folder}/m1"],
        "/v1/models/m1:predict",
        program="tensorflow_model_server",
    ),
}


def interpreter(name: str, environments: Path | None, interpreters: dict[str, str]) -> str:
    """Return the Python that runs a peer, creating its environment if needed. Raises NotInstalled."""
    if name in interpreters:
        return interpreters[name]
    if not PEERS[name].requirements:
        return sys.executable
    if environments is None:
        raise NotInstalled("no folder for virtual environments was given (--environments)")
    return install(environments / name, PEERS[name].requirements)


def install(folder: Path, requirements: tuple[str, ...]) -> str:
    """Return the Python of a virtual environment with these packages, made if needed. Raises NotInstalled."""
    python, ready = folder / "bin" / "python", folder / ".installed"
    if not ready.exists() and not _works(python, requirements):
        _install(folder, python, requirements)
    ready.touch()
    return str(python)


def _works(python: Path, requirements: tuple[str, ...]) -> bool:
    """Whether an existing environment has the required packages."""
    names = [requirement.partition("[")[0] for requirement in requirements]
    program = "import sys, importlib.metadata as m; [m.version(name) for name in sys.argv[1:]]"
    return python.exists() and subprocess.run([python, "-c", program, *names], capture_output=True).returncode == 0


def _install(folder: Path, python: Path, requirements: tuple[str, ...]) -> None:
    uv = shutil.which("uv")
    make = [uv, "venv", "-q", "--clear", "-p", sys.executable] if uv else [sys.executable, "-m", "venv", "--clear"]
    get = [uv, "pip", "install", "-q", "-p", str(python)] if uv else [str(python), "-m", "pip", "install", "-q"]
    folder.mkdir(parents=True, exist_ok=True)
    for command in ([*make, str(folder)], [*get, *requirements]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise NotInstalled(" / ".join(lines[-3:])[-400:])


@contextlib.contextmanager
def peer_side(name: str, python: str, peers: Path, onnx: Path) -> Iterator[Side]:
    """Run a peer in a copy of its folder. Raises NotInstalled, DidNotStart."""
    peer = PEERS[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / name
        environment = {"M1_ONNX": str(onnx), "PATH": f"{Path(python).parent}:{os.environ['PATH']}", **peer.environment}
        if peer.program is None:
            shutil.copytree(peers / name, folder)
            start = [python]
        else:
            start = [_program(peer.program)]
            folder.mkdir()
            _saved_model(onnx, folder / "m1" / "1")
        if peer.prepare:
            whole = {**os.environ, **environment}
            done = subprocess.run([python, *peer.prepare], cwd=folder, env=whole, capture_output=True, text=True)
            if done.returncode != 0:
                raise DidNotStart(" / ".join(done.stderr.strip().splitlines()[-2:])[-400:])
        command = [*start, *(part.format(folder=folder) for part in peer.command)]
        url = f"http://127.0.0.1:8100{peer.path}"
        with started(command, folder, url, peer.body, environment) as pid:
            yield Side(name, url, peer.body, pid=pid)


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise NotInstalled(f"{name} is not on the PATH, and no Python package provides it")
    return path


def _saved_model(onnx: Path, folder: Path) -> None:
    """Export the same weights as a TensorFlow SavedModel, in a separate process."""
    program = (
        "import sys, onnx, keras\n"
        "from onnx import numpy_helper\n"
        "graph = onnx.load(sys.argv[1]).graph\n"
        "weights = {one.name: numpy_helper.to_array(one) for one in graph.initializer}\n"
        "layers = [weights[name] for node in graph.node if node.op_type == 'Gemm' for name in node.input[1:]]\n"
        "sizes = [layer.shape[0] for layer in layers[1::2]]\n"
        "dense = [keras.layers.Dense(size, 'relu') for size in sizes[:-1]] + [keras.layers.Dense(sizes[-1])]\n"
        "model = keras.Sequential([keras.Input((6,)), *dense])\n"
        "model.set_weights(layers)\n"
        "model.export(sys.argv[2], verbose=False)\n"
    )
    command = [sys.executable, "-c", program, str(onnx), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise DidNotStart(" / ".join(done.stderr.strip().splitlines()[-2:])[-400:])
