"""A table with one number and a label, versions of it, and a trainer that finds the best threshold: no TensorFlow."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper
from sqlalchemy import Engine

from fitserve import artifacts, db, registry
from fitserve.automations import store as automations
from fitserve.automations.scheduler import Scheduler
from fitserve.blobs import FolderStore
from fitserve.datasets import appends, store
from fitserve.encoder import Encoder
from fitserve.runs import finish, lease
from fitserve.settings import Settings
from fitserve.spec.feature import Feature
from fitserve.tables import Automation, Dataset
from fitserve.wire.automations import AutomationRequest, Firing
from fitserve.wire.datasets import UploadOptions

SPEC = {
    "dataset": "points",
    "target": "y",
    "features": ["x"],
    "split": {"validation": 0.2, "test": 0.3},
    "network": [{"Dense": 2}],
    "model": "m",
}


def rows(count: int, border: float, *, seed: int = 0, missing: float = 0.0, flipped: bool = False) -> pa.Table:
    """Return points between -10 and 10, labelled yes above the border."""
    random = np.random.default_rng(seed)
    x = random.uniform(-10, 10, count).round(4)
    label = np.where((x > border) ^ flipped, "yes", "no")
    return pa.table({"x": pa.array(x, mask=random.random(count) < missing), "y": label})


@dataclass
class World:
    """Everything that automations of one owner need."""

    engine: Engine
    home: Path
    owner: str = "ann"
    published: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = Settings(home=self.home, drift_event_rows=10)
        self.blobs = FolderStore(self.home / "blobs")
        self.scheduler = self.new_scheduler()

    def new_scheduler(self) -> Scheduler:
        return Scheduler(self.settings, self.engine, self.blobs, self.published.append)

    def upload(self, table: pa.Table, name: str = "points", *, append: bool = False) -> Dataset:
        path = self.home / "upload.parquet"
        pq.write_table(table, path)
        received = store.ReceivedFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, None)
        common: dict[str, Any] = {
            "options": UploadOptions(format="parquet"),
            "limits": self.settings.limits,
            "scratch": self.home,
        }
        if append:
            with db.reading(self.engine) as session:
                parent = store.get(session, self.owner, name)
            return appends.append_rows(self.engine, self.blobs, parent, received, **common)[0]
        made = store.create(self.engine, self.blobs, received, owner=self.owner, name=name, as_version=True, **common)
        return made[0]

    def automate(self, name: str = "a", **policy: Any) -> Automation:
        policy = {"do": {"spec": SPEC}, **policy}
        with db.transaction(self.engine) as session:
            request = AutomationRequest.model_validate({"name": name, **policy})
            limits = self.settings.limits
            return automations.create(session, request, limits, owner=self.owner, key_id=None, sees=self.owner)

    def train(self, *, fails: bool = False) -> int | None:
        """Train the next queued run, and return the version that it registered."""
        claim = lease.claim(self.engine, "w", lease_seconds=60, running_limit=10)
        if claim is None:
            return None
        run, held = claim.run, claim.lease
        if fails:
            finish.fail(self.engine, held, "diverged", "The loss became NaN")
            return None
        with db.reading(self.engine) as session:
            dataset = session.get_one(Dataset, run.dataset_id)
        table = pq.read_table(store.local_parquet(self.blobs, dataset, self.home)).drop_null()
        x, yes = table.column("x").to_numpy(), np.array(table.column("y").to_pylist()) == "yes"
        borders = np.quantile(x, np.linspace(0.01, 0.99, 99))
        scores = [((x > border) == yes).mean() for border in borders]
        border = borders[int(np.argmax(scores))]
        facts = store.facts_of(dataset)
        encoder = Encoder.fit([Feature.model_validate({"x": "pass_through"})], table, facts)
        graph = self.home / "graph.onnx"
        graph.write_bytes(_threshold(border))
        outputs = [{"name": "y", "task": "binary", "labels": ["no", "yes"], "units": 1}]
        manifest = {"run": run.id, "task": "binary", "encoder": encoder.to_json(), "outputs": outputs}
        written, stored = artifacts.write(self.blobs, {"onnx": graph}, manifest)
        version: list[int] = []

        def register(session: Any) -> dict[str, int]:
            version.append(registry.add_version(session, run.model or "m", run.owner, run.id, written.sha256, {}))
            return {"version": version[0]}

        result = {"artifact": written.sha256, "metrics": {}}
        finish.succeed(self.engine, held, result, blobs=self.blobs, stored=stored, register=register)
        return version[0]

    def rounds(self, count: int = 3) -> None:
        for _ in range(count):
            assert self.scheduler.round()

    def history(self, row: Automation) -> list[Firing]:
        """Return what an automation did, the first first."""
        with db.reading(self.engine) as session:
            return [Firing.model_validate(one) for one in automations.history(session, row.id, limit=100)][::-1]

    def row(self, row: Automation) -> Automation:
        with db.reading(self.engine) as session:
            return session.get_one(Automation, row.id)

    def champion(self) -> int | None:
        with db.reading(self.engine) as session:
            found = automations.champion(session, "m")
        return found.version if found is not None else None


def _threshold(border: float) -> bytes:
    nodes = [
        helper.make_node("Gemm", ["features", "w", "b"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([[4.0]], np.float32), "w"),
        numpy_helper.from_array(np.array([-4.0 * border], np.float32), "b"),
    ]
    made = helper.make_graph(
        nodes,
        "threshold",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(onnx.ModelProto.SerializeToString(model))
