"""`python -m tests.trainer.gang_memory FOLDER RANK ADDRESSES`: one of the processes that train on a streamed table.

With one address it trains alone. It prints the losses, and by how many bytes its memory grew at most.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import psutil

from tests.trainer.requests import RecordingReporter, train_only


class Peak:
    """The most memory that this process had for itself, without pages of files, which the kernel takes back."""

    def __init__(self) -> None:
        self.first = self.most = self._now()
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.most = max(self.most, self._now())

    def _now(self) -> int:
        memory = psutil.Process().memory_info()
        return int(memory.rss - memory.shared)

    def grown(self) -> int:
        self._over.set()
        return max(self.most, self._now()) - self.first


def main() -> None:
    folder, rank, addresses = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(",")
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    import workers.trainer.train  # noqa: F401 what is loaded anyway does not count
    from fitserve.settings import MB
    from workers.trainer.data import feeds, preparation
    from workers.trainer.engine.device import warm_up
    from workers.trainer.interface import GangPlace, TrainingRequest

    feeds.BLOCK_BYTES = 2 * MB  # less than the rows, as blocks of large tables are
    preparation.memory_budget = lambda: 100
    preparation.SAMPLE_ROWS = dict.fromkeys(preparation.PARTS, 10_000)
    written = json.loads((folder / "request.json").read_text())
    own = folder / f"{len(addresses)}-{rank}"
    own.mkdir()
    gang = GangPlace(addresses, rank) if len(addresses) > 1 else None
    if gang is None:
        warm_up(1)  # a process of a gang must not compute before it has met the others
    peak, reporter = Peak(), RecordingReporter()
    request = TrainingRequest("run", 1, written["spec"], written["facts"], folder / "table.parquet", own, gang=gang)
    train_only(request, reporter)
    losses = [row["logs"]["loss"] for row in reporter.epochs]
    print(json.dumps({"grown": peak.grown(), "losses": losses}))


if __name__ == "__main__":
    main()
