"""A registry of toy models and the real prediction service on top of it, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import migrations
from fitserve import api_keys, artifacts, db, registry
from fitserve.blobs import BlobStore, open_store
from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.encoder import Encoder
from fitserve.ids import new_id
from fitserve.spec.feature import Feature
from fitserve.states import RunState
from fitserve.tables import Blob, Dataset, Run
from tests.conftest import free_ports
from tests.server_logs import add_log
from tests.waiting import PATIENCE, wait_until

PROJECT = Path(__file__).resolve().parent.parent.parent
NUMBERS = tuple(f"x{place}" for place in range(6))
ONNX_TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}


@dataclass(frozen=True)
class ToyModel:
    """The parts of an artifact."""

    encoder: Encoder
    onnx: bytes
    outputs: list[dict[str, Any]]
    more: dict[str, Any] = field(default_factory=dict)  # entries of the manifest
    files: dict[str, bytes] = field(default_factory=dict)  # beside the graph, by kind

    @property
    def manifest(self) -> dict[str, Any]:
        return {
            "task": self.outputs[0]["task"],
            "encoder": self.encoder.to_json(),
            "outputs": self.outputs,
            **self.more,
        }

    def answer(self, rows: Sequence[Any]) -> dict[str, np.ndarray]:
        """Return the expected predictions, computed without the service."""
        feeds, _ = self.encoder.encode_rows(list(rows))
        names = [output["name"] for output in self.outputs]
        session = ort.InferenceSession(self.onnx, providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(names, feeds), strict=True))


def graph(
    width: int, outputs: list[dict[str, Any]], *, hidden: Sequence[int] = (128, 64), seed: int = 0, bias: float = 0.0
) -> bytes:
    """Return the ONNX graph of a dense network over the input `features`; each output's task chooses its activation."""
    random = np.random.default_rng(seed)
    nodes, constants, previous, size = [], [], "features", width

    def dense(source: str, name: str, inputs: int, units: int) -> str:
        weights = random.normal(0, inputs**-0.5, (inputs, units)).astype(np.float32)
        constants.append(numpy_helper.from_array(weights, f"{name}_w"))
        constants.append(numpy_helper.from_array(np.full(units, bias, np.float32), f"{name}_b"))
        nodes.append(helper.make_node("Gemm", [source, f"{name}_w", f"{name}_b"], [f"{name}_z"]))
        return f"{name}_z"

    for place, units in enumerate(hidden):
        nodes.append(helper.make_node("Relu", [dense(previous, f"h{place}", size, units)], [f"a{place}"]))
        previous, size = f"a{place}", units
    for output in outputs:
        kind = {"regression": "Identity", "multiclass": "Softmax"}.get(output["task"], "Sigmoid")
        last = dense(previous, f"out_{output['name']}", size, output["units"])
        nodes.append(helper.make_node(kind, [last], [output["name"]]))
    made = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info(o["name"], TensorProto.FLOAT, [None, o["units"]]) for o in outputs],
        constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(onnx.ModelProto.SerializeToString(model))


PAIR = [{"name": "y", "task": "regression", "labels": None, "units": 2}]


def numeric(seed: int = 0, bias: float = 0.0, hidden: Sequence[int] = (128, 64)) -> ToyModel:
    """Return the benchmark's model: six numbers passed through, 128-64-2."""
    table = pa.table({name: [-100.0, 100.0] for name in NUMBERS})
    columns = tuple(
        ColumnFacts(name=name, kind="numeric", storage="float64", rows=2, distinct=2, min=-100, max=100)
        for name in NUMBERS
    )
    facts = DatasetFacts(name="toy", version=1, sha256="0" * 64, rows=2, columns=columns)
    features = [Feature.model_validate({name: "pass_through"}) for name in NUMBERS]
    return ToyModel(Encoder.fit(features, table, facts), graph(6, PAIR, seed=seed, bias=bias, hidden=hidden), PAIR)


def pixel_encoder(width: int, flag: int) -> Encoder:
    """Return an encoder of pixels from 0 to 255, of which one was only black or white in training: a boolean."""
    names = [f"pixel{place}" for place in range(width)]
    tops = [1 if place == flag else 255 for place in range(width)]
    table = pa.table({name: pa.array([0, top], pa.int64()) for name, top in zip(names, tops, strict=True)})
    known = {"storage": "int64", "rows": 2, "distinct": 2, "min": 0}
    kinds = [{"kind": "boolean", "labels": ("0", "1")} if top == 1 else {"kind": "numeric"} for top in tops]
    columns = tuple(
        ColumnFacts.model_validate({"name": name, "max": top, **known, **kind})
        for name, top, kind in zip(names, tops, kinds, strict=True)
    )
    facts = DatasetFacts(name="image", version=1, sha256="0" * 64, rows=2, columns=columns)
    encodings = ["boolean" if top == 1 else "min_max" for top in tops]
    features = [Feature.model_validate({name: one}) for name, one in zip(names, encodings, strict=True)]
    return Encoder.fit(features, table, facts)


def wide() -> ToyModel:
    """Return a model of 144 pixels, one of them a boolean."""
    return ToyModel(pixel_encoder(144, flag=12), graph(144, PAIR), PAIR)


def mixed(outputs: list[dict[str, Any]] | None = None, seed: int = 0) -> ToyModel:
    """Return a model of gre and gpa standardised, rank and city one-hot; one binary output by default."""
    table = pa.table(
        {
            "gre": pa.array([380, 660, 800, 640, None], pa.int64()),
            "gpa": [3.61, 3.67, 4.0, 3.19, 2.93],
            "rank": pa.array([3, 3, 1, 4, 2], pa.int64()),
            "city": ["Rom", "Bern", "Rom", "Ürzig", None],
        }
    )
    facts = DatasetFacts(
        name="toy",
        version=1,
        sha256="0" * 64,
        rows=5,
        columns=(
            ColumnFacts(name="gre", kind="numeric", storage="int64", rows=5, missing=1, distinct=4, min=380, max=800),
            ColumnFacts(name="gpa", kind="numeric", storage="float64", rows=5, distinct=5, min=2.93, max=4.0),
            ColumnFacts(
                name="rank", kind="categorical", storage="int64", rows=5, distinct=4, labels=("1", "2", "3", "4")
            ),
            ColumnFacts(
                name="city",
                kind="categorical",
                storage="string",
                rows=5,
                missing=1,
                distinct=3,
                labels=("Bern", "Rom", "Ürzig"),
            ),
        ),
    )
    encoder = Encoder.fit([Feature(column=name) for name in table.column_names], table, facts)
    outputs = outputs or [{"name": "admit", "task": "binary", "labels": ["no", "yes"], "units": 1}]
    return ToyModel(encoder, graph(encoder.inputs[0].shape[0], outputs, seed=seed, hidden=(16,)), outputs)


THREE = [
    {"name": "admit", "task": "binary", "labels": ["no", "yes"], "units": 1},
    {"name": "tier", "task": "multiclass", "labels": ["a", "b", "c"], "units": 3},
    {"name": "score", "task": "regression", "labels": None, "units": 1},
]


@dataclass
class ToyRegistry:
    """A home folder: database, blobs, API keys."""

    home: Path
    url: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)  # by artifact

    def run_of(self, model: str, version: int) -> str:
        """Return the run of a version."""
        with db.reading(self.engine) as session:
            return registry.version(session, model, version).run_id

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.url = self.url or f"sqlite:///{self.home / 'fitserve.db'}"
        migrations.upgrade(self.url)
        self.engine: Engine = db.make_engine(self.url)
        self.blobs: BlobStore = open_store(f"file://{self.home / 'blobs'}")
        self.blobs.put_bytes(b"")
        with db.transaction(self.engine) as session:
            if session.get(Dataset, "ds") is None:  # else the home is a copy of another one
                self._add_dataset(session)
        self.token = self.create_key(["predict", "read", "train"])

    def _add_dataset(self, session: Session) -> None:
        at = db.now(session)
        session.add(Blob(sha256="e" * 64, bytes=0, kind="dataset", created_at=at))
        session.flush()
        session.add(
            Dataset(
                id="ds",
                name="toy",
                version=1,
                owner="ada",
                sha256="e" * 64,
                blob="e" * 64,
                rows=1,
                bytes=1,
                source={},
                columns=[],
                profile={},
                created_at=at,
            )
        )

    def create_key(self, scopes: list[str], owner: str = "ada", models: list[str] | None = None) -> str:
        """Create a key and return its token."""
        with db.transaction(self.engine) as session:
            name = new_id("k").replace("_", "-")
            return api_keys.create(session, owner=owner, name=name, scopes=scopes, models=models)[1]

    def store_artifact(self, toy: ToyModel, run: str | None = None) -> str:
        """Store an artifact, of a new run if none is given, and return its SHA-256."""
        run = run or new_id("run")
        with tempfile.TemporaryDirectory() as folder:
            paths = {kind: Path(folder) / kind for kind in ("onnx", *toy.files)}
            for kind, path in paths.items():
                path.write_bytes(toy.onnx if kind == "onnx" else toy.files[kind])
            made, stored = artifacts.write(self.blobs, paths, {**toy.manifest, "run": run})
        with db.transaction(self.engine) as session:
            for kind, blob in stored.items():
                if session.get(Blob, blob.sha256) is None:
                    session.add(Blob(sha256=blob.sha256, bytes=blob.bytes, kind=kind, created_at=db.now(session)))
        self.runs[made.sha256] = run
        return made.sha256

    def register(self, model: str, toy: ToyModel, owner: str = "ada", artifact: str | None = None) -> int:
        """Register a new version of a model and return its number; `artifact` if it is already stored."""
        artifact = artifact or self.store_artifact(toy)
        run = self.runs[artifact]
        with db.transaction(self.engine) as session:
            session.add(
                Run(
                    id=run,
                    owner=owner,
                    dataset_id="ds",
                    spec={},
                    resolved={},
                    estimates={},
                    state=RunState.succeeded,
                    created_at=db.now(session),
                )
            )
            session.flush()
            return registry.add_version(session, model, owner, run, artifact, {})

    def change(self, function: Any, *arguments: Any, **options: Any) -> Any:
        """Call a function of the registry in a transaction."""
        with db.transaction(self.engine) as session:
            return function(session, *arguments, **options)

    def settings(self, **more: str) -> dict[str, str]:
        return {
            "FITSERVE_HOME": str(self.home),
            "FITSERVE_DATABASE_URL": self.url,
            "FITSERVE_LOG_LEVEL": "WARNING",
            "FITSERVE_REGISTRY_POLL_SECONDS": "0.1",
            **self.environment,
            **more,
        }


@dataclass
class RunningService:
    """A running prediction service."""

    toys: ToyRegistry
    port: int
    grpc_port: int
    process: subprocess.Popen[bytes]
    ready_seconds: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.toys.token}"}

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    def telemetry(self, name: str) -> float:
        """Return the sum of one metric's values."""
        lines = self.get("/metrics").splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


@contextlib.contextmanager
def run_service(
    toys: ToyRegistry,
    prefix: Sequence[str] = (),
    module: str = "services.predict",
    ready: str = "/readyz",
    **environment: str,
) -> Iterator[RunningService]:
    """Run `python -m services.predict` on free ports until the block ends; yield once `ready` answers 200."""
    port, grpc_port = free_ports(2)
    settings = toys.settings(FITSERVE_PREDICT_PORT=str(port), FITSERVE_GRPC_PORT=str(grpc_port), **environment)
    started = time.monotonic()
    toys.home.mkdir(parents=True, exist_ok=True)
    log = add_log(toys.home / f"{module}-{port}.log")
    command = [*prefix, sys.executable, "-m", module]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=PROJECT, env={**os.environ, **settings}, stdout=sink, stderr=sink)
    try:
        wait_ready(f"http://127.0.0.1:{port}{ready}", process, log)
        yield RunningService(toys, port, grpc_port, process, time.monotonic() - started)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_ready(url: str, process: subprocess.Popen[bytes], log: Path | None = None) -> None:
    """Wait until it answers 200, or its process has ended."""

    def answers() -> bool:
        with contextlib.suppress(urllib.error.URLError, OSError):
            with urllib.request.urlopen(url, timeout=10):
                return True
        return False

    wait_until(answers, url, process=process, log=log)


def eventually(condition: Any, seconds: float = PATIENCE) -> None:
    """Wait until a condition holds: at most `seconds`, or PATIENCE where that is longer."""
    wait_until(condition, patience=max(seconds, PATIENCE))
