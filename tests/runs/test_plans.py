"""What a worker asks all the time finds its rows by an index, however many runs there are."""

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
from workers.reaper import reclaim_expired_runs

ROWS = 6_000


@contextmanager
def plans(engine: Engine) -> Iterator[list[tuple[str, str]]]:
    """Every statement of the block that names `runs`, with its plan."""
    found: list[tuple[str, str]] = []
    explain = "EXPLAIN " if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "

    def look(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "runs" in statement and not statement.startswith(("INSERT", "EXPLAIN")):
            cursor.execute(explain + statement, parameters)
            found.append((statement, "\n".join(str(row) for row in cursor.fetchall())))

    event.listen(engine, "before_cursor_execute", look)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", look)


def scans(plan: str) -> bool:
    """Whether it reads the whole table."""
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
    found = lease.claim(engine, "w", lease_seconds=30, running_limit=1000)
    assert found is not None
    return found.lease


def trials(engine: Engine) -> None:
    held = claim(engine)
    (part,) = trial_runs.offer(engine, held, [1])
    assert finish.withdraw_trial(engine, held, part) is not None


QUESTIONS: dict[str, Callable[[Engine], object]] = {
    "claim": claim,
    "heartbeat": lambda engine: lease.heartbeat(engine, claim(engine), lease_seconds=30),
    "expired runs": lambda engine: reclaim_expired_runs(engine, 3),
    "the end of a run": lambda engine: finish.fail(engine, claim(engine), "diverged", "NaN"),
    "a run's trials": trials,
    "undelivered runs": lambda engine: create.undelivered_runs(engine, 30, 100),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_question_reads_the_whole_table(full: Engine, question: str) -> None:
    with plans(full) as found:
        QUESTIONS[question](full)
    assert found
    for statement, plan in found:
        assert not scans(plan), f"{statement}\n{plan}"


def test_a_question_without_an_index_would_be_noticed(full: Engine) -> None:
    with plans(full) as found, full.begin() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM runs WHERE worker = 'x'")
    assert [scans(plan) for _, plan in found] == [True]
