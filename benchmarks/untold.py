"""The prediction service without telemetry and drift: what `benchmarks.serving` measures their cost against.

python -m benchmarks.untold
"""

from __future__ import annotations

import sys
import time

from services.predict import fastlane
from services.predict.__main__ import main
from services.predict.drift import DriftDesk
from services.predict.network import Network


def _uncounted(self: fastlane.Lane, network: Network, protocol: str, requests: int, rows: int) -> float:
    network.last_used = time.monotonic()
    return 0.0


fastlane.Lane._count = _uncounted  # type: ignore[method-assign]
fastlane.PHASES_EVERY = sys.maxsize
DriftDesk.watch = lambda self, network: None  # type: ignore[assignment,method-assign,return-value]

if __name__ == "__main__":
    sys.exit(main())
