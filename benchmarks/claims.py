"""`make bench-claims`: claims a second with a million finished runs in the table, beside an empty one.

Both sides are measured in turn in one process: queue a batch, claim it until none is left. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from sqlalchemy import Engine, insert

import migrations
from fitserve import db
from fitserve.blobs import FolderStore
from fitserve.runs import create, finish, lease
from fitserve.settings import Limits
from fitserve.tables import Run
from tests.faults.cluster import add_dataset

BATCH = 200
CHUNK = 20_000


def prepared(folder: Path, finished: int) -> tuple[Engine, str]:
    """A database with so many finished runs, and a dataset's id."""
    url = f"sqlite:///{folder / f'{finished}.db'}"
    migrations.upgrade(url)
    engine = db.make_engine(url)
    dataset = add_dataset(engine, FolderStore(folder / "blobs"))
    with db.reading(engine) as session:
        at = db.now(session)
    fixed = {"kind": "training", "owner": "bench", "dataset_id": dataset, "priority": 0, "attempt": 1}
    fixed |= {"spent_attempts": 0, "state": "succeeded", "created_at": at, "started_at": at, "finished_at": at}
    fixed |= {"spec": {}, "resolved": {}, "estimates": {}}
    for start in range(0, finished, CHUNK):
        rows = [{"id": f"run_{number:026d}", **fixed} for number in range(start, min(start + CHUNK, finished))]
        with db.transaction(engine) as session:
            session.execute(insert(Run), rows)
    return engine, dataset


def claims_a_second(engine: Engine, dataset: str) -> float:
    """One batch: queued (not timed), claimed (timed), cancelled (not timed)."""
    for _ in range(BATCH):
        create.create(engine, create.NewRun("bench", dataset, {}, {}, {}), Limits())
    held = []
    begun = time.perf_counter()
    while (claim := lease.claim(engine, "bench", lease_seconds=600, running_limit=10_000)) is not None:
        held.append(claim.lease)
    seconds = time.perf_counter() - begun
    assert len(held) == BATCH
    for one in held:
        finish.cancelled(engine, one)
    return BATCH / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fitserve-claims-"))
    try:
        full, empty = prepared(folder, args.runs), prepared(folder, 0)
        rates: dict[str, list[float]] = {"full": [], "empty": []}
        for round_number in range(args.rounds):
            sides = {"full": full, "empty": empty}
            for side in sorted(sides, reverse=bool(round_number % 2)):
                rates[side].append(claims_a_second(*sides[side]))
        medians = {side: statistics.median(values) for side, values in rates.items()}
        ratios = [a / b for a, b in zip(rates["full"], rates["empty"], strict=True)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{'runs in the table':>20} {'claims a second':>16}")
    for side, runs in (("empty", 0), ("full", args.runs)):
        print(f"{runs:>20,} {medians[side]:>16.0f}")
    print(
        json.dumps(
            {"claims_ratio_1e6": round(statistics.median(ratios), 3), "claims_per_second": round(medians["full"])}
        )
    )


if __name__ == "__main__":
    main()
