"""The prediction service without telemetry and drift: `benchmarks.serving` measures their cost against it.

python -m benchmarks.without_telemetry
"""

from __future__ import annotations

import sys
import time

from services.predict.__main__ import main
from services.predict.catalog.loaded_model import LoadedModel
from services.predict.server import fast_lane
from services.predict.serving.drift_monitor import DriftMonitor


def _count_nothing(self: fast_lane.FastLane, model: LoadedModel, protocol: str, requests: int, rows: int) -> float:
    model.last_used = time.monotonic()
    return 0.0


fast_lane.FastLane._count = _count_nothing  # type: ignore[method-assign]
fast_lane.MEASURE_EVERY = sys.maxsize
DriftMonitor.sampler_of = lambda self, model: None  # type: ignore[assignment,method-assign,return-value]

if __name__ == "__main__":
    sys.exit(main())
