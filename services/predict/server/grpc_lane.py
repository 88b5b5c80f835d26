"""The fast lane of gRPC: ModelInfer with one raw tensor of all columns, for a known caller and model.

A call's metadata and model are checked once, on the ordinary path, and its message is parsed once: a message of the
same length that differs only in the numbers at its end parses alike. The numbers of later calls go straight to the
network, and its outputs are appended to an answer that was serialized before. Anything unusual takes the ordinary path
with the very same bytes, which produces all errors and warnings.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from services.predict.catalog.loaded_model import LoadedModel
from services.predict.protocols.formats import MATRIX_NAMES
from services.predict.protocols.proto import inference_pb2 as pb
from services.predict.serving.counters import DIRECT_ROWS
from services.predict.serving.prediction_service import PredictionService
from services.predict.serving.protocol_request import ProtocolRequest

METHOD = "/inference.GRPCInferenceService/ModelInfer"
PROTOCOL = "oip_grpc"
MAX_KNOWN, MAX_FORMS = 2048, 64
MAX_FORM_BYTES = 1024  # of a message without its numbers: fields that Protocol Buffers skips may fill 32 MB
MAX_METADATA_BYTES = 2048
RAW_CONTENTS = bytes((7 << 3 | 2,))  # the tag of `raw_input_contents`, the last field of a message
_HARMLESS = frozenset({"authorization", "user-agent", "x-forwarded-for", "grpc-accept-encoding", "accept-encoding"})
_TYPES = {"FP32": "<f4", "FP64": "<f8"}

Metadata = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """Messages that differ only in their numbers: the requested model and outputs, the answer without its numbers."""

    model: LoadedModel
    dtype: str  # NumPy's dtype
    answer: bytes


class KnownCaller:
    """The forms of one caller's messages, by the length of their numbers and by the bytes before these."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, str], LoadedModel] = {}
        self.numbers: dict[int, int] = {}
        self.forms: dict[bytes, Form] = {}

    def form_of(self, data: bytes) -> tuple[Form, Any] | None:
        """Return the form of a message and its numbers; None if the form is not known."""
        start = len(data) - self.numbers.get(len(data), 0)
        form = self.forms.get(data[:start])
        return None if form is None else (form, np.frombuffer(data, form.dtype, offset=start))

    def learn(self, data: bytes, form: Form, numbers: bytes) -> None:
        """Remember the form of a message, if the message is complete and ends with these numbers."""
        end = RAW_CONTENTS + _varint(len(numbers)) + numbers
        if len(data) - len(numbers) > MAX_FORM_BYTES or not data.endswith(end):
            return
        with contextlib.suppress(DecodeError):
            if pb.ModelInferRequest.FromString(data[: len(data) - len(end)]).raw_input_contents:
                return
            if len(self.forms) >= MAX_FORMS:
                self.forms.clear()
                self.numbers.clear()
            self.numbers[len(data)] = len(numbers)
            self.forms[data[: len(data) - len(numbers)]] = form


class GrpcLane:
    """Known callers, by the metadata of their earlier calls."""

    def __init__(self, service: PredictionService) -> None:
        self._service = service
        self._callers: dict[Metadata, KnownCaller] = {}
        service.updates.on_change.append(self._callers.clear)

    def knows(self, metadata: Metadata) -> bool:
        """Return whether an earlier call with these metadata was answered."""
        return metadata in self._callers

    def remember(self, metadata: Metadata, request: ProtocolRequest, message: Any) -> None:
        """Remember the caller and model of a call that the ordinary path answered, if later calls may use this lane."""
        model, entry = request.model, request.entry
        if model is None or entry is None or not all(key in _HARMLESS for key, _ in metadata):
            return
        if sum(len(value) for _, value in metadata) > MAX_METADATA_BYTES:
            return
        if entry.shadows or entry.canaries or not model.answers_numbers_only or model.label:
            return
        if model.columns.plain_numbers is None or set(MATRIX_NAMES) & set(model.columns.names):
            return
        if len(self._callers) >= MAX_KNOWN:
            self._callers.clear()
        caller = self._callers.setdefault(metadata, KnownCaller())
        caller.models[message.model_name, message.model_version] = model

    def answer(self, metadata: Metadata, data: bytes) -> tuple[bytes, LoadedModel] | None:
        """Return the response to a message and the model that gave it; None if it must take the ordinary path."""
        started = time.perf_counter()
        caller = self._callers.get(metadata)
        if caller is None:
            return None
        known = caller.form_of(data) or _read(caller, data)
        if known is None:
            return None
        form, numbers = known
        values = self._infer(form.model, numbers)
        if values is None:
            return None
        self._count(form.model, numbers, values, started)
        return form.answer + values.tobytes(), form.model

    def _infer(self, model: LoadedModel, flat: Any) -> Any:
        buffer = model.take_buffer()
        if buffer is None:
            return None
        try:
            if not buffer.write_numbers(flat.tolist()):
                return None
            (values,) = buffer.infer(len(flat) // len(model.columns.names)).values()
            return values.astype(_TYPES[model.outputs[0].datatype])
        finally:
            model.return_buffer(buffer)

    def _count(self, model: LoadedModel, flat: Any, values: Any, started: float) -> None:
        counters = model.counters.get(PROTOCOL) or self._service.counters.of_version(model, PROTOCOL)
        now, rows = time.perf_counter(), len(values)
        counters.requests += 1
        counters.rows += rows
        counters.batches += 1
        counters.durations.observe(now - started)
        if rows < DIRECT_ROWS:
            counters.sizes.direct[rows] += 1
        else:
            counters.sizes.observe(rows)
        model.last_used = time.monotonic()
        if model.sampler is not None and now > model.sampler.next_sample_at:
            model.sampler.sample(now, [flat.astype(np.float64).tolist()], True, rows, [values])


def _read(caller: KnownCaller, data: bytes) -> tuple[Form, Any] | None:
    """Return a message's form, and remember it, and its numbers; None if it asks for more than the plain answer."""
    try:
        message = pb.ModelInferRequest.FromString(data)
    except DecodeError:
        return None
    model = caller.models.get((message.model_name, message.model_version))
    if model is None or message.outputs or message.parameters or len(message.inputs) != 1:
        return None
    (tensor,), raw = message.inputs, message.raw_input_contents
    dtype, shape = _TYPES.get(tensor.datatype), list(tensor.shape)
    if dtype is None or tensor.name not in MATRIX_NAMES or len(raw) != 1 or tensor.parameters:
        return None
    if len(shape) != 2 or shape[0] < 1 or shape[1] != len(model.columns.names) or tensor.HasField("contents"):
        return None
    numbers = raw[0]
    if len(numbers) != shape[0] * shape[1] * int(dtype[2]):
        return None
    form = Form(model, dtype, _answer_before_numbers(model, message.id, shape[0]))
    if not message.id:  # the next message has another id
        caller.learn(data, form, numbers)
    return form, np.frombuffer(numbers, dtype)


def _answer_before_numbers(model: LoadedModel, id: str, rows: int) -> bytes:
    """Return a ModelInferResponse without the numbers, which are its last bytes."""
    response = pb.ModelInferResponse(model_name=model.name, model_version=model.version_text, id=id)
    output = model.outputs[0]
    response.outputs.add(name=output.name, datatype=output.datatype, shape=(rows, output.units))
    numbers = bytes(rows * output.units * int(_TYPES[output.datatype][2]))
    response.raw_output_contents.append(numbers)
    whole = response.SerializeToString(deterministic=True)
    return bytes(whole[: len(whole) - len(numbers)])


def _varint(number: int) -> bytes:
    """Encode a number as a Protocol Buffers varint."""
    low, rest = number & 0x7F, number >> 7
    return bytes((low | 0x80,)) + _varint(rest) if rest else bytes((low,))
