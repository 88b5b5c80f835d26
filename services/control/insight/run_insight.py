"""What the insight routes read about a run: its epochs, the trainer's report, and its networks as ONNX graphs."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from cachetools import LRUCache, cached
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from fitserve import artifacts, db
from fitserve.artifacts import Artifact
from fitserve.blobs import StoredBlob
from fitserve.datasets import store
from fitserve.encoder import Encoder
from fitserve.errors import Conflict, NotFound
from fitserve.explain import Inputs, Predict
from fitserve.findings import EpochRow, RunRecord
from fitserve.findings.record import flatten_insight
from fitserve.runs import queries
from fitserve.settings import MB
from fitserve.states import INTERNAL_KINDS, TERMINAL, RunState
from fitserve.tables import Dataset, Epoch, Run
from fitserve.target_encoder import TargetEncoder
from services.control.deps import Context
from services.http import Caller

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MAX_EPOCHS = 5_000  # most epochs read by the finding rules; of more, every n-th is read

# Artifacts, reports and networks are cached by their hash: they never change, and a page requests the same ones again.
_CACHED_BYTES = 32 * MB  # of reports, and as much of networks


class NotReady(Conflict):
    """The run has not progressed far enough to answer."""

    slug = "not-yet"


class NotTraining(Conflict):
    """The run is not a training, so there is nothing to learn from it."""

    slug = "not-training"


@dataclass(frozen=True)
class RunInsight:
    """A training run that the caller may read, with its epochs and, once trained, its report and networks."""

    ctx: Context
    run: Run
    record: RunRecord

    @cached_property
    def artifact(self) -> Artifact:
        """The run's artifact. Raises NotReady if it has none."""
        sha256 = (self.run.result or {}).get("artifact")
        if sha256 is None:
            raise NotReady(f"The run is {self.run.state}: it has no trained network.", received=self.run.state)
        return _read_artifact(self.ctx, sha256)

    @property
    def report(self) -> dict[str, Any]:
        """The trainer's report on the network. Raises NotReady, NotFound (an artifact from before there were any)."""
        return _read_report(self.ctx, self.artifact)

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder.from_json(self.artifact.manifest["encoder"])

    @cached_property
    def targets(self) -> TargetEncoder:
        return TargetEncoder.from_json(self.artifact.manifest["targets"])

    def target(self, name: str | None) -> str:
        """Return the name of the requested target, or of the first one. Raises NotFound."""
        known = list(self.report["targets"])
        if name is None:
            return known[0]
        if name not in known:
            raise NotFound(f"There is no target {name[:80]!r}.", received=name[:80], expected=", ".join(known[:20]))
        return name

    def network(self, epoch: int | None) -> InferenceSession:
        """Open the serving graph, or that of a kept epoch; hidden layers are among its outputs. Raises NotFound."""
        networks = self.report.get("networks")
        if networks is None:
            if epoch not in (None, self.report["kept_epoch"]):
                raise NotFound("This run kept no networks of earlier epochs.", received=epoch)
            return self._open("onnx")
        if epoch is None or epoch == networks["kept"]:
            return self._open("networks", "kept.onnx")
        if epoch not in networks["epochs"]:
            raise NotFound(
                f"The network of epoch {epoch} was not kept.",
                received=epoch,
                expected=f"one of {', '.join(map(str, self.epochs))}",
            )
        return self._open("networks", f"epoch-{epoch}.onnx")

    @property
    def epochs(self) -> list[int]:
        """Epochs whose network was kept."""
        networks = self.report.get("networks")
        return sorted({*networks["epochs"], networks["kept"]}) if networks else [self.report["kept_epoch"]]

    def _open(self, kind: str, member: str | None = None) -> InferenceSession:
        """Open an ONNX file of the artifact, or a member of a ZIP file of it."""
        session, _ = _load_network(self.ctx, self.artifact.file(kind), member)
        return session


def predictor(session: InferenceSession, output: str) -> Predict:
    """Return one output of a graph as a function from encoded inputs to float64 `(rows, units)`."""
    names = [value.name for value in session.get_inputs()]

    def predict(inputs: Inputs) -> Any:
        values = session.run([output], {name: inputs[name] for name in names})[0]
        return np.asarray(values, np.float64).reshape(len(values), -1)

    return predict


def load_insight(ctx: Context, caller: Caller, run_id: str) -> RunInsight:
    """Read a training run and its record. Raises NotFound, NotTraining."""
    with db.reading(ctx.engine) as session:
        run = require_training(queries.get(session, run_id, caller.owner_filter))
        facts = store.facts_of(session.get_one(Dataset, run.dataset_id))
        result = run.result or {}
        best_epoch = result.get("best_epoch")
        rows = read_epochs(session, run.id, always=() if best_epoch is None else (best_epoch,))
    report = None
    if result.get("artifact"):
        try:
            report = _read_report(ctx, _read_artifact(ctx, result["artifact"]))
        except NotFound:
            report = None
    failed = (run.error or {}).get("cause") if run.state == RunState.failed else None
    record = RunRecord(
        run.resolved, facts, rows, flatten_insight(report, run.resolved), result.get("best_trial"), failed
    )
    return RunInsight(ctx, run, record)


def require_training(run: Run) -> Run:
    """Return the run. Raises NotTraining if it is a batch prediction, or a trial of another run."""
    if "training" not in run.resolved or run.kind in INTERNAL_KINDS:
        raise NotTraining(f"The run is a {run.kind}.", received=run.kind, expected="a run that trains")
    return run


def require_ended(run: Run) -> None:
    """Raise NotReady while the run is queued or running."""
    if run.state not in TERMINAL:
        raise NotReady(f"The run is {run.state}.", received=run.state, expected="a run that has ended")


def read_epochs(session: Session, run_id: str, always: Collection[int] = ()) -> list[EpochRow]:
    """Read a run's epochs; of more than `MAX_EPOCHS` the first ten, every n-th, and those in `always`."""
    count = session.scalar(select(func.count()).where(Epoch.run_id == run_id)) or 0
    step = -(-count // MAX_EPOCHS)
    query = select(Epoch).where(Epoch.run_id == run_id).order_by(Epoch.trial, Epoch.epoch)
    if step > 1:
        query = query.where(or_(Epoch.epoch <= 10, Epoch.epoch % step == 0, Epoch.epoch.in_(always)))
    return [EpochRow(row.trial, row.epoch, row.logs, row.layers) for row in session.scalars(query)]


def report_of(ctx: Context, artifact: Artifact) -> dict[str, Any] | None:
    """Return the trainer's report on an artifact's network; None if there is none."""
    return _read_report(ctx, artifact) if "insight" in artifact.kinds else None


def _read_report(ctx: Context, artifact: Artifact) -> dict[str, Any]:
    if "insight" not in artifact.kinds:
        raise NotFound("This artifact contains no report on the network.")
    report, _ = _load_report(ctx, artifact.file("insight"))
    return report


def _size(entry: tuple[Any, int]) -> int:
    """Return an entry's bytes. One that is larger than its cache is kept alone, or each request would load it again."""
    return min(entry[1], _CACHED_BYTES)


@cached(LRUCache(200), key=lambda _, sha256: sha256, lock=Lock())
def _read_artifact(ctx: Context, sha256: str) -> Artifact:
    return artifacts.read(ctx.blobs, sha256)


@cached(LRUCache(_CACHED_BYTES, getsizeof=_size), key=lambda _, blob: blob.sha256, lock=Lock())
def _load_report(ctx: Context, blob: StoredBlob) -> tuple[dict[str, Any], int]:
    """Return a report and its approximate bytes as Python objects."""
    return json.loads(ctx.blobs.read(blob.sha256)), 4 * blob.bytes


@cached(LRUCache(_CACHED_BYTES, getsizeof=_size), key=lambda _, blob, member: (blob.sha256, member), lock=Lock())
def _load_network(ctx: Context, blob: StoredBlob, member: str | None) -> tuple[InferenceSession, int]:
    """Open an ONNX file, or a member of a ZIP file. Return it and its approximate bytes."""
    data = ctx.blobs.read(blob.sha256)
    if member is not None:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = archive.read(member)
    # A session holds its weights twice, as initializers and packed for its kernels, beside some 2 MB of its own.
    return artifacts.onnx_session(data), 2 * len(data) + 2 * MB
