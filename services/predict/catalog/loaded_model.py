"""One artifact in memory: its encoder, its ONNX Runtime session, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fitserve.artifacts import onnx_session
from fitserve.explain import ShapleyValues, shapley
from services.predict.serving.rows import Columns, Rows
from services.predict.serving.timing import Timing

if TYPE_CHECKING:
    from services.predict.serving.drift import Watched

SESSION_BYTES = 230_000  # of a session beside its weights, as measured with ONNX Runtime 1.32


@dataclass(frozen=True, slots=True)
class Output:
    """One target. `labels` names a classification's units (both, for a sigmoid of one unit)."""

    name: str
    task: str  # binary, multiclass, multilabel, regression
    labels: tuple[str, ...] | None
    units: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """`outputs` are float arrays of shape (rows, units), by target; `warnings` one list a row, or None."""

    network: Network
    outputs: dict[str, npt.NDArray[Any]]
    warnings: list[list[dict[str, Any]]] | None

    @property
    def rows(self) -> int:
        return len(next(iter(self.outputs.values())))


class Network:
    """A loaded, verified, warmed-up artifact. `run` may be called from several threads."""

    def __init__(
        self, model: str, version: int, label: str | None, artifact: str, manifest: Mapping[str, Any], onnx: bytes
    ) -> None:
        self.model, self.version, self.label, self.artifact = model, version, label, artifact
        self.manifest = manifest
        self.columns = Columns(manifest)
        self.outputs = tuple(
            Output(o["name"], o["task"], None if o.get("labels") is None else tuple(map(str, o["labels"])), o["units"])
            for o in manifest["outputs"]
        )
        self.names = [output.name for output in self.outputs]
        self.single = len(self.outputs) == 1
        self.session = onnx_session(onnx)
        produced = {value.name for value in self.session.get_outputs()}
        if missing := [name for name in self.names if name not in produced]:
            raise ValueError(f"The graph has no outputs {missing}.")
        self.bytes = len(onnx) * 2 + SESSION_BYTES
        self.version_text = str(version)
        told = f"\r\nx-model-version: {version}" + (f"\r\nx-model-label: {label}" if label else "")
        self.head_suffix = f"{told}\r\n\r\n".encode()  # of the fast lane's answers
        self.tallies: dict[str, Any] = {}  # by protocol: what this version has answered (counters.Tally)
        self.watched: Watched | None = None  # counts what it is asked, where anybody wants to know
        self.last_used = time.monotonic()
        self.seconds_for_one = self.warm_up()
        self.small = self.seconds_for_one < SMALL_SECONDS

    def warm_up(self) -> float:
        """Runs a few batches, so that the first request pays nothing; the median seconds of one row."""
        taken = []
        for size in (1, 16, 1, 1, 1):
            feeds = {
                value.name: np.zeros(
                    [size if not isinstance(d, int) or i == 0 else d for i, d in enumerate(value.shape)],
                    _DTYPES.get(value.type, np.float32),
                )
                for value in self.session.get_inputs()
            }
            started = time.perf_counter()
            self.session.run(self.names, feeds)
            taken.append(time.perf_counter() - started)
        return sorted(taken[2:])[1]

    def infer(self, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """The graph's answers, each of shape (rows, units)."""
        values = self.session.run(self.names, feeds)
        return {
            output.name: value if value.ndim == 2 else value.reshape(len(value), -1)
            for output, value in zip(self.outputs, values, strict=True)
        }

    def predict(self, rows: Rows, timing: Timing | None = None) -> Prediction:
        """Encodes and infers. Raises BadInput that names row and column."""
        begun = time.perf_counter()
        feeds, warnings = self.columns.encode(rows)
        encoded_at = time.perf_counter()
        prediction = Prediction(self, self.infer(feeds), warnings)
        if timing is not None:
            timing.encode, timing.infer = encoded_at - begun, time.perf_counter() - encoded_at
        return prediction

    def explain(self, rows: Rows) -> ShapleyValues:
        """Return each column's contribution to the prediction of each row. Raises BadInput, TooLarge."""
        listed = self.columns.positional(rows)
        return shapley(listed, self.columns.baseline, lambda mixed: self.predict(Rows(mixed)).outputs)

    def output(self, name: str | None, tasks: Sequence[str]) -> Output | None:
        """The named output, or the first of one of these tasks; None where there is none."""
        return next((o for o in self.outputs if o.task in tasks and (not name or o.name == name)), None)


SMALL_SECONDS = 250e-6  # up to this for one row, inference stays on the event loop
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(double)": np.float64,
}
