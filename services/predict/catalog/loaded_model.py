"""One artifact in memory: its columns, which encode rows, its ONNX Runtime session, and its time per row."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from fitserve import artifacts
from fitserve.blobs import BlobStore, Corrupt
from fitserve.conformal import Bounds, Conformal, RowFacts
from fitserve.decisions.apply import Decider
from fitserve.encoder import FEW_ROWS
from fitserve.encoding.row_warnings import RowWarnings
from fitserve.errors import NotFound, Unavailable
from fitserve.explain import ShapleyValues, shapley
from fitserve.live_coverage import moved_levels
from services.predict.catalog.columns import Array, Columns, InputRows
from services.predict.catalog.row_buffer import RowBuffer

if TYPE_CHECKING:
    import onnxruntime

SESSION_BYTES = 230_000  # memory of a session beside its weights, measured with ONNX Runtime 1.32
INLINE_SECONDS_PER_ROW = 250e-6  # a model that takes at most this long is inferred on the event loop
ROW_BUFFERS = 2  # one for the event loop, one for gRPC's threads
_WARM_UP_ROWS = (1, 16, 1, 1, 1)
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(double)": np.float64,
}


class LoadFailed(Exception):
    """A version cannot be loaded now. `code` is one of gRPC's canonical names."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """The output for one target.

    `labels` names a classification's units (both classes if a sigmoid has one unit). `datatype` is the Open Inference
    Protocol's: FP64 for numbers with an offset so large that float32 would lose digits.
    """

    name: str
    task: str  # binary, multiclass, multilabel, regression
    labels: tuple[str, ...] | None
    units: int
    datatype: Literal["FP32", "FP64"] = "FP32"


@dataclass(slots=True)  # not frozen: one row's prediction would take half a microsecond longer
class Prediction:
    """The answer to one request, and where the time went.

    `outputs` are float arrays of shape (rows, units) by target; `warnings` is None if there are none. `rows` are the
    request's rows; `feeds` are their encoded tensors, kept only if bounds depend on them.
    """

    model: LoadedModel
    outputs: dict[str, Array]
    warnings: RowWarnings | None
    rows: InputRows
    feeds: Mapping[str, Array] | None
    encode_seconds: float
    infer_seconds: float
    queue_seconds: float = 0.0

    def bounds(self, level: float | None, only: str | None = None) -> list[Bounds]:
        """Return the intervals or sets of each output, or of one output, at a level. Raises BadInput.

        `level` None means the version's default level, if it has one; NO_LEVEL means no bounds.
        """
        if level is None and self.model.moved_levels:
            own = self.model.levels
            return [one for name in own if only in (None, name) for one in self.bounds(own[name], name)]
        level = self.model.level if level is None else level
        if not level:
            return []
        return self.model.conformal.bounds(self.outputs, level, RowFacts(self.groups, self.feeds), only)

    @property
    def groups(self) -> list[str | None] | None:
        """The rows' labels in the column `coverage_by`; None without one."""
        name = self.model.conformal.coverage_by
        return None if name is None else self.model.columns.labels_in(name, self.rows)

    @property
    def row_count(self) -> int:
        return len(next(iter(self.outputs.values())))

    def flat_warnings(self, most: int) -> list[dict[str, Any]]:
        """Return the first `most` warnings, each with its row (from 0)."""
        if self.warnings is None:
            return []
        return [{"row": row, **warning.to_json()} for row, warning in self.warnings.first(most)]


class DriftSampler(Protocol):
    """Samples a model's requests and answers for drift; see `serving.drift`. Times are `time.perf_counter`'s."""

    next_sample_at: float

    def sample(self, now: float, rows: list[Any], flat: bool, count: int, answers: list[Any]) -> None: ...

    def sample_request(self, rows: InputRows, outputs: Mapping[str, Any]) -> None: ...


class LoadedModel:
    """A verified, warmed-up artifact. `predict` and `infer` may be called from several threads."""

    def __init__(
        self, name: str, version: int, label: str | None, artifact: str, manifest: Mapping[str, Any], onnx: bytes
    ) -> None:
        self.name, self.version, self.label, self.artifact = name, version, label, artifact
        self.manifest = manifest
        self.columns = Columns(manifest)
        self._buffers: list[RowBuffer] = []  # row buffers that no request is using
        self._buffers_to_make = ROW_BUFFERS  # made when they are first needed
        self.outputs = tuple(
            ModelOutput(
                o["name"],
                o["task"],
                None if o.get("labels") is None else tuple(map(str, o["labels"])),
                o["units"],
                o.get("datatype", "FP32"),
            )
            for o in manifest["outputs"]
        )
        self.output_names = [output.name for output in self.outputs]
        self.single_output = len(self.outputs) == 1
        self.conformal = Conformal(manifest)
        self.level = self.conformal.level  # default level, for requests that name none
        self.moved_levels: dict[str, float] = {}  # for each output, adjusted to ground truth
        self.session = artifacts.onnx_session(onnx)
        own = artifacts.ONE_ROW_PROPERTY in self.session.get_modelmeta().custom_metadata_map
        self._row_session = artifacts.onnx_session(onnx, rows=1) if own else self.session
        produced = {value.name for value in self.session.get_outputs()}
        if missing := [name for name in self.output_names if name not in produced]:
            raise ValueError(f"The graph has no outputs {missing}.")
        self.bytes = (len(onnx) * 2 + SESSION_BYTES) * (2 if own else 1)
        self.version_text = str(version)
        headers = f"\r\nx-model-version: {version}" + (f"\r\nx-model-label: {label}" if label else "")
        self.response_head_end = f"{headers}\r\n\r\n".encode()  # heads of the fast lane's responses
        self.counters: dict[str, Any] = {}  # by protocol: `counters.VersionCounters`
        self.sampler: DriftSampler | None = None  # set by the service once the model is served
        self.deciders: dict[str, Decider] = {}  # by output: the decisions in force
        self.distance: onnxruntime.InferenceSession | None = None  # read when a decision first needs it
        self.set_decisions(manifest.get("decisions") or ())
        self.last_used = time.monotonic()
        self.seconds_per_row = self._warm_up()
        self.runs_inline = self.seconds_per_row < INLINE_SECONDS_PER_ROW

    @property
    def bound_outputs(self) -> list[tuple[str, str, int]]:
        """Name, datatype and width of the outputs that bounds add to a request without a level."""
        if self.level is None:
            return []
        numbers = ("FP64", 1)
        return [
            (name, *(numbers if one["task"] == "regression" else ("BOOL", len(one["labels"]))))
            for name, one in self.conformal.added
        ]

    @property
    def levels(self) -> dict[str, float]:
        """Each output's default level, for requests that name none."""
        return {one["name"]: self.level for one in self.conformal.outputs if self.level} | self.moved_levels

    def level_of(self, asked: float | bool | None) -> float | None:
        """Return the level for a request to a model with one output, None for no interval. Raises ValueError."""
        if asked is None:
            return None if self.level is None else self.moved_levels.get(self.output_names[0], self.level)
        if asked is False:
            return None
        if asked is True or not 0 < asked < 1:
            raise ValueError(asked)
        return asked

    def set_error_rates(self, error_rates: Mapping[str, float]) -> None:
        """Set the error rates that were adjusted to ground truth, by output."""
        self.moved_levels = moved_levels(self.conformal, error_rates)

    def set_decisions(self, decisions: Iterable[Mapping[str, Any]]) -> None:
        """Put decisions in force."""
        labels = {output.name: output.labels or () for output in self.outputs}
        self.deciders = {one["output"]: Decider(one, labels[one["output"]]) for one in decisions}

    def _warm_up(self) -> float:
        """Run a few batches, so that the first request is not slower; return the median seconds of one row.

        It measures processor time of one thread, so that other load on the machine makes no model look slower.
        """
        seconds = []
        for rows in _WARM_UP_ROWS:
            feeds = {
                value.name: np.zeros(
                    [rows if not isinstance(d, int) or axis == 0 else d for axis, d in enumerate(value.shape)],
                    _DTYPES.get(value.type, np.float32),
                )
                for value in self.session.get_inputs()
            }
            started = time.thread_time()
            self.session.run(self.output_names, feeds)
            seconds.append(time.thread_time() - started)
        return sorted(seconds[2:])[1]

    @property
    def answers_numbers_only(self) -> bool:
        """Whether an answer is just the numbers of one output, inferred on the event loop."""
        return self.runs_inline and self.single_output and self.level is None

    def take_buffer(self) -> RowBuffer | None:
        """Borrow memory for a few rows; None if the model has none, or other threads are using it."""
        try:
            return self._buffers.pop()
        except IndexError:
            pass
        if self._buffers_to_make <= 0:
            return None
        self._buffers_to_make -= 1
        try:
            return RowBuffer(self.columns.encoder, self.session, self._row_session, self.output_names)
        except ValueError:
            return None

    def return_buffer(self, buffer: RowBuffer) -> None:
        """Let other requests use a buffer."""
        self._buffers.append(buffer)

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the graph's outputs by target, each of shape (rows, units)."""
        values = self.session.run(self.output_names, feeds)
        return {
            output.name: value if value.ndim == 2 else value.reshape(len(value), -1)
            for output, value in zip(self.outputs, values, strict=True)
        }

    def predict(self, rows: InputRows) -> Prediction:
        """Encode and infer. Raises BadInput, which names row and column."""
        started = time.perf_counter()
        if rows.count < FEW_ROWS and (buffer := self.take_buffer()) is not None:
            try:
                if buffer.encode(rows.values):
                    encoded_at = time.perf_counter()
                    answers = {name: view.copy() for name, view in buffer.infer(rows.count).items()}
                    seconds = encoded_at - started, time.perf_counter() - encoded_at
                    feeds = buffer.feeds(rows.count) if self.conformal.needs_feeds else {}
                    return self.prediction(answers, None, rows, feeds, *seconds)
            finally:
                self.return_buffer(buffer)
        feeds, warnings = self.columns.encode(rows)
        encoded_at = time.perf_counter()
        outputs = self.infer(feeds)
        infer_seconds = time.perf_counter() - encoded_at
        return self.prediction(outputs, warnings, rows, feeds, encoded_at - started, infer_seconds)

    def prediction(
        self,
        outputs: dict[str, Array],
        warnings: RowWarnings | None,
        rows: InputRows,
        feeds: Mapping[str, Array],
        *seconds: float,
    ) -> Prediction:
        """Build the prediction of rows; `seconds` fill the timing fields of `Prediction`, in order."""
        return Prediction(self, outputs, warnings, rows, feeds if self.conformal.needs_feeds else None, *seconds)

    def explain(self, rows: InputRows) -> ShapleyValues:
        """Return each column's contribution to the prediction of each row. Raises BadInput, TooLarge."""
        listed = self.columns.positional(self.columns.without_unused_columns(rows))
        return shapley(listed, self.columns.baseline, lambda mixed: self.predict(InputRows(mixed)).outputs)

    def find_output(self, name: str | None, tasks: Sequence[str]) -> ModelOutput | None:
        """Return the named output, or without a name the first output with one of these tasks."""
        return next((o for o in self.outputs if o.task in tasks and (not name or o.name == name)), None)


def load(blobs: BlobStore, name: str, version: int, label: str | None, artifact: str, run: str) -> LoadedModel:
    """Read an artifact, check every byte against its SHA-256, build and warm up the model. Raises LoadFailed.

    Its manifest must name `run`, the run that the registry has for this version.
    """
    try:
        manifest = artifacts.read(blobs, artifact, run).manifest
        onnx = blobs.read(manifest["onnx"]["sha256"])
        return LoadedModel(name, version, label, artifact, manifest, onnx)
    except Corrupt as error:
        raise LoadFailed("DATA_LOSS", error.detail) from error
    except NotFound as error:
        raise LoadFailed("NOT_FOUND", error.detail) from error
    except (Unavailable, OSError) as error:
        raise LoadFailed("UNAVAILABLE", f"The blob store is not reachable: {type(error).__name__}.") from error
    except Exception as error:
        raise LoadFailed("INTERNAL", f"The artifact cannot be loaded: {type(error).__name__}.") from error
