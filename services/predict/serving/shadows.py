"""Shadow traffic: networks that predict the same rows beside the one that answers. Only the difference is kept."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

import numpy as np

from services.predict.catalog.catalog import Entry
from services.predict.catalog.loaded_model import Network, Prediction
from services.predict.serving.counters import Counters
from services.predict.serving.rows import Rows

MOST_SHADOWS = 64  # shadow predictions at a time; beyond, they are dropped


class Shadows:
    """Those of one process. Belongs to the event loop's thread; the predictions are made in others."""

    def __init__(self, executor: Executor, counters: Counters) -> None:
        self._executor, self._counters = executor, counters
        self._tasks: set[asyncio.Future[None]] = set()

    def follow(self, entry: Entry, rows: Rows, given: Prediction) -> None:
        """Has the model's shadows predict what was just answered. Returns at once."""
        for pointer in entry.shadows:
            network = pointer.current.network if pointer.current else None
            key = (entry.facts.name, pointer.label or "")
            if network is None or network is given.network or len(self._tasks) >= MOST_SHADOWS:
                self._counters.shadow[*key, "dropped"] += 1
                continue
            work = asyncio.ensure_future(self._compare(network, rows, given, key))
            self._tasks.add(work)
            work.add_done_callback(self._tasks.discard)

    async def _compare(self, network: Network, rows: Rows, given: Prediction, key: tuple[str, str]) -> None:
        counters = self._counters
        try:
            other = await asyncio.get_running_loop().run_in_executor(self._executor, network.predict, rows)
            common = [name for name in given.outputs if name in other.outputs]
            gap = max((float(np.abs(given.outputs[n] - other.outputs[n]).max()) for n in common), default=0.0)
            counters.shadow_difference[key] = max(gap, counters.shadow_difference.get(key, 0.0))
            counters.shadow[*key, "answered"] += 1
        except Exception:
            counters.shadow[*key, "failed"] += 1
