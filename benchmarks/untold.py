"""The prediction service without telemetry and drift: what `benchmarks.serving` measures their cost against.

python -m benchmarks.untold
"""

from __future__ import annotations

import sys
import time

from services.predict.__main__ import main
from services.predict.catalog.loaded_model import Network
from services.predict.server import fast_lane
from services.predict.serving.drift import DriftDesk


def _uncounted(self: fast_lane.Lane, network: Network, protocol: str, requests: int, rows: int) -> float:
    network.last_used = time.monotonic()
    return 0.0


fast_lane.Lane._count = _uncounted  # type: ignore[method-assign]
fast_lane.PHASES_EVERY = sys.maxsize
DriftDesk.watch = lambda self, network: None  # type: ignore[assignment,method-assign,return-value]

if __name__ == "__main__":
    sys.exit(main())
