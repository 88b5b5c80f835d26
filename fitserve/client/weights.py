"""Uploaded weights: send, list, delete."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from fitserve.client.connection import Resource
from fitserve.client.upload_body import Progress, UploadBody
from fitserve.errors import BadInput, Unavailable
from fitserve.wire.weights import WeightsInfo, WeightsSummary

_PATH = "/api/v1/weights"
_TYPE = "application/octet-stream"
UPLOAD_TIMEOUT = 600.0  # seconds


class Weights(Resource):
    """`client.weights`: weight arrays by layer, from which networks start."""

    def upload(self, weights: Any, *, progress: Progress | None = None) -> WeightsInfo:
        """Upload weights: a Keras model, arrays by layer and position (`dense/0`), or the path of a safetensors file.

        Only arrays are sent, no code. Identical weights are stored once. Raises BadInput naming an array, TooLarge,
        Conflict (you have stored too many).
        """
        if isinstance(weights, str | PathLike):
            path = Path(weights)
            if not path.is_file():
                raise BadInput(f"There is no file {path}.", received=str(path), expected="a safetensors file")
            return self._send(path, progress)
        arrays = dict(weights) if isinstance(weights, Mapping) else arrays_of(weights)
        with tempfile.TemporaryDirectory(prefix="fitserve-") as folder:
            path = Path(folder) / "weights.safetensors"
            _write(path, arrays)
            return self._send(path, progress)

    def _send(self, path: Path, progress: Progress | None) -> WeightsInfo:
        body = UploadBody(path, _TYPE, None, progress, path.stat().st_size)
        headers = {"Content-Type": _TYPE}
        answer = self._connection.send("POST", _PATH, content=body, headers=headers, timeout=UPLOAD_TIMEOUT)
        return WeightsInfo.model_validate(answer.json())

    def get(self, weights_id: str) -> WeightsInfo:
        """Return uploaded weights with the shapes of their arrays. Raises NotFound."""
        return WeightsInfo.model_validate(self._connection.get(f"{_PATH}/{weights_id}"))

    def list(self) -> Iterator[WeightsSummary]:
        """Yield uploaded weights, newest first: an admin sees all."""
        yield from self._connection.pages(_PATH, WeightsSummary.model_validate)

    def delete(self, weights_id: str) -> None:
        """Delete uploaded weights; runs that started from them keep their copy. Raises NotFound."""
        self._connection.send("DELETE", f"{_PATH}/{weights_id}")


def arrays_of(model: Any) -> dict[str, Any]:
    """Return a Keras model's weights by layer and position. Raises BadInput."""
    layers = getattr(model, "layers", None)
    if layers is None or not callable(getattr(model, "get_weights", None)):
        raise BadInput(
            f"A {type(model).__name__} has no weights.",
            received=type(model).__name__,
            expected="a Keras model, arrays by name, or the path of a safetensors file",
        )
    if not getattr(model, "built", True):
        raise BadInput("The model has no weights yet.", fix="Begin it with keras.Input, or call model.build(shape).")
    return {f"{layer.name}/{place}": array for layer in layers for place, array in enumerate(layer.get_weights())}


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    try:
        from fitserve import weights_file

        weights_file.write(path, arrays)
    except ImportError:
        raise Unavailable(
            "Weights are sent with safetensors, which is not installed.", fix="pip install safetensors"
        ) from None
