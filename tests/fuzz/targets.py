"""Fuzzing targets: each reads untrusted bytes, and may only accept or reject them.

The first byte selects options (delimiter, content type, model, protocol), so that one input is one file.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import DecodeError

from fitserve import weights_file
from fitserve.datasets.ingest import ingest
from fitserve.datasets.readers.csv_dialect import detect_dialect
from fitserve.errors import FitserveError
from fitserve.settings import Limits
from fitserve.spec.decode import parse_bytes
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import parse
from fitserve.wire.datasets import UploadOptions
from services.predict.catalog.columns import InputRows
from services.predict.catalog.loaded_model import LoadedModel, Prediction
from services.predict.protocols.csv_body import read_csv
from services.predict.protocols.formats import rows_of, write_csv
from services.predict.protocols.oip import grpc as oip_grpc
from services.predict.protocols.oip import inference as oip
from services.predict.protocols.proto import inference_pb2, tensorflow_serving_pb2
from services.predict.protocols.tfserving import grpc as tfserving_grpc
from services.predict.protocols.tfserving import rest as tfserving
from services.predict.protocols.tfserving.predict_body import read_divided, read_predict
from tests.predict.toy_registry import THREE, ToyModel, mixed, numeric
from tests.spec.table import facts

LIMITS = Limits(columns=200, field_bytes=10_000, layers=50, parameters=10**6, trials=50)
OPTIONS = (
    UploadOptions(format="csv"),
    UploadOptions(format="csv", lenient=True),
    UploadOptions(format="csv", delimiter=";", decimal=",", header=True),
    UploadOptions(format="csv", delimiter="\t", quote="'", header=False),
    UploadOptions(format="csv", kinds={"a": "categorical"}, missing=("-",)),
    UploadOptions(format="jsonl"),
    UploadOptions(format="jsonl", lenient=True),
    UploadOptions(),
)


def sniffer(data: bytes) -> None:
    """Detect a CSV dialect: delimiter, header, names, decimal sign."""
    options = OPTIONS[data[0] % 5]
    text = data[1:].decode("utf-8", "replace")
    dialect, _ = detect_dialect(text, options, LIMITS, whole=bool(data[0] & 128))
    assert dialect.names, "a table has columns"
    assert len(set(dialect.names)) == len(dialect.names), "their names differ"
    assert all(dialect.names), "no name is empty"


def table(data: bytes) -> None:
    """Ingest a whole upload, from its bytes to Parquet and a profile."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        (folder / "body").write_bytes(data[1:])
        ingested = ingest(folder / "body", OPTIONS[data[0] % len(OPTIONS)], LIMITS, folder)
        assert ingested.rows > 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def spec(data: bytes) -> None:
    """Resolve a spec in JSON or YAML; a resolved spec resolves to itself."""
    kind = ("application/json", "application/yaml")[data[0] % 2]
    resolved = resolve(parse_bytes(data[1:], kind, LIMITS), facts(), LIMITS).spec.to_json()
    again = resolve(parse(resolved, LIMITS), facts(), LIMITS).spec.to_json()
    assert again == resolved, "a resolved spec is a fixed point"


@functools.cache
def models() -> tuple[LoadedModel, ...]:
    """Return models with six numbers, with mixed columns, and with three targets."""
    return tuple(_load(toy) for toy in (numeric(hidden=(4,)), mixed(), mixed(THREE)))


def _load(toy: ToyModel) -> LoadedModel:
    return LoadedModel("toy", 1, None, "0" * 64, toy.manifest, toy.onnx)


def tfserving_body(data: bytes) -> None:
    """Read TensorFlow Serving's bodies: predict, classify and regress in JSON, rows in CSV, gRPC's message."""
    model, form = models()[data[0] % 3], data[0] // 3 % 5
    if form == 0:
        rows, by_row, _ = read_predict(model, data[1:])
        tfserving.write_predict(_predict(model, rows), by_row)
    elif form == 1:
        rows, _ = tfserving.read_examples(model, data[1:])
        _predict(model, rows)
    elif form == 2:
        write_csv(_predict(model, read_csv(model, data[1:])))
    elif form == 3:
        _tfserving_message(model, data[1:])
    else:
        _as_many_values(model, data[1:])


def _as_many_values(model: LoadedModel, body: bytes) -> None:
    """Read a predict body as those of many values are: what is accepted is accepted whole, as the same rows."""
    divided, by_row, level = read_divided(model, body)
    whole, *how = read_predict(model, body)
    assert repr((divided.values, [by_row, level])) == repr((whole.values, how))


def _tfserving_message(model: LoadedModel, data: bytes) -> None:
    try:
        request = tensorflow_serving_pb2.PredictRequest.FromString(data)
    except DecodeError:
        return  # gRPC itself rejects these bytes
    _predict(model, rows_of(model, tfserving_grpc.read_tensors(request.inputs)))


def oip_body(data: bytes) -> None:
    """Read the Open Inference Protocol's bodies: JSON, JSON with binary tensors, gRPC's message."""
    model, form = models()[data[0] % 3], data[0] // 3 % 3
    if form == 2:
        _oip_message(model, data[1:])
        return
    length = min(data[1] * 4, len(data) - 2) if form == 1 and len(data) > 1 else None
    request = oip.read_infer(model, data[2:] if form == 1 else data[1:], length)
    oip.write_infer(_predict(model, request.rows), request, {})


def _oip_message(model: LoadedModel, data: bytes) -> None:
    try:
        request = inference_pb2.ModelInferRequest.FromString(data)
    except DecodeError:
        return
    rows = rows_of(model, oip_grpc.read_tensors(request))
    outputs = oip.select_outputs(model, oip_grpc.named_outputs(request))
    oip_grpc.write_response(request, _predict(model, rows), outputs, {})


def _predict(model: LoadedModel, rows: InputRows) -> Prediction:
    return model.predict(rows)


def weights(data: bytes) -> None:
    """Check a file of weights; one that is accepted can be read."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / "weights"
        path.write_bytes(data)
        weights_file.check(path)
        weights_file.read(path)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "sniffer": sniffer,
    "spec": spec,
    "tfserving": tfserving_body,
    "oip": oip_body,
    "table": table,
    "weights": weights,
}


def attempt(name: str, data: bytes) -> str:
    """Run a target. Returns `accepted`, or how it was rejected; anything but a typed 4xx is raised."""
    if not data:
        return "empty"
    try:
        TARGETS[name](data)
    except FitserveError as error:
        if error.status >= 500:
            raise
        return f"{error.status} {error.slug}"
    return "accepted"
