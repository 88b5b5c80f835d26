"""Predictions that are kept under an id of the client's choosing, until their ground truth is posted."""

from __future__ import annotations

import re

from fitserve.errors import BadInput
from services.predict.serving.prediction_service import Service
from services.predict.serving.timing import Timing

HEADER = "x-prediction-id"  # of HTTP, and the key of gRPC's metadata
MOST_ROWS = 1_000
_SANE = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def keep(service: Service, id: str | None, authorization: str | None, timing: Timing) -> str | None:
    """Keeps what was answered where an id asks for it; the id that the answer shall carry. Raises BadInput."""
    if id is None or timing.prediction is None:
        return None
    if not _SANE.fullmatch(id):
        raise BadInput("That is no prediction id.", received=id[:80], expected=f"X-Prediction-ID: {_SANE.pattern}")
    prediction = timing.prediction
    if prediction.rows > MOST_ROWS:
        raise BadInput(
            "So many rows are not kept under an id.", received=prediction.rows, expected=f"at most {MOST_ROWS} rows"
        )
    owner = service.access.identify_header(authorization).owner
    service.drift.keep(prediction.network, owner, id, prediction.outputs)
    return id
