"""A run as the insight routes read it: recorded epochs, the trainer's answers, graphs of the network."""

from __future__ import annotations

import io
import json
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from fitserve import artifacts, datasets, db
from fitserve.artifacts import Artifact
from fitserve.encoder import Encoder
from fitserve.errors import Conflict, NotFound
from fitserve.explain import Inputs, Predict
from fitserve.findings import EpochRow, Record
from fitserve.findings.record import view_of
from fitserve.runs import queries
from fitserve.states import TERMINAL, TRIAL, RunState
from fitserve.tables import Dataset, Epoch, Run
from fitserve.target_encoder import TargetEncoder
from services.control.deps import Context
from services.shell import Caller

MOST_ROWS = 5_000  # epochs that rules look at; of more, every n-th
_REMEMBERED = 16  # answers and graphs, least recently used first out
_MOST_BYTES = 64 * 1024 * 1024


class NotYet(Conflict):
    """The run has not got that far."""

    slug = "not-yet"


class NotTraining(Conflict):
    """This run trains nothing: there is nothing to learn of it."""

    slug = "not-training"


@dataclass(frozen=True)
class Studied:
    """A run that this caller sees, with everything that was found out about it."""

    ctx: Context
    run: Run
    record: Record

    @cached_property
    def artifact(self) -> Artifact:
        """The run's artifact. Raises NotYet, where it has none."""
        name = (self.run.result or {}).get("artifact")
        if name is None:
            raise NotYet(f"The run is {self.run.state}: it has no trained network.", received=self.run.state)
        found: Artifact = _MEMORY.get(("manifest", name), lambda: (artifacts.read(self.ctx.blobs, name), 100_000))
        return found

    @property
    def insight(self) -> dict[str, Any]:
        """The trainer's answers. Raises NotYet, NotFound (an artifact made before there were any)."""
        return _insight_of(self.ctx, self.artifact)

    @cached_property
    def encoder(self) -> Encoder:
        """The artifact's encoder."""
        return Encoder.from_json(self.artifact.manifest["encoder"])

    @cached_property
    def targets(self) -> TargetEncoder:
        """The artifact's targets."""
        return TargetEncoder.from_json(self.artifact.manifest["targets"])

    def target(self, name: str | None) -> str:
        """A question's name: the one asked for, or the first. Raises NotFound."""
        known = list(self.insight["targets"])
        if name is None:
            return known[0]
        if name not in known:
            raise NotFound(f"There is no target {name[:80]!r}.", received=name[:80], expected=", ".join(known[:20]))
        return name

    def network(self, epoch: int | None) -> onnxruntime.InferenceSession:
        """The serving graph, or that of a kept epoch, hidden layers' outputs among its own. Raises NotFound."""
        kept = self.insight.get("networks")
        if kept is None:
            if epoch not in (None, self.insight["kept_epoch"]):
                raise NotFound("No networks were kept along the way.", received=epoch)
            return self._session("onnx", None)
        if epoch is None or epoch == kept["kept"]:
            return self._session("networks", "kept.onnx")
        if epoch not in kept["epochs"]:
            raise NotFound(
                f"The network of epoch {epoch} was not kept.",
                received=epoch,
                expected=f"one of {', '.join(map(str, self.epochs))}",
            )
        return self._session("networks", f"epoch-{epoch}.onnx")

    @property
    def epochs(self) -> list[int]:
        """Epochs whose network can be asked."""
        kept = self.insight.get("networks")
        return sorted({*kept["epochs"], kept["kept"]}) if kept else [self.insight["kept_epoch"]]

    def _session(self, kind: str, member: str | None) -> onnxruntime.InferenceSession:
        blob = self.artifact.file(kind)

        def load() -> tuple[onnxruntime.InferenceSession, int]:
            data = self.ctx.blobs.read(blob.sha256)
            if member is not None:
                with zipfile.ZipFile(io.BytesIO(data)) as archive:
                    data = archive.read(member)
            return artifacts.onnx_session(data), 2 * len(data)

        found: onnxruntime.InferenceSession = _MEMORY.get((kind, blob.sha256, member), load)
        return found


def predictor(session: onnxruntime.InferenceSession, output: str) -> Predict:
    """One output of a graph as a function of encoded inputs."""
    names = [one.name for one in session.get_inputs()]

    def predict(inputs: Inputs) -> Any:
        said = session.run([output], {name: inputs[name] for name in names})[0]
        return np.asarray(said, np.float64).reshape(len(said), -1)

    return predict


def studied(ctx: Context, caller: Caller, run_id: str) -> Studied:
    """A run with its record. Raises NotFound, NotYet."""
    with db.reading(ctx.engine) as session:
        run = trains(queries.get(session, run_id, caller.owner_filter))
        facts = datasets.facts_of(session.get_one(Dataset, run.dataset_id))
        result = run.result or {}
        kept = result.get("best_trial")
        rows = recorded(session, run.id, {result.get("best_epoch")} - {None})
    insight = None
    if result.get("artifact"):
        try:
            insight = _insight_of(ctx, artifacts.read(ctx.blobs, result["artifact"]))
        except NotFound:
            insight = None
    failed = (run.error or {}).get("cause") if run.state == RunState.failed else None
    record = Record(run.resolved, facts, rows, view_of(insight, run.resolved), kept, failed)
    return Studied(ctx, run, record)


def trains(run: Run) -> Run:
    """The run itself. Raises NotTraining where it trains nothing."""
    if "training" not in run.resolved or run.kind == TRIAL:
        raise NotTraining(f"The run is a {run.kind}.", received=run.kind, expected="a run that trains")
    return run


def ended(found: Studied) -> None:
    """Raises NotYet while the run is under way."""
    if found.run.state not in TERMINAL:
        raise NotYet(f"The run is {found.run.state}.", received=found.run.state, expected="a run that has ended")


def recorded(session: Session, run_id: str, always: set[Any]) -> list[EpochRow]:
    """The run's epochs: of very many the first ten, every n-th, and those of `always`."""
    count = session.scalar(select(func.count()).where(Epoch.run_id == run_id)) or 0
    step = -(-count // MOST_ROWS)
    query = select(Epoch).where(Epoch.run_id == run_id).order_by(Epoch.trial, Epoch.epoch)
    if step > 1:
        query = query.where(or_(Epoch.epoch <= 10, Epoch.epoch % step == 0, Epoch.epoch.in_(always)))
    return [EpochRow(row.trial, row.epoch, row.logs, row.layers) for row in session.scalars(query)]


def _insight_of(ctx: Context, artifact: Artifact) -> dict[str, Any]:
    if "insight" not in artifact.kinds:
        raise NotFound("This artifact holds no answers about the network.")
    blob = artifact.file("insight")

    def load() -> tuple[dict[str, Any], int]:
        return json.loads(ctx.blobs.read(blob.sha256)), 4 * blob.bytes

    found: dict[str, Any] = _MEMORY.get(("insight", blob.sha256), load)
    return found


class _Memory:
    """What was loaded by content hash, at most so many things and bytes."""

    def __init__(self) -> None:
        self._held: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Any, load: Any) -> Any:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key][0]
        value, size = load()
        with self._lock:
            self._held[key] = (value, size)
            while len(self._held) > _REMEMBERED or (len(self._held) > 1 and self._bytes() > _MOST_BYTES):
                self._held.popitem(last=False)
        return value

    def _bytes(self) -> int:
        return sum(size for _, size in self._held.values())


_MEMORY = _Memory()
