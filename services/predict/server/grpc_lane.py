"""The fast lane of gRPC: ModelInfer with one raw tensor of all columns, for a known caller and model.

It runs in gRPC's threads, one call at a time. A call's metadata and model are checked once, on the ordinary path, and
its message is parsed once: a message of the same length that differs only in the numbers at its end parses alike. The
numbers of later calls go straight to the network, and its outputs are appended to an answer that was serialized before.
Anything unusual takes the ordinary path with the very same bytes, which produces all errors and warnings.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from fitserve.encoder import FEW_NUMBERS
from services.predict.catalog.loaded_model import LoadedModel
from services.predict.protocols.formats import MATRIX_NAMES
from services.predict.protocols.proto import inference_pb2 as pb
from services.predict.serving.counters import DIRECT_ROWS, Counters, VersionCounters
from services.predict.serving.prediction_service import PredictionService
from services.predict.serving.protocol_request import ProtocolRequest

METHOD = "/inference.GRPCInferenceService/ModelInfer"
PROTOCOL = "oip_grpc"
MAX_KNOWN, MAX_FORMS = 2048, 64
MAX_FORM_BYTES = 1024  # of a message without its numbers: fields that Protocol Buffers skips may fill 32 MB
MAX_MESSAGE_BYTES = MAX_FORM_BYTES + 8 * FEW_NUMBERS  # a larger one is not parsed here, where all others would wait
MAX_METADATA_BYTES = 2048
RAW_CONTENTS = bytes((7 << 3 | 2,))  # the tag of `raw_input_contents`, the last field of a message
_HARMLESS = frozenset({"authorization", "user-agent", "x-forwarded-for", "grpc-accept-encoding", "accept-encoding"})
_TYPES = {"FP32": "f", "FP64": "d"}  # of `struct`
_DTYPES: dict[str, Any] = {"FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}

Metadata = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """Messages that differ only in their numbers: the requested model and outputs, the answer without its numbers."""

    model: LoadedModel
    numbers: struct.Struct  # its numbers, little-endian
    rows: int
    answer: bytes
    trailing: tuple[tuple[str, str], ...]  # metadata of its answer
    counters: VersionCounters


class KnownCaller:
    """The forms of one caller's messages, by the length of their numbers and by the bytes before these."""

    def __init__(self, key_id: Hashable, generation: object) -> None:
        self.key_id, self.generation = key_id, generation
        self.models: dict[tuple[str, str], LoadedModel] = {}
        self.numbers: dict[int, int] = {}
        self.forms: dict[bytes, Form] = {}

    def form_of(self, data: bytes) -> tuple[Form, tuple[float, ...]] | None:
        """Return the form of a message and its numbers; None if the form is not known."""
        start = len(data) - self.numbers.get(len(data), 0)
        form = self.forms.get(data[:start])
        return None if form is None else (form, form.numbers.unpack_from(data, start))

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
        self._counters = service.counters
        self._callers: dict[Metadata, KnownCaller] = {}
        self.generation = object()  # another one after each change of keys, labels or models
        self._lock = threading.Lock()
        service.updates.on_change.append(self._forget)

    def _forget(self) -> None:
        self.generation = object()
        self._callers.clear()

    def caller(self, metadata: Metadata) -> KnownCaller | None:
        """Return the caller of an earlier call with the same metadata; None for the first such call."""
        return self._callers.get(metadata)

    def remember(self, generation: object, metadata: Metadata, request: ProtocolRequest, message: Any) -> None:
        """Remember the caller and model of a call that the ordinary path answered, if later calls may use this lane.

        `generation` is that of the call's beginning. Belongs to the event loop's thread.
        """
        model, entry = request.model, request.entry
        if generation is not self.generation:
            return
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
        caller = self._callers.setdefault(metadata, KnownCaller(request.identify().key_id, generation))
        caller.models[message.model_name, message.model_version] = model

    def answer(self, caller: KnownCaller, data: bytes) -> tuple[bytes, Form] | None:
        """Return the response to a message, and its form; None if it must take the ordinary path."""
        if len(data) > MAX_MESSAGE_BYTES:
            return None
        started = time.perf_counter()
        with self._lock:
            if caller.generation is not self.generation:  # changed while its message was awaited
                return None
            known = caller.form_of(data) or _read(caller, data, self._counters)
            if known is None:
                return None
            form, numbers = known
            values = _infer(form, numbers)
            if values is None:
                return None
            _count(form, numbers, values, started)
        return form.answer + values, form


def _infer(form: Form, numbers: tuple[float, ...]) -> bytes | None:
    """Return the outputs in the answer's datatype; None if a row is not clean."""
    model = form.model
    buffer = model.take_buffer()
    if buffer is None:
        return None
    try:
        if not buffer.write_numbers(numbers):
            return None
        (values,) = buffer.infer(form.rows).values()
        dtype = _DTYPES[model.outputs[0].datatype]
        return (values if values.dtype is dtype else values.astype(dtype)).tobytes()
    finally:
        model.return_buffer(buffer)


def _count(form: Form, numbers: tuple[float, ...], values: bytes, started: float) -> None:
    model, rows, counters = form.model, form.rows, form.counters
    now = time.perf_counter()
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
        answers = np.frombuffer(values, _DTYPES[model.outputs[0].datatype]).reshape(rows, -1)
        model.sampler.sample(now, [list(numbers)], True, rows, [answers])


def _read(caller: KnownCaller, data: bytes, counters: Counters) -> tuple[Form, tuple[float, ...]] | None:
    """Return a message's form, and remember it, and its numbers; None if it asks for more than the plain answer."""
    try:
        message = pb.ModelInferRequest.FromString(data)
    except DecodeError:
        return None
    model = caller.models.get((message.model_name, message.model_version))
    if model is None or message.outputs or message.parameters or len(message.inputs) != 1:
        return None
    (tensor,), raw = message.inputs, message.raw_input_contents
    shape = list(tensor.shape)
    if tensor.datatype not in _TYPES or tensor.name not in MATRIX_NAMES or len(raw) != 1 or tensor.parameters:
        return None
    if len(shape) != 2 or shape[0] < 1 or shape[1] != len(model.columns.names) or tensor.HasField("contents"):
        return None
    numbers = raw[0]
    if len(numbers) != shape[0] * shape[1] * struct.calcsize(_TYPES[tensor.datatype]):
        return None
    layout = struct.Struct(f"<{shape[0] * shape[1]}{_TYPES[tensor.datatype]}")
    answer = _answer_before_numbers(model, message.id, shape[0])
    trailing = (("x-model-version", model.version_text),)
    form = Form(model, layout, shape[0], answer, trailing, counters.of_lane(model, PROTOCOL))
    if not message.id:  # the next message has another id
        caller.learn(data, form, numbers)
    return form, layout.unpack(numbers)


def _answer_before_numbers(model: LoadedModel, id: str, rows: int) -> bytes:
    """Return a ModelInferResponse without the numbers, which are its last bytes."""
    response = pb.ModelInferResponse(model_name=model.name, model_version=model.version_text, id=id)
    output = model.outputs[0]
    response.outputs.add(name=output.name, datatype=output.datatype, shape=(rows, output.units))
    numbers = bytes(rows * output.units * struct.calcsize(_TYPES[output.datatype]))
    response.raw_output_contents.append(numbers)
    whole = response.SerializeToString(deterministic=True)
    return bytes(whole[: len(whole) - len(numbers)])


def _varint(number: int) -> bytes:
    """Encode a number as a Protocol Buffers varint."""
    low, rest = number & 0x7F, number >> 7
    return bytes((low | 0x80,)) + _varint(rest) if rest else bytes((low,))
