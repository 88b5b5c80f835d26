"""The distance of rows from the training rows, by the graph that `workers.trainer.export.distance_graph` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnxruntime

DISTANCE_BLOB = "distance"  # of its blob


def distances(session: onnxruntime.InferenceSession, feeds: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Return each row's distance, (rows,): 1 is that of a usual training row."""
    inputs = {one.name: feeds[one.name] for one in session.get_inputs()}
    (spread,) = session.run(None, inputs)
    return np.asarray(np.sqrt(np.square(spread, dtype=np.float64).mean(axis=1)))
