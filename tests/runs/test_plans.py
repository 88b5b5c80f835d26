"""Frequent queries find their rows by an index, however many runs there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from benchmarks.claims import fill
from fitserve.blobs import FolderStore
from fitserve.runs import create, finish, lease, trial_runs
from fitserve.settings import Limits
from tests.faults.cluster import add_dataset
from workers.expired_runs import reclaim_expired_runs

ROWS = 6_000


@contextmanager
def plans(engine: Engine) -> Iterator[list[tuple[str, str]]]:
    """Yield every statement of the block that names `runs`, with its plan."""
    executed: list[tuple[str, str]] = []
    explain = "EXPLAIN " if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "

    def explain_statement(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "runs" in statement and not statement.startswith(("INSERT", "EXPLAIN")):
            cursor.execute(explain + statement, parameters)
            executed.append((statement, "\n".join(str(row) for row in cursor.fetchall())))

    event.listen(engine, "before_cursor_execute", explain_statement)
    try:
        yield executed
    finally:
        event.remove(engine, "before_cursor_execute", explain_statement)


def scans(plan: str) -> bool:
    """Return whether it reads the whole table."""
    return "Seq Scan on runs" in plan or any("SCAN runs" in line and "INDEX" not in line for line in plan.splitlines())


@pytest.fixture
def full(engine: Engine, store: FolderStore) -> Engine:
    dataset = add_dataset(engine, store)
    fill(engine, dataset, ROWS, ROWS)
    create.create_run(engine, create.NewRun("ann", dataset, {}, {}, {}, priority=5), Limits())
    if engine.dialect.name == "sqlite":
        with engine.begin() as connection:
            connection.exec_driver_sql("ANALYZE")
    return engine


def claim(engine: Engine) -> lease.Lease:
    claimed = lease.claim(engine, "w", lease_seconds=30, running_limit=1000)
    assert claimed is not None
    return claimed.lease


def trials(engine: Engine) -> None:
    held = claim(engine)
    (part,) = trial_runs.offer(engine, held, [1])
    assert finish.withdraw_trial(engine, held, part) is not None


QUERIES: dict[str, Callable[[Engine], object]] = {
    "claim": claim,
    "heartbeat": lambda engine: lease.renew(engine, claim(engine), lease_seconds=30),
    "expired runs": lambda engine: reclaim_expired_runs(engine, 3),
    "the end of a run": lambda engine: finish.fail(engine, claim(engine), "diverged", "NaN"),
    "a run's trials": trials,
    "undelivered runs": lambda engine: create.undelivered_runs(engine, 30, 100),
}


@pytest.mark.parametrize("query", QUERIES)
def test_no_query_reads_the_whole_table(full: Engine, query: str) -> None:
    with plans(full) as executed:
        QUERIES[query](full)
    assert executed
    for statement, plan in executed:
        assert not scans(plan), f"{statement}\n{plan}"


def test_a_query_without_an_index_would_be_noticed(full: Engine) -> None:
    with plans(full) as executed, full.begin() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM runs WHERE worker = 'x'")
    assert [scans(plan) for _, plan in executed] == [True]
