"""`make bench-claims`: claims per second with a million queued and finished runs, compared with an empty table.

Both sides alternate in one process: a batch is queued (not timed), claimed (timed), and finished (not timed).
PostgreSQL, or SQLite with `--sqlite`. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from sqlalchemy import Engine, make_url, text

import migrations
from fitserve import db
from fitserve.blobs import FolderStore
from fitserve.ids import new_id
from fitserve.runs import create, finish, lease
from fitserve.settings import Limits
from tests.faults.chaos import Postgres
from tests.faults.cluster import add_dataset

BATCH = 200
OWNERS = 1000  # owners of the existing runs

# One row per number `n`; each owner has queued and finished ones.
ROWS = """
INSERT INTO runs (id, kind, owner, dataset_id, spec, resolved, estimates, state, priority, attempt, spent_attempts,
                  shared, created_at, started_at, finished_at)
SELECT {id}, 'training', 'owner-' || (n % {owners}), '{dataset}', '{{}}', '{{}}', '{{}}', '{state}', 0,
       {attempt}, 0, false, {now}, {ended}, {ended}
FROM {numbers}
"""
NUMBERS = {
    "postgresql": "generate_series(1, {count}) AS g(n)",
    "sqlite": "(WITH RECURSIVE g(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM g WHERE n < {count}) SELECT n FROM g)",
}
IDS = {"postgresql": "'{prefix}' || lpad(n::text, 20, '0')", "sqlite": "'{prefix}' || printf('%020d', n)"}
NOW = {"postgresql": "now()", "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now')"}


def fill(engine: Engine, dataset: str, queued: int, finished: int) -> None:
    """Insert runs with one statement per state, which is fastest."""
    kind = engine.dialect.name
    for state, count in (("succeeded", finished), ("queued", queued)):
        statement = ROWS.format(
            id=IDS[kind].format(prefix=f"run_{state[:6]}"),
            owners=OWNERS,
            dataset=dataset,
            state=state,
            attempt=int(state == "succeeded"),
            now=NOW[kind],
            ended=NOW[kind] if state == "succeeded" else "NULL",
            numbers=NUMBERS[kind].format(count=count),
        )
        if count:
            with engine.begin() as connection:
                if kind == "postgresql":
                    connection.execute(text("SET LOCAL statement_timeout = 0"))
                connection.execute(text(statement))
    if kind == "postgresql":
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("SET statement_timeout = 0"))
            connection.execute(text("VACUUM ANALYZE runs"))


def prepare_database(url: str, folder: Path, queued: int, finished: int) -> tuple[Engine, str]:
    """Create a database with these numbers of runs; return its engine and a dataset's id."""
    migrations.upgrade(url)
    engine = db.make_engine(url)
    dataset = add_dataset(engine, FolderStore(folder / "blobs"))
    fill(engine, dataset, queued, finished)
    return engine, dataset


def claims_per_second(engine: Engine, dataset: str) -> float:
    """Queue, claim and cancel one batch; return the rate of its claims."""
    for _ in range(BATCH):
        create.create_run(engine, create.NewRun("bench", dataset, {}, {}, {}), Limits())
    leases = []
    started = time.perf_counter()
    while len(leases) < BATCH:
        claim = lease.claim(engine, "bench", lease_seconds=600, running_limit=10_000)
        assert claim is not None
        leases.append(claim.lease)
    seconds = time.perf_counter() - started
    for one in leases:
        finish.confirm_cancel(engine, one)
    return BATCH / seconds


def urls(folder: Path, sqlite: bool, stack: contextlib.ExitStack) -> dict[str, str]:
    """Create a database for each side and return their URLs."""
    if sqlite:
        return {side: f"sqlite:///{folder / side}.db" for side in ("full", "empty")}
    postgres = Postgres(Path("/tmp") / new_id("fitserve-pg"))
    stack.callback(shutil.rmtree, postgres.folder, ignore_errors=True)
    stack.callback(postgres.cleanup)
    base = make_url(postgres.start())
    server = db.make_engine(base.render_as_string(hide_password=False))
    with server.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        for side in ("full", "empty"):
            connection.execute(text(f"CREATE DATABASE side_{side}"))
    server.dispose()
    return {side: base.set(database=f"side_{side}").render_as_string(False) for side in ("full", "empty")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000, help="queued, and as many finished")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sqlite", action="store_true")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fitserve-claims-")))
        started = time.perf_counter()
        sides = {
            side: prepare_database(url, folder, *[args.runs if side == "full" else 0] * 2)
            for side, url in urls(folder, args.sqlite, stack).items()
        }
        print(f"prepared in {time.perf_counter() - started:.0f} s")
        rates: dict[str, list[float]] = {"full": [], "empty": []}
        for round_number in range(args.rounds):
            for side in sorted(sides, reverse=bool(round_number % 2)):
                rates[side].append(claims_per_second(*sides[side]))
        for engine, _ in sides.values():
            engine.dispose()
    medians = {side: statistics.median(values) for side, values in rates.items()}
    ratios = [a / b for a, b in zip(rates["full"], rates["empty"], strict=True)]
    print(f"{'runs queued, and as many finished':>34} {'claims per second':>16}")
    for side, runs in (("empty", 0), ("full", args.runs)):
        print(f"{runs:>34,} {medians[side]:>16.0f}")
    figures = {"claims_ratio_1e6": round(statistics.median(ratios), 3), "claims_per_second": round(medians["full"])}
    print(json.dumps({**figures, "database": "sqlite" if args.sqlite else "postgresql"}))


if __name__ == "__main__":
    main()
