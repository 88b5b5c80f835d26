"""The fast lane of gRPC: ModelInfer of one raw tensor of all columns, from a caller and of a model that are known.

A call's metadata and model are checked once, on the ordinary way; later calls with the same ones go straight from the
message's bytes to the network and back. Anything unusual takes the ordinary way with the very same bytes, which has
all errors and warnings.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from services.predict.catalog.loaded_model import LoadedModel
from services.predict.protocols.formats import MATRIX_NAMES
from services.predict.protocols.proto import inference_pb2 as pb
from services.predict.serving.counters import DIRECT_ROWS
from services.predict.serving.prediction_service import PredictionService, ProtocolRequest

METHOD = "/inference.GRPCInferenceService/ModelInfer"
PROTOCOL = "oip_grpc"
MOST_KNOWN = 2048
_HARMLESS = frozenset({"authorization", "user-agent", "x-forwarded-for", "grpc-accept-encoding", "accept-encoding"})
_TYPES = {"FP32": "<f4", "FP64": "<f8"}

Metadata = tuple[Any, ...]


class GrpcLane:
    """What is known of earlier calls: which metadata are a caller's, and which model answers it."""

    def __init__(self, service: PredictionService) -> None:
        self._service = service
        self._models: dict[Metadata, dict[tuple[str, str], LoadedModel]] = {}
        service.on_change.append(self._models.clear)

    def knows(self, metadata: Metadata) -> bool:
        """Return whether an earlier call with these metadata was answered."""
        return metadata in self._models

    def remember(self, metadata: Metadata, request: ProtocolRequest, message: Any) -> None:
        """Remember the caller and the model of a call that the ordinary way has answered, if others may go this way."""
        model, entry = request.model, request.entry
        if model is None or entry is None or not all(key in _HARMLESS for key, _ in metadata):
            return
        if entry.shadows or entry.canaries or not model.answers_plainly or model.label:
            return
        if model.columns.plain_numbers is None or set(MATRIX_NAMES) & set(model.columns.names):
            return
        if len(self._models) >= MOST_KNOWN:
            self._models.clear()
        self._models.setdefault(metadata, {})[message.model_name, message.model_version] = model

    def answer(self, metadata: Metadata, data: bytes) -> tuple[bytes, LoadedModel] | None:
        """Return the response to a message and the model that gave it; None where it must take the ordinary way."""
        started = time.perf_counter()
        known = self._models.get(metadata)
        if known is None:
            return None
        try:
            message = pb.ModelInferRequest.FromString(data)
        except DecodeError:
            return None
        model = known.get((message.model_name, message.model_version))
        if model is None or message.outputs or message.parameters or len(message.inputs) != 1:
            return None
        (tensor,), raw = message.inputs, message.raw_input_contents
        dtype, shape = _TYPES.get(tensor.datatype), list(tensor.shape)
        if dtype is None or tensor.name not in MATRIX_NAMES or len(raw) != 1 or tensor.parameters:
            return None
        if len(shape) != 2 or shape[1] != len(model.columns.names) or tensor.HasField("contents"):
            return None
        if len(raw[0]) != shape[0] * shape[1] * int(dtype[2]):
            return None
        values = self._infer(model, np.frombuffer(raw[0], dtype))
        return None if values is None else (self._respond(model, message, values, started), model)

    def _infer(self, model: LoadedModel, flat: Any) -> Any:
        buffer = model.take_buffer()
        if buffer is None:
            return None
        try:
            if not len(flat) or not buffer.write_numbers(flat.tolist()):
                return None
            (values,) = buffer.infer(len(flat) // len(model.columns.names)).values()
            return values.copy()
        finally:
            model.give_back(buffer)

    def _respond(self, model: LoadedModel, message: Any, values: Any, started: float) -> bytes:
        response = pb.ModelInferResponse(model_name=model.name, model_version=model.version_text, id=message.id)
        output = model.outputs[0]
        response.outputs.add(name=output.name, datatype=output.datatype, shape=values.shape)
        response.raw_output_contents.append(values.astype(_TYPES[output.datatype], copy=False).tobytes())
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
            flat = np.frombuffer(message.raw_input_contents[0], _TYPES[message.inputs[0].datatype])
            model.sampler.sample(now, [flat.astype(np.float64).tolist()], True, rows, [values])
        return bytes(response.SerializeToString())
