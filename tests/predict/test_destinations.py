"""Batch predictions to databases and object storage: each part once even if workers die, all or nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from sqlalchemy import select, update

from fitserve import db
from fitserve.datasets import store
from fitserve.datasets.destinations import DestinationAway, objects, sql
from fitserve.datasets.destinations.target import refused
from fitserve.errors import Conflict
from fitserve.ids import new_id
from fitserve.runs import change, create, finish, lease, queries, worker_registry
from fitserve.settings import Settings
from fitserve.states import RunKind, RunState
from fitserve.tables import Dataset, Run
from tests.object_stores import KINDS, emulated
from tests.predict.test_batch import upload
from tests.predict.toy_registry import THREE, ToyRegistry, mixed
from tests.waiting import wait_until
from workers.batch import rows
from workers.batch.cleanup import CleanupAttempt
from workers.batch.part_predictor import PartPredictor
from workers.batch.prediction import BatchPredictionAttempt, PartAttempt

ROWS = 2500
PASSWORD = "s3kret/pass word"
ATTEMPTS = {"prediction": BatchPredictionAttempt, RunKind.part: PartAttempt, RunKind.cleanup: CleanupAttempt}


def students(count: int = ROWS) -> pa.Table:
    random = np.random.default_rng(0)
    return pa.table(
        {
            "id": np.arange(count),
            "code": [f"{number:06}" for number in range(count)],
            "paid": [None if number % 7 == 0 else number % 2 == 0 for number in range(count)],
            "moment": pa.array(range(count), pa.timestamp("us", "UTC")),
            "gre": random.integers(380, 800, count),
            "gpa": random.uniform(2.9, 4.0, count),
            "rank": random.integers(1, 5, count),
            "city": random.choice(["Rom", "Bern", 'Ür"zig\n\\.\n', ""], count),
        }
    )


@pytest.fixture
def settings(toys: ToyRegistry, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(rows, "PART_ROWS", 600)
    monkeypatch.setattr("fitserve.datasets.sources.fetched.FIRST_PAUSE", 0.01)
    path = toys.home / "connections.json"
    return Settings(
        home=toys.home, heartbeat_seconds=0.2, database_url=toys.url, connections_file=path, trainer_threads=1
    )


@pytest.fixture
def connect(settings: Settings) -> Callable[..., None]:
    """Name connections, as the operator does in a file."""

    def name(**connections: dict[str, Any]) -> None:
        path = settings.connections_file
        assert path is not None
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, **connections}))

    return name


@pytest.fixture
def warehouse(postgres: str, connect: Callable[..., None]) -> Iterator[psycopg.Connection[Any]]:
    """PostgreSQL, which the operator has named `warehouse`."""
    connect(warehouse={"url": postgres, "writable": True})
    with psycopg.connect(postgres.replace("+psycopg", "", 1), autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS answers CASCADE")
        connection.execute("CREATE SCHEMA answers")
        yield connection
        connection.execute("DROP SCHEMA answers CASCADE")


@pytest.fixture
def lake(s3_environment: dict[str, str], connect: Callable[..., None]) -> Any:
    """A bucket on moto's S3, which the operator has named `lake`; returns its file system and its folder."""
    bucket = new_id("b").replace("_", "-")
    endpoint = {"client_kwargs": {"endpoint_url": s3_environment["AWS_ENDPOINT_URL"]}}
    options = {"key": "tester", "secret": PASSWORD, **endpoint}
    connect(lake={"url": f"s3://{bucket}/out", "options": options, "writable": True})
    connect(dry={"url": "s3://no-such-bucket", "options": options, "writable": True})
    store = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False, **options)
    store.mkdir(bucket)
    return store, f"{bucket}/out"


class Batch:
    """Batch predictions of one table, in parts of 600 rows, by attempts that the test makes."""

    def __init__(self, toys: ToyRegistry, settings: Settings) -> None:
        self.toys, self.settings = toys, settings
        self.artifact = toys.store_artifact(mixed(THREE))
        self.dataset = upload(toys, settings, students(), "students")
        worker_registry.register(toys.engine, "another", "elsewhere", 1)  # so that parts are offered

    def queue(self, destination: dict[str, Any] | None, **more: Any) -> str:
        known = {"model": "three", "version": 1, "artifact": self.artifact, "name": "answers"}
        resolved = {**known, "destination": destination, **more}
        new = create.NewRun("ada", self.dataset.id, {}, resolved, {}, kind="prediction")
        return create.create_run(self.toys.engine, new, self.settings.limits)[0].id

    def attempt(self, *kinds: str, stopping: threading.Event | None = None) -> RunState | None:
        """Make one attempt at the next run of a kind; None where there is none, or it was lost."""
        claim = lease.claim(self.toys.engine, "w", lease_seconds=30, running_limit=99, kinds=kinds or ("prediction",))
        if claim is None:
            return None
        made = ATTEMPTS[claim.run.kind](
            self.settings, self.toys.engine, self.toys.blobs, claim, stopping or threading.Event()
        )
        return made.run()

    def expire(self, max_attempts: int = 99) -> None:
        """Let all leases expire, as those of the dead do."""
        with db.transaction(self.toys.engine) as session:
            past = db.now(session).replace(year=2020)
            session.execute(update(Run).where(Run.state == "running").values(lease_expires_at=past))
        finish.expire_leases(self.toys.engine, max_attempts)

    def run(self, run_id: str) -> Run:
        with db.reading(self.toys.engine) as session:
            return session.get_one(Run, run_id)

    def parts(self, run_id: str) -> list[Run]:
        """Return the parts that other workers have or had."""
        with db.reading(self.toys.engine) as session:
            return list(session.scalars(select(Run).where(Run.parent_id == run_id, Run.kind == RunKind.part)))

    def events(self, run_id: str) -> list[str]:
        with db.reading(self.toys.engine) as session:
            return [event.message for event in queries.events_after(session, run_id)]


@pytest.fixture
def batch(toys: ToyRegistry, settings: Settings) -> Batch:
    return Batch(toys, settings)


class Killed(BaseException):
    """The process died here."""


def kill_at(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, at: int, *, after: bool) -> list[int]:
    """Have the `at`-th call of a function die before or after its work; return where the calls are counted."""
    calls, original = [0], getattr(where, name)

    def dying(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == at and not after:
            raise Killed
        answer = original(*arguments, **options)
        if calls[0] == at and after:
            raise Killed
        return answer

    monkeypatch.setattr(where, name, dying)
    return calls


SQL = {"sql": {"connection": "warehouse", "table": "answers.scores"}}
S3 = {"s3": {"connection": "lake", "path": "scores/today"}}


def columns_of(connection: Any, table: str) -> dict[str, str]:
    schema, _, name = table.partition(".")
    query = "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = %s AND table_name = %s"
    return dict(connection.execute(query, (schema, name)).fetchall())


def objects_in(lake: Any) -> dict[str, bytes]:
    store, folder = lake
    return {name[len(folder) + 1 :]: store.cat_file(name) for name in store.find(folder)}


def predicted_ids(lake: Any, warehouse: Any) -> list[int]:
    """Return the ids in the manifest's objects, or in the table."""
    if lake is None:
        return [row[0] for row in warehouse.execute("SELECT id FROM answers.scores ORDER BY id").fetchall()]
    found = objects_in(lake)
    (manifest,) = (json.loads(data) for name, data in found.items() if "_manifest" in name)
    listed = [f"scores/today/{part['name']}" for part in manifest["parts"]]
    assert sorted(name for name in found if name.endswith(".parquet")) == listed
    assert "scores/today/_SUCCESS" in found
    for part, name in zip(manifest["parts"], listed, strict=True):
        assert part["sha256"] == f"sha256:{hashlib.sha256(found[name]).hexdigest()}"
        assert part["rows"] == pq.read_metadata(io.BytesIO(found[name])).num_rows
    tables = [pq.read_table(io.BytesIO(found[name])) for name in listed]
    return sorted(pa.concat_tables(tables).column("id").to_pylist())


KILLS = [
    ("write", 1, False),
    ("write", 2, True),
    ("finish", 1, False),
    ("finish", 1, True),
]


@pytest.mark.parametrize("place", ["warehouse", pytest.param("lake", marks=pytest.mark.long)])
def test_every_row_is_written_once_whoever_dies(
    batch: Batch, warehouse: Any, lake: Any, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The holder, and a worker that has a part, die before and after each step; another goes on."""
    cls, destination = (sql.SqlTarget, SQL) if place == "warehouse" else (objects.ObjectTarget, S3)
    run_id = batch.queue(destination)
    for at, (name, calls, after) in enumerate(KILLS):
        with monkeypatch.context() as patched:
            kill_at(patched, cls, name, calls, after=after)
            with pytest.raises(Killed):
                for _ in range(9):
                    batch.attempt(*((RunKind.part,) if at == 1 and _ == 0 else ()))
        batch.expire()
        if name == "write":
            assert not any("_manifest" in one or "_SUCCESS" in one for one in objects_in(lake))
            assert columns_of(warehouse, "answers.scores") == {}
        if at == 0:
            batch.attempt(RunKind.part)  # one part by another worker
    assert batch.attempt() == RunState.succeeded
    assert predicted_ids(lake if place == "lake" else None, warehouse) == list(range(ROWS))
    result = batch.run(run_id).result
    assert result["rows"] == ROWS == sum(part["rows"] for part in result["parts"])
    assert [part["rows"] for part in result["parts"]] == [600, 600, 600, 600, 100]
    left = warehouse.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'answers'")
    assert {row[0] for row in left.fetchall()} <= {"scores", "fitserve_parts"}


@pytest.mark.long  # the kills above share parts too
def test_two_workers_share_the_parts(batch: Batch, warehouse: Any, lake: Any) -> None:
    for destination in (SQL, S3, None):
        run_id = batch.queue(destination)
        over = threading.Event()

        def help_out(over: threading.Event = over) -> int:
            helped = 0
            while not over.is_set():
                helped += batch.attempt(RunKind.part) == RunState.succeeded
                over.wait(0.01)
            return helped

        with ThreadPoolExecutor(1) as pool:
            helper = pool.submit(help_out)
            try:
                assert batch.attempt() == RunState.succeeded, batch.run(run_id).error
            finally:
                over.set()
            assert helper.result() <= 4
    assert predicted_ids(None, warehouse) == predicted_ids(lake, None) == list(range(ROWS))
    with db.reading(batch.toys.engine) as session:
        made = session.get_one(Dataset, batch.run(run_id).result["dataset_id"])
    table = pq.read_table(store.local_parquet(batch.toys.blobs, made, batch.settings.scratch / "blobs"))
    assert table["id"].to_pylist() == list(range(ROWS))  # in their order


def test_types_are_kept_and_columns_chosen(batch: Batch, warehouse: Any, lake: Any) -> None:
    batch.queue(SQL)
    batch.queue(S3)
    batch.queue({"sql": {**SQL["sql"], "table": "answers.few"}}, columns=["code"])
    assert [batch.attempt() for _ in range(3)] == [RunState.succeeded] * 3
    assert columns_of(warehouse, "answers.scores") == {
        **dict.fromkeys(("id", "gre", "rank"), "bigint"),
        **dict.fromkeys(("code", "city", "predicted_admit", "predicted_tier"), "text"),
        **dict.fromkeys(("gpa", "predicted_score", "predicted_admit_yes"), "double precision"),
        **{f"predicted_tier_{one}": "double precision" for one in "abc"},
        "paid": "boolean",
        "moment": "timestamp with time zone",
    }
    query = (
        "SELECT code, paid, city, (extract(epoch FROM moment) * 1000000)::bigint, gpa FROM answers.scores ORDER BY id"
    )
    expected = students().select(["code", "paid", "city", "moment", "gpa"])
    expected = expected.set_column(3, "moment", expected["moment"].cast(pa.int64()))
    assert warehouse.execute(query).fetchall() == [tuple(row.values()) for row in expected.to_pylist()]
    (first, *_) = (data for name, data in objects_in(lake).items() if name.endswith("00000.parquet"))
    assert pq.read_table(io.BytesIO(first)).select(students().column_names).equals(students().slice(0, 600))
    assert list(columns_of(warehouse, "answers.few"))[:2] == ["code", "predicted_admit"]


def test_a_table_that_is_there_is_left_replaced_or_appended_to(batch: Batch, warehouse: Any) -> None:
    warehouse.execute(
        "CREATE TABLE answers.scores (id int PRIMARY KEY, code varchar(9), predicted_score numeric(9, 3),"
        " at timestamptz DEFAULT now(), predicted_tier text, predicted_tier_a float8, predicted_tier_b float8,"
        " predicted_tier_c float8, predicted_admit text, predicted_admit_yes float4)"
    )
    warehouse.execute("INSERT INTO answers.scores (id, code) VALUES (-1, 'own')")
    warehouse.execute("CREATE VIEW answers.best AS SELECT max(predicted_score) AS best FROM answers.scores")
    columns = {"columns": ["id", "code"]}

    def states(if_exists: str, table: str = "answers.scores", **more: Any) -> Run:
        run_id = batch.queue({"sql": {**SQL["sql"], "table": table, "if_exists": if_exists}}, **{**columns, **more})
        batch.attempt()
        return batch.run(run_id)

    def count() -> int:
        return int(warehouse.execute("SELECT count(*) FROM answers.scores").fetchone()[0])

    refused = states("fail")
    assert (refused.state, refused.error["cause"], refused.error["remains"]) == ("failed", "destination_refused", [])
    assert "exists already" in refused.error["detail"]
    assert "append" in refused.error["errors"][0]["fix"]
    unfit = states("append", columns=["id", "city"])
    assert "has no column 'city'" in unfit.error["detail"]
    assert count() == 1
    assert states("append").state == "succeeded"
    assert count() == ROWS + 1
    twice = states("append")  # the table's own key refuses it: all rows stay out
    assert "duplicate key" in twice.error["detail"]
    assert count() == ROWS + 1
    assert states("replace").state == "succeeded"
    assert count() == ROWS
    assert warehouse.execute("SELECT best FROM answers.best").fetchone()[0] is not None  # the view still stands
    warehouse.execute("CREATE TABLE answers.strict (LIKE answers.scores, batch int NOT NULL)")
    assert "needs a value for 'batch'" in states("append", "answers.strict").error["detail"]
    warehouse.execute("ALTER TABLE answers.strict DROP COLUMN batch, ALTER code TYPE int USING 1")
    assert "type" in states("append", "answers.strict").error["detail"]
    assert "nowhere" in states("append", "nowhere.scores").error["detail"]
    left = warehouse.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'answers'")
    assert {row[0] for row in left.fetchall()} == {"scores", "fitserve_parts", "best", "strict"}


@pytest.mark.long  # the short form: S3
@pytest.mark.parametrize("kind", KINDS)
def test_other_stores_take_them_too(batch: Batch, connect: Callable[..., None], kind: str) -> None:
    with emulated(kind) as (connection, store, folder):
        connect(pond={**connection, "writable": True})
        for state, if_exists in (("succeeded", "fail"), ("failed", "fail"), ("succeeded", "replace")):
            run_id = batch.queue({kind: {"connection": "pond", "path": "scores/today", "if_exists": if_exists}})
            batch.attempt()
            assert batch.run(run_id).state == state, batch.run(run_id).error
        names = [name for name in store.find(f"{folder}/scores/today") if name.endswith(".parquet")]
        assert all(run_id in name for name in names)
        assert sum(pq.read_table(store.open(name)).num_rows for name in names) == batch.dataset.rows


def test_a_folder_that_is_there_is_left_replaced_or_added_to(batch: Batch, lake: Any) -> None:
    store, folder = lake

    def states(if_exists: str) -> Run:
        run_id = batch.queue({"s3": {**S3["s3"], "if_exists": if_exists}})
        batch.attempt()
        return batch.run(run_id)

    first = states("fail")
    assert first.state == "succeeded"
    assert "is not empty" in states("fail").error["detail"]
    assert states("append").state == "succeeded"
    assert len([name for name in objects_in(lake) if name.endswith(".parquet")]) == 10
    last = states("replace")
    assert {name for name in objects_in(lake) if last.id not in name} == {"scores/today/_SUCCESS"}
    store.pipe_file(f"{folder}/scores/today/notes.txt", b"mine")
    refused = states("replace")
    assert refused.error["errors"][0]["received"] == "notes.txt"
    assert {name for name in objects_in(lake) if last.id not in name} == {
        "scores/today/_SUCCESS",
        "scores/today/notes.txt",
    }


def test_what_refuses_or_is_away_is_said_without_a_password(
    batch: Batch,
    warehouse: Any,
    lake: Any,
    connect: Callable[..., None],
    postgres: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch.settings = batch.settings.model_copy(update={"max_attempts": 1})
    for module in (sql, objects):
        monkeypatch.setattr(module, "ATTEMPTS", 2)
    warehouse.execute("DROP ROLE IF EXISTS guest")
    warehouse.execute("CREATE ROLE guest LOGIN")
    host = postgres.partition("@")[2]
    endpoint = {"key": "k", "secret": PASSWORD, "client_kwargs": {"endpoint_url": "http://127.0.0.1:1"}}
    connect(
        guest={"url": f"postgresql://guest@{host}", "password": PASSWORD, "writable": True},
        gone={"url": "postgresql://ann@127.0.0.1:1/x", "password": PASSWORD, "writable": True},
        away={"url": "s3://x", "options": endpoint, "writable": True},
        reading={"url": postgres},
        private={"url": postgres, "writable": True, "owners": ["bob"]},
    )
    for kind, connection, cause, says in (
        ("sql", "guest", "destination_refused", "permission denied"),
        ("sql", "gone", "destination_away", "does not answer"),
        ("s3", "away", "destination_away", "does not answer"),
        ("s3", "dry", "destination_refused", "bucket"),
        ("sql", "reading", "destination_refused", "for reading alone"),
        ("sql", "private", "bad_data", "no connection"),
    ):
        stated = {"table": "answers.scores"} if kind == "sql" else {"path": "scores"}
        run_id = batch.queue({kind: {"connection": connection, **stated}})
        batch.attempt()
        run = batch.run(run_id)
        assert (run.state, run.error["cause"]) == ("failed", cause), run.error
        assert says in run.error["detail"]
        assert PASSWORD not in json.dumps(run.error) + "".join(batch.events(run_id))
    assert objects_in(lake) == {}


@pytest.mark.parametrize("destination", [SQL, pytest.param(S3, marks=pytest.mark.long)], ids=["sql", "s3"])
def test_a_cancel_midway_leaves_nothing_and_says_so(
    batch: Batch, warehouse: Any, lake: Any, monkeypatch: pytest.MonkeyPatch, destination: dict[str, Any]
) -> None:
    run_id = batch.queue(destination)
    original = PartPredictor.predict

    def cancelling(self: PartPredictor, number: int) -> Any:
        if number == 2:
            finish.cancel(batch.toys.engine, run_id, None)
        return original(self, number)

    monkeypatch.setattr(PartPredictor, "predict", cancelling)
    batch.attempt()
    assert batch.run(run_id).state == "cancelled"
    assert "Nothing remains at the destination" in batch.events(run_id)
    assert objects_in(lake) == {}
    left = warehouse.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'answers'")
    assert {row[0] for row in left.fetchall()} <= {"fitserve_parts"}


ENDS = ["last attempt", *(pytest.param(end, marks=pytest.mark.long) for end in ("cancelled while queued", "away"))]


@pytest.mark.parametrize("end", [*ENDS, "cancelled while held"])
def test_what_a_lost_holder_has_written_is_removed_by_another_worker(
    batch: Batch, warehouse: Any, lake: Any, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The process that ends a run queues its cleanup, which waits for workers that may still write a part of it."""
    run_ids = [batch.queue(SQL), batch.queue(S3)]
    for cls in (sql.SqlTarget, objects.ObjectTarget):
        with monkeypatch.context() as patched:
            if end == "away":

                def away(*_: Any) -> list[str]:
                    raise DestinationAway("The destination does not answer.")

                refuse = lambda *_: (_ for _ in ()).throw(refused("sql", "Full."))  # noqa: E731
                patched.setattr(cls, "finish", refuse)
                patched.setattr(cls, "discard", away)
                assert batch.attempt() == RunState.failed
                continue
            kill_at(patched, cls, "write", 2, after=True)
            with pytest.raises(Killed):
                batch.attempt()
            if end == "last attempt":
                batch.expire(max_attempts=1)
                continue
        if end == "cancelled while queued":
            batch.expire()
            finish.cancel(batch.toys.engine, run_ids[cls is objects.ObjectTarget], None)
        else:
            finish.cancel(batch.toys.engine, run_ids[cls is objects.ObjectTarget], None)
            batch.expire()
    assert len(objects_in(lake)) == (5 if end == "away" else 2)
    left = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'answers' AND table_name LIKE '%run%'"
    assert warehouse.execute(left).fetchone() == (1,)
    for run_id in run_ids:
        run = batch.run(run_id)
        assert run.state == ("cancelled" if "cancelled" in end else "failed")
        if run.error:
            assert batch.run(run.error["cleanup"]).parent_id == run_id
        with pytest.raises(Conflict, match="still being removed"):
            change.delete_run(batch.toys.engine, run_id, None)
        assert batch.attempt(RunKind.cleanup) == RunState.succeeded
        assert batch.events(run_id)[-1] == "Nothing remains at the destination"
    assert objects_in(lake) == {}
    assert warehouse.execute(left).fetchone() == (0,)
    assert warehouse.execute("SELECT count(*) FROM answers.fitserve_parts").fetchone() == (0,)
    change.delete_run(batch.toys.engine, run_ids[0], None)


def test_a_cleanup_that_cannot_be_done_says_what_remains(
    batch: Batch, warehouse: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.settings = settings.model_copy(update={"max_attempts": 1})
    run_id = batch.queue(SQL)
    with monkeypatch.context() as patched:
        kill_at(patched, sql.SqlTarget, "write", 1, after=True)
        with pytest.raises(Killed):
            batch.attempt()
    batch.expire(max_attempts=1)
    assert settings.connections_file is not None
    settings.connections_file.write_text("{}")
    assert batch.attempt(RunKind.cleanup) == RunState.failed
    assert batch.events(run_id)[-1] == f"What remains: what {run_id} has written through warehouse (sql)"


@pytest.mark.long
def test_mariadb_takes_them_once_and_keeps_their_types(
    batch: Batch, connect: Callable[..., None], mariadb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(shop={"url": mariadb, "writable": True})
    engine = sa.create_engine(mariadb, isolation_level="AUTOCOMMIT")

    def states(table: str, if_exists: str = "fail") -> Run:
        run_id = batch.queue({"sql": {"connection": "shop", "table": table, "if_exists": if_exists}})
        batch.attempt()
        return batch.run(run_id)

    def rows(query: str) -> list[Any]:
        with engine.connect() as shop:
            return [tuple(row) for row in shop.exec_driver_sql(query)]

    before = {name for (name,) in rows("SHOW TABLES")}
    run_id = batch.queue({"sql": {"connection": "shop", "table": "scores"}})
    for name, calls, after in KILLS:
        with monkeypatch.context() as patched:
            kill_at(patched, sql.SqlTarget, name, calls, after=after)
            with pytest.raises(Killed):
                batch.attempt()
        batch.expire()
    assert batch.attempt() == RunState.succeeded, batch.run(run_id).error
    written = rows("SELECT code, paid, city, moment, gpa FROM scores ORDER BY id")
    expected = [(one["code"], one["paid"], one["city"], one["moment"], one["gpa"]) for one in students().to_pylist()]
    assert [(*row[:1], None if row[1] is None else bool(row[1]), *row[2:3]) for row in written] == [
        one[:3] for one in expected
    ]
    assert [row[3] for row in written] == [one[3].replace(tzinfo=None) for one in expected]
    assert [row[4] for row in written] == pytest.approx([one[4] for one in expected], rel=1e-12)
    assert "exists already" in states("scores").error["detail"]
    assert states("scores", "replace").state == states("scores", "append").state == "succeeded"
    assert rows("SELECT count(*), count(DISTINCT id) FROM scores") == [(2 * ROWS, ROWS)]
    left = {name for (name,) in rows("SHOW TABLES")}
    assert left - before == {"scores", "fitserve_parts"}


def test_a_database_of_another_kind_takes_them_too(batch: Batch, connect: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    sqlite3.connect(path).close()
    connect(
        shop={"url": f"sqlite:///{path}", "writable": True}, none={"url": "sqlite:////no/such.db", "writable": True}
    )
    destination = {"sql": {"connection": "shop", "table": "scores", "if_exists": "replace"}}
    for _ in range(2):
        run_id = batch.queue(destination)
        assert batch.attempt() == RunState.succeeded, batch.run(run_id).error
    with sqlite3.connect(path) as shop:
        assert shop.execute("SELECT count(*), count(DISTINCT id), min(code) FROM scores").fetchone() == (
            ROWS,
            ROWS,
            "000000",
        )
    run_id = batch.queue({"sql": {"connection": "none", "table": "scores"}})
    for _ in range(3):
        batch.attempt()
    assert batch.run(run_id).state == "failed"


@pytest.mark.long
@pytest.mark.parametrize("victim", ["helper", "holder"])
def test_two_million_rows_over_two_workers_one_of_which_is_killed(
    toys: ToyRegistry, settings: Settings, warehouse: Any, tmp_path: Path, victim: str
) -> None:
    count = 2_000_000
    batch = Batch(toys, settings)
    batch.dataset = upload(toys, settings, students(count), "many")
    run_id = batch.queue(SQL, columns=["id"], part_rows=100_000)
    environment = {
        **os.environ,
        **toys.settings(FITSERVE_CONNECTIONS_FILE=str(settings.connections_file), FITSERVE_LEASE_SECONDS="15"),
    }
    command = [sys.executable, "-m", "tests.predict.batch_worker"]
    with (tmp_path / "log").open("wb") as log:
        workers = [subprocess.Popen(command, env=environment, stdout=log, stderr=log) for _ in range(2)]
        try:

            def running_after_one() -> list[Run]:
                parts = batch.parts(run_id)
                done = any(part.state == "succeeded" for part in parts)
                return [part for part in parts if done and part.state == "running"]

            running: list[Run] = wait_until(running_after_one)
            held_by = running[0].worker if victim == "helper" else batch.run(run_id).worker
            dead = next(worker for worker in workers if f"-{worker.pid}-" in held_by)
            dead.kill()
            wait_until(lambda: batch.run(run_id).state == "succeeded", patience=900, log=tmp_path / "log")
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    found = warehouse.execute("SELECT count(*), count(DISTINCT id), min(id), max(id) FROM answers.scores").fetchone()
    assert found == (count, count, 0, count - 1)
    assert len(batch.run(run_id).result["parts"]) == 20
    assert sum(part.state == "succeeded" for part in batch.parts(run_id)) >= 1  # by another worker than the holder
