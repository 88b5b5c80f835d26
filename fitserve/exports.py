"""Formats that a served version can be exported to, beside `model.keras` and `model.onnx`: what each can hold.

A worker makes an export, as a run of kind `export`, and compares it with what is served before it can be downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fitserve.encoding import ENCODINGS
from fitserve.errors import BadInput, Problem

EXPORT_BLOB = "export"


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """One format. `encodings`: those that it can hold, None: all."""

    suffix: str
    title: str
    encodings: frozenset[str] | None = None
    code: bool = False  # whether it holds how the network was trained


_IN_ONNX = frozenset(name for name, encoding in ENCODINGS.items() if encoding.in_onnx)
_IN_CODE = frozenset(name for name, encoding in ENCODINGS.items() if encoding.in_code)

FORMATS: Mapping[str, ExportFormat] = {
    "onnx-raw": ExportFormat(".onnx", "ONNX with the preprocessing inside: takes raw columns", _IN_ONNX),
    "mlflow": ExportFormat(".zip", "an MLflow model, for `mlflow models serve`: takes raw columns", _IN_ONNX),
    "code": ExportFormat(
        ".zip",
        "a script and a notebook in Keras alone, which train the network again",
        _IN_CODE,
        code=True,
    ),
    "saved-model": ExportFormat(".zip", "SavedModel for TensorFlow Serving: takes raw columns"),
}


# Layers of Keras that do the same in every process; the script draws Dropout's masks as we do.
CODE_LAYERS = frozenset(
    {"Input", "Dense", "Activation", "BatchNormalization", "LayerNormalization", "UnitNormalization", "Flatten"}
    | {"GroupNormalization", "RMSNormalization", "Reshape", "Permute", "RepeatVector", "Rescaling", "Identity"}
    | {"Concatenate", "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"}
    | {"ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax", "Dropout", "Embedding"}
    | {"ZeroPadding1D", "Cropping1D", "UpSampling1D", "LSTM", "GRU", "SimpleRNN", "Bidirectional"}
    | {f"{kind}{rank}" for kind in ("Conv", "SeparableConv", "DepthwiseConv") for rank in ("1D", "2D")}
    | {f"{kind}Pooling{rank}" for kind in ("Max", "Average", "GlobalMax", "GlobalAverage") for rank in ("1D", "2D")}
)
# Keras draws their numbers in one stream, which networks that train side by side share.
_CODE_NOISE = frozenset({"GaussianNoise", "GaussianDropout", "AlphaDropout", "SpatialDropout1D", "SpatialDropout2D"})
_CODE_TRAINING = ("sample_weight", "class_weight", "warmup", "steps_per_epoch", "mixed_precision", "switches")


def check(format: str, manifest: Mapping[str, Any]) -> None:
    """Raise BadInput, naming each column or part, where a format cannot hold what an artifact has."""
    chosen = FORMATS[format]
    problems = [] if chosen.encodings is None else _of_encodings(format, chosen.encodings, manifest)
    problems += _of_names(format, manifest) if format == "saved-model" else []
    if chosen.code:
        problems += _of_training(format, manifest.get("spec"))
    if problems:
        raise BadInput(
            problems[0].detail,
            problems=problems,
            fix="Download model.keras, which holds everything, or export it in another format.",
        )


def _of_encodings(format: str, holds: frozenset[str], manifest: Mapping[str, Any]) -> list[Problem]:
    return [
        Problem(
            f"{format} cannot hold {column['encoding']['type']}, the encoding of the column {column['name']!r}.",
            column=column["name"],
            received=column["encoding"]["type"],
            expected=", ".join(sorted(holds)),
        )
        for column in manifest["encoder"]["columns"]
        if column["encoding"]["type"] not in holds
    ]


def _of_names(format: str, manifest: Mapping[str, Any]) -> list[Problem]:
    """Return the columns that a signature of TensorFlow's cannot tell apart: it has letters and digits alone."""
    first: dict[str, str] = {}
    problems = []
    for column in dict.fromkeys(column["name"] for column in manifest["encoder"]["columns"]):
        named = "".join(character if character.isalnum() else "_" for character in column)
        if (other := first.setdefault(named, column)) != column:
            detail = (
                f"{format} cannot hold both the column {other!r} and the column {column!r}: both are {named} there."
            )
            problems.append(
                Problem(detail, column=column, received=named, expected="names that differ in letters or digits")
            )
    return problems


def _of_training(format: str, spec: Mapping[str, Any] | None) -> list[Problem]:
    """Return the parts of a spec that a script would train differently from the run."""
    if spec is None:
        return [Problem(f"{format} needs the spec of the version, which is not recorded.")]
    training = spec["training"]
    named = ["/folds"] if spec.get("folds") else []
    named += [f"/training/{part}" for part in _CODE_TRAINING if training.get(part)]
    named += ["/training/restarts"] if training["restarts"] > 1 else []
    for part in ("early_stopping", "reduce_lr_on_plateau"):
        watched = (training.get(part) or {}).get("monitor", "loss")
        named += [f"/training/{part}/monitor"] if watched not in ("loss", "val_loss") else []
    named += ["/initial_weights"] if spec.get("initial_weights") else []
    named += ["/target"] if len(spec["target"]) > 1 or spec["target"][0]["task"] == "multilabel" else []
    layers = CODE_LAYERS if spec.get("ensemble") else CODE_LAYERS | _CODE_NOISE
    for index, node in enumerate(spec["network"]):
        kind = next(name for name in node if name[0].isupper())
        named += [f"/network/{index}/{kind}"] if kind not in layers else []
        named += [f"/network/{index}/{kind}/{name}" for name in _drops_inside(kind, node[kind] or {})]
    for name, loss in training["loss"].items():
        named += [f"/training/loss/{name}"] if "Quantile" in str(loss) else []
    return [Problem(f"{format} cannot hold {pointer}.", pointer=pointer) for pointer in named]


def _drops_inside(kind: str, arguments: Mapping[str, Any]) -> list[str]:
    """Return the arguments by which a recurrent layer drops, whose masks Keras draws at each look at the network."""
    if kind == "Bidirectional":
        (arguments,) = arguments["layer"].values()
    return [name for name in ("dropout", "recurrent_dropout") if arguments.get(name)]
