"""Imports as runs: several workers together produce, exactly once, what the API produces alone, even if some die."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from sqlalchemy import Engine, select, update

import fitserve
from fitserve import db
from fitserve.blobs import FolderStore
from fitserve.datasets.sources import import_plan
from fitserve.datasets.sources.import_plan import ImportPlan
from fitserve.datasets.sources.objects import ListedObject, Listing
from fitserve.errors import BadInput, Unavailable
from fitserve.ids import new_id
from fitserve.runs import create, finish, lease, queries, worker_registry
from fitserve.settings import Settings
from fitserve.states import TERMINAL, RunKind, RunState
from fitserve.tables import Dataset, Run
from tests.crash_fleet import CrashFleet
from tests.datasets.conftest import Api
from tests.datasets.test_file_sources import parquet
from tests.faults.cluster import wait_for
from tests.waiting import PATIENCE, wait_until
from workers.batch.division import Assignment, PartDivision
from workers.batch.import_run import ImportAttempt, part_attempt
from workers.side_runner import MakeAttempt, SideRunner, remove_left_folders

POINTS = ("import.after_plan", "import.after_part", "import.after_blobs")
ATTEMPTS: dict[str, MakeAttempt] = {RunKind.import_: ImportAttempt, RunKind.part: part_attempt}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each object a part of its own, and do not wait long for a store that is away, but for a slow machine."""
    monkeypatch.setattr(import_plan, "PART_OBJECTS", 1)
    monkeypatch.setattr("fitserve.datasets.sources.fetched.FIRST_PAUSE", 0.01)
    monkeypatch.setattr(worker_registry, "WORKER_TIMEOUT", 3600)


class Bucket:
    """A bucket on moto's S3, and the connection to it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.name = new_id("b").replace("_", "-")
        endpoint = {"endpoint_url": environment["AWS_ENDPOINT_URL"]}
        options = {"key": "tester", "secret": "lake-s3cret", "client_kwargs": endpoint}
        self.connection: dict[str, Any] = {"url": f"s3://{self.name}/data", "options": options}
        self._store = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False, **options)
        self._store.mkdir(self.name)

    def put(self, path: str, data: bytes) -> None:
        self._store.pipe(f"{self.name}/data/{path}", data)

    def remove(self, path: str) -> None:
        self._store.rm(f"{self.name}/data/{path}")


@pytest.fixture(scope="module")
def lake(s3_environment: dict[str, str]) -> Bucket:
    return Bucket(s3_environment)


class Workers:
    """Attempts at an API's imports, made by the test."""

    def __init__(self, api: Api) -> None:
        self.settings = api.settings
        self.engine = db.make_engine(api.settings.resolved_database_url)
        self.blobs = FolderStore(api.settings.home / "blobs")
        worker_registry.register(self.engine, "another", "elsewhere", 1)  # so that parts are offered

    def attempt(self, *kinds: str, stopping: threading.Event | None = None) -> RunState | None:
        """Make one attempt at the next run of a kind; None where there is none."""
        claim = lease.claim(self.engine, "w", lease_seconds=30, running_limit=99, kinds=kinds or (RunKind.import_,))
        if claim is None:
            return None
        stopped = stopping or threading.Event()
        return ATTEMPTS[claim.run.kind](self.settings, self.engine, self.blobs, claim, stopped).run()

    def import_together(self) -> tuple[RunState | None, int]:
        """Have two workers carry an import out: where the first one does a part, the second one does another.

        Return its end, and how many parts the second one did.
        """
        helped, assign = 0, PartDivision.assign

        def assign_and_help(division: PartDivision, remaining: Sequence[int]) -> Assignment:
            nonlocal helped
            answer = assign(division, remaining)
            helped += self.attempt(RunKind.part) == RunState.succeeded
            return answer

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(PartDivision, "assign", assign_and_help)
            return self.attempt(), helped

    def run(self, run_id: str) -> Run:
        with db.reading(self.engine) as session:
            return session.get_one(Run, run_id)

    def dataset(self, run_id: str) -> Dataset:
        result = self.run(run_id).result
        assert result is not None
        with db.reading(self.engine) as session:
            return session.get_one(Dataset, result["dataset_id"])

    def events(self, run_id: str) -> list[str]:
        with db.reading(self.engine) as session:
            return [event.message for event in queries.events_after(session, run_id)]


@pytest.fixture
def workers(api: Api, lake: Bucket) -> Iterator[Workers]:
    api.connect(lake=lake.connection)
    workers = Workers(api)
    yield workers
    workers.engine.dispose()


def ask(api: Api, name: str, path: str, wait: bool | None = False, **more: Any) -> Any:
    body = {"name": name, "source": {"s3": {"connection": "lake", "path": path}}, "wait": wait, **more}
    return api.ann.post("/datasets", json={key: value for key, value in body.items() if value is not None})


def content(row: Dataset) -> dict[str, Any]:
    """Return all that a version says but its names, and when its source was read."""
    source = {**row.source, "imported": {**row.source["imported"], "at": None}}
    columns = (row.sha256, row.bytes, row.blob, row.rows, row.columns, row.profile, row.refused, row.notices)
    return {"source": source, "columns": columns}


CSV_PARTS = {
    "1.csv": b"id;zip;paid\n" + b"".join(b"%d;%04d;yes\n" % (n, n) for n in range(400)),
    "2.csv.gz": gzip.compress(b"zip,id,town\n" + b"".join(b"%05d,%d,Bern\n" % (n, n) for n in range(300))),
    "3.csv": b"id,zip,paid\n7,12,no\n8.5,NA,\n",
    "4.csv": b"id,zip,paid\n1,2,yes,3\n9,13,no\n",  # one line is left out
}
PARQUET_PARTS = {
    "a.parquet": parquet(id=[1, 2], price=[1, 2], code=["01", "02"]),
    "b.parquet": parquet(code=["03"], id=[3], price=[2.5], shop=["x"]),
    "c.parquet": parquet(id=[4], price=[3], code=["04"]),
}
LINES_PARTS = {"1.jsonl": b'{"a": 1, "b": "x"}', "2.jsonl": b'{"a": 2.5}\n', "3.jsonl": b'{"b": "y"}\n'}


def listed_ids(api: Api, **filters: str) -> list[str]:
    return [run["id"] for run in api.ann.get("/runs", params=filters).json()["items"]]


@pytest.mark.parametrize("parts", [CSV_PARTS, PARQUET_PARTS, LINES_PARTS], ids=["csv", "parquet", "jsonl"])
def test_workers_make_together_what_the_api_makes_alone(
    api: Api, workers: Workers, lake: Bucket, parts: dict[str, bytes]
) -> None:
    folder = new_id("f").replace("_", "-")
    for name, data in parts.items():
        lake.put(f"{folder}/{name}", data)
    options = {"lenient": True} if parts is CSV_PARTS else {}
    alone = ask(api, f"{folder}-alone", f"{folder}/*", True, options=options)
    assert alone.status_code == 201, alone.text
    queued = ask(api, f"{folder}-together", f"{folder}/*", options=options)
    assert (queued.status_code, queued.headers["location"]) == (202, f"/api/v1/runs/{queued.json()['id']}")
    assert (queued.json()["kind"], queued.json()["dataset_id"]) == ("import", None)
    assert listed_ids(api, dataset=f"{folder}-together") == [queued.json()["id"]]
    state, helped = workers.import_together()
    run = workers.run(queued.json()["id"])
    assert (state, run.error) == (RunState.succeeded, None)
    assert 0 < helped < len(parts)
    assert run.result is not None
    assert (run.result["dataset"], run.result["created"]) == (f"{folder}-together@1", True)
    with db.reading(workers.engine) as session:
        first = session.get_one(Dataset, alone.json()["id"])
    assert content(workers.dataset(run.id)) == content(first)
    assert f"{len(parts)} of {len(parts)} parts" in workers.events(run.id)
    with db.reading(workers.engine) as session:  # what was read of the parts is gone
        parts_runs = session.scalars(select(Run).where(Run.parent_id == run.id)).all()
    left = {part.result["blob"] for part in parts_runs if part.result}
    assert left
    assert not left & api.blobs()
    assert api.leftovers() == []
    listed = next(one for one in api.ann.get("/runs").json()["items"] if one["id"] == run.id)
    assert listed["dataset"] == f"{folder}-together@1"
    assert listed_ids(api, dataset=f"{folder}-together") == [run.id]
    assert listed_ids(api, dataset_id=run.result["dataset_id"]) == [run.id]
    assert listed_ids(api, dataset=f"{folder}-alone") == []
    assert api.ann.delete(f"/datasets/{run.result['dataset_id']}").status_code == 204
    assert api.admin.delete(f"/runs/{run.id}").status_code == 204


def test_a_run_says_what_the_api_refuses(api: Api, workers: Workers, lake: Bucket) -> None:
    for name, data in {"1.csv": b"a,b\n1,2\n", "2.csv": b"a,b\n1,2\n1,2,3\n", "x.parquet": parquet(a=[1])}.items():
        lake.put(f"bad/{name}", data)
    lake.put("bad/one.bin/1.csv", b"\x00\x01\x02PK")
    for path in ("bad/*.csv", "bad/[1x].*"):
        alone, queued = ask(api, "bad", path, True), ask(api, "bad", path)
        assert (alone.status_code, queued.status_code) == (422, 202), (alone.text, queued.text)
        assert workers.import_together()[0] == RunState.failed
        problem, error = alone.json(), workers.run(queued.json()["id"]).error
        assert error is not None
        for member in ("type", "status", "detail", "received", "expected", "errors"):
            assert error.get(member) == problem.get(member) or (member, error[member]) == ("errors", []), member
        assert error["cause"] in ("bad_data", "source_refused")
    for path, says in (("none/*.csv", "no object"), ("bad", "folder")):  # which its list shows
        refused = ask(api, "bad", path)
        assert (refused.status_code, says in refused.json()["detail"]) == (422, True), refused.text
    assert ask(api, "bad", "x", source={"s3": {"connection": "no", "path": "x"}}).status_code == 422
    assert api.leftovers() == []


def test_a_source_that_changes_is_listed_again(
    api: Api, workers: Workers, lake: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        lake.put(f"moving/{number}.csv", b"n\n%d\n" % number)
    read, changes = ImportAttempt._read_part, [lambda: lake.put("moving/2.csv", b"n\n7\n8\n")]
    changes.append(lambda: lake.remove("moving/1.csv"))

    def meddled(attempt: Any, plan: ImportPlan, number: int, folder: Path) -> Any:
        if number % 3 == 1 and changes:
            changes.pop(0)()
        return read(attempt, plan, number, folder)

    monkeypatch.setattr(ImportAttempt, "_read_part", meddled)
    run_id = ask(api, "moving", "moving/*").json()["id"]
    assert workers.attempt() == RunState.succeeded, workers.run(run_id).error
    made = workers.dataset(run_id)
    assert [part["name"][-5:] for part in made.source["imported"]["snapshot"]["parts"]] == ["0.csv", "2.csv"]
    assert made.rows == 3
    assert any("changed" in event for event in workers.events(run_id))
    refresh = "/datasets/moving/refresh"
    assert api.ann.post(refresh, params={"wait": False}).status_code == 202
    assert workers.attempt() == RunState.succeeded
    lake.put("moving/3.csv", b"n\n9\n")
    first = api.ann.post(refresh, params={"wait": False}, headers={"Idempotency-Key": "again"}).json()["id"]
    repeated = api.ann.post(refresh, params={"wait": False}, headers={"Idempotency-Key": "again"})
    assert (repeated.json()["id"], repeated.headers["idempotency-replayed"]) == (first, "true")
    assert api.ann.post(refresh, headers={"Idempotency-Key": "again"}).status_code == 409  # asks for something else
    assert workers.attempt() == RunState.succeeded
    assert (workers.dataset(first).version, workers.dataset(first).rows) == (2, 4)


def test_many_objects_are_a_run_and_a_stopped_one_goes_on(
    api: Api, workers: Workers, lake: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.settings, "import_run_parts", 3)
    for number in range(3):
        lake.put(f"many/{number}.csv", b"n\n%d\n" % number)
    assert ask(api, "many", "many/[01].csv", None).status_code == 201
    run_id = ask(api, "many", "many/*", None).json()["id"]
    stopping = threading.Event()
    read = ImportAttempt._read_part

    def stop(attempt: Any, plan: ImportPlan, number: int, folder: Path) -> Any:
        answer = read(attempt, plan, number, folder)
        stopping.set()
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(ImportAttempt, "_read_part", stop)
        assert workers.attempt(stopping=stopping) == RunState.queued
    assert workers.run(run_id).spent_attempts == 0
    assert workers.attempt() == RunState.succeeded
    assert workers.dataset(run_id).version == 2
    queued = ask(api, "many", "many/*").json()["id"]
    assert api.bob.get(f"/runs/{queued}").status_code == 404
    assert api.ann.post(f"/runs/{queued}/cancel").status_code == 403  # which `train` allows
    assert api.admin.post(f"/runs/{queued}/cancel").status_code == 200
    assert api.ann.post(f"/runs/{queued}/retry").status_code == 403
    again = api.admin.post(f"/runs/{queued}/retry")
    assert again.status_code == 202
    assert workers.attempt() == RunState.succeeded
    assert workers.run(again.json()["id"]).result["created"] is False  # type: ignore[index]
    with db.transaction(workers.engine) as session:  # what has trained nothing has nothing to be repeated exactly
        for kind in ("prediction", "export"):
            create.add_run(session, create.NewRun("ann", None, {}, {}, {}, kind=kind), f"run_{kind}", db.now(session))
            session.execute(update(Run).where(Run.id == f"run_{kind}").values(state=RunState.succeeded))
    for run_id in (again.json()["id"], "run_prediction", "run_export"):
        assert api.admin.post(f"/runs/{run_id}/reproduce").status_code == 409, run_id


def test_the_client_waits_for_the_run_and_raises_what_the_api_raises(api: Api, workers: Workers, lake: Bucket) -> None:
    lake.put("asked/1.csv", b"n,m\n1,1\n")
    lake.put("asked/2.csv", b"n,m\n2,2\n")
    lake.put("broken/1.csv", b"n,m\n1,1\n")
    lake.put("broken/2.csv", b"n,m\n2,2\n3,3,3\n")
    moved: list[tuple[int, int | None]] = []
    with fitserve.Client(api.url, api.token) as client, ThreadPoolExecutor(1) as pool:

        def import_from(path: str, **more: Any) -> Any:
            source = {"s3": {"connection": "lake", "path": path}}
            asked = pool.submit(client.datasets.import_from, "asked", source, wait=False, **more)
            wait_until(workers.attempt, "the run")
            return asked.result(PATIENCE)

        made = import_from("asked/*", progress=lambda *sizes: moved.append(sizes))
        assert (made.ref, made.rows) == ("asked@1", 2)
        assert moved[0] == (0, 16)
        assert moved[-1] == (16, 16)
        with pytest.raises(BadInput, match=r"2.csv") as refused:
            import_from("broken/*")
        assert refused.value.problems[0].line == 3
        run = client.datasets.queue_import("asked", {"s3": {"connection": "lake", "path": "asked/*"}})
        assert workers.attempt() == RunState.succeeded
        assert client.runs.get(run.id).wait().dataset == "asked@1"


def test_parts_are_large_enough_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_plan, "PART_OBJECTS", 32)
    sizes = [10, 10, 200, 5, *[64] * 4]
    plan = ImportPlan.of(Listing([ListedObject(str(at), size << 20, "m") for at, size in enumerate(sizes)]), first=7)
    assert [[int(name) for name, _, _ in part] for part in plan.parts] == [[0, 1], [2], [3], [4], [5], [6], [7]]
    assert list(plan.numbers) == list(range(7, 14))
    assert plan.objects_of(6) is None
    assert ImportPlan.from_json(plan.to_json()) == plan
    many = ImportPlan.of(Listing([ListedObject(str(at), 1, "m") for at in range(10_000)]))
    assert [len(part) for part in many.parts] == [32] * 312 + [16]
    assert len(ImportPlan.of(Listing([ListedObject(str(at), 1 << 40, "m") for at in range(10_000)])).parts) == 500


# --- parts and sources that are deleted, damaged, changed or unreachable ----------------------------------------------


def test_a_plan_that_is_lost_takes_no_part_of_the_old_one(
    api: Api, workers: Workers, lake: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that waits for a worker longer than garbage is kept is gone; the parts' rows are not."""
    for name, rows in (("0", 1), ("1", 2), ("2", 4)):
        lake.put(f"lost/{name}.csv", b"n\n" + b"1\n" * rows)
    run_id = ask(api, "lost", "lost/*").json()["id"]
    stopping, read = threading.Event(), ImportAttempt._read_part

    def help_and_stop(attempt: Any, plan: ImportPlan, number: int, folder: Path) -> Any:
        assert workers.attempt(RunKind.part) == RunState.succeeded
        stopping.set()
        return read(attempt, plan, number, folder)

    with monkeypatch.context() as patched:
        patched.setattr(ImportAttempt, "_read_part", help_and_stop)
        assert workers.attempt(stopping=stopping) == RunState.queued
    checkpoint = workers.run(run_id).checkpoint
    assert checkpoint is not None
    workers.blobs.delete(json.loads(workers.blobs.read(checkpoint))["plan"])
    lake.put("lost/00.csv", b"n\n" + b"1\n" * 8)  # the second one from now on
    assert workers.attempt() == RunState.succeeded, workers.run(run_id).error
    assert workers.dataset(run_id).rows == 15


def test_parts_that_are_deleted_or_damaged_are_read_again(
    api: Api, workers: Workers, lake: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another import of the same objects deletes its files, which are these; and the database is away twice."""
    for number in range(3):
        lake.put(f"shaken/{number}.csv", b"n\n" + b"%d\n" % number * (number + 1))
    join, assign, succeed = ImportAttempt._join, PartDivision.assign, finish.succeed
    away = [PartDivision, finish]

    def join_what_is_left(attempt: Any, importer: Any, plan: ImportPlan, verify: bool) -> Any:
        if not verify:
            workers.blobs.delete(attempt._done[0].blob)
            (table,) = json.loads(workers.blobs.read(attempt._done[1].blob))
            workers.blobs.local(table["blob"], Path()).write_bytes(b"damaged")
        return join(attempt, importer, plan, verify)

    def assign_late(division: PartDivision, remaining: Sequence[int]) -> Assignment:
        if PartDivision in away:
            away.remove(PartDivision)
            raise Unavailable
        return assign(division, remaining)

    def succeed_unheard(*args: Any, **more: Any) -> RunState:
        state = succeed(*args, **more)
        if finish in away:
            away.remove(finish)
            raise Unavailable
        return state

    monkeypatch.setattr(ImportAttempt, "_join", join_what_is_left)
    monkeypatch.setattr(PartDivision, "assign", assign_late)
    monkeypatch.setattr(finish, "succeed", succeed_unheard)
    run_id = ask(api, "shaken", "shaken/*").json()["id"]
    assert workers.attempt() == RunState.succeeded, workers.run(run_id).error
    assert (workers.dataset(run_id).rows, workers.run(run_id).attempt, away) == (6, 1, [])


def test_the_one_object_that_is_left_is_the_table(
    api: Api, workers: Workers, lake: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.put("last/1.csv", b"n\n1\n")
    lake.put("last/2.csv", b"n\n2\n")
    read = ImportAttempt._read_part

    def read_late(attempt: Any, plan: ImportPlan, number: int, folder: Path) -> Any:
        lake.remove("last/2.csv") if number == 1 else None
        return read(attempt, plan, number, folder)

    monkeypatch.setattr(ImportAttempt, "_read_part", read_late)
    run_id = ask(api, "last", "last/*").json()["id"]
    assert workers.attempt() == RunState.succeeded, workers.run(run_id).error
    alone = ask(api, "last-alone", "last/*", True)
    assert workers.dataset(run_id).sha256 == alone.json()["sha256"]


def test_refreshes_at_once_make_one_version_and_names_are_taken(
    api: Api, workers: Workers, lake: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.put("twice/1.csv", b"n\n1\n")
    lake.put("twice/2.csv", b"n\n2\n")
    assert ask(api, "twice", "twice/*", True).status_code == 201

    def refresh() -> str:
        return str(api.ann.post("/datasets/twice/refresh", params={"wait": False}).json()["id"])

    lake.put("twice/3.csv", b"n\n3\n")
    ids = [refresh(), refresh()]
    assert [workers.attempt() for _ in ids] == [RunState.succeeded] * 2
    results = [workers.run(run_id).result or {} for run_id in ids]
    assert [(one["dataset"], one["created"]) for one in results] == [("twice@2", True), ("twice@2", False)]

    for view in ("findings", "lineage", "complexity", "evaluation", "importance", "hardest", "layers", "trials"):
        assert api.ann.get(f"/runs/{ids[0]}/{view}").status_code < 500, view
    for sought in ({"sort": "dataset"}, {"q": "twice"}):
        listed = api.ann.get("/runs", params=sought).json()["items"]
        assert ids[0] in [one["id"] for one in listed], sought

    gone, commit = refresh(), ImportAttempt._succeed

    def commit_late(attempt: Any, *what: Any) -> RunState:
        assert api.ann.delete(f"/datasets/{results[0]['dataset_id']}").status_code == 204
        return commit(attempt, *what)

    with monkeypatch.context() as patched:
        patched.setattr(ImportAttempt, "_succeed", commit_late)
        assert workers.attempt() == RunState.failed
    assert "deleted" in (workers.run(gone).error or {})["detail"]

    taken = ask(api, "taken", "twice/*").json()["id"]
    assert api.bob.post("/datasets", params={"name": "taken"}, content=b"a\n1\n").status_code == 201
    assert workers.attempt() == RunState.failed
    assert (workers.run(taken).error or {})["type"] == "urn:fitserve:problem:conflict"


def test_a_worker_refuses_and_waits_as_the_api_does(
    api: Api, workers: Workers, lake: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.put("refused/1.csv", b"n\n1\n")
    lake.put("refused/2.csv", b"n\n2\n")

    def error() -> dict[str, Any]:
        assert workers.attempt() == RunState.failed
        with db.reading(workers.engine) as session:
            run = session.scalars(select(Run).where(Run.kind == RunKind.import_).order_by(Run.id.desc())).first()
        assert run is not None
        assert "lake-s3cret" not in json.dumps([run.error, workers.events(run.id)])
        return run.error or {}

    monkeypatch.setattr(api.settings, "max_attempts", 1)
    with monkeypatch.context() as patched:
        patched.setattr(api.settings.limits, "expanded_bytes", 7)  # each has four
        assert ask(api, "refused", "refused/*", True).status_code == 413
        ask(api, "refused", "refused/*")
        assert error()["type"] == "urn:fitserve:problem:too-large"
    absent = {**lake.connection["options"], "client_kwargs": {"endpoint_url": "http://127.0.0.1:1"}}
    for change, slug in (({"owners": ["bob"]}, "bad-input"), ({"options": absent}, "source-away")):
        ask(api, "refused", "refused/*")
        api.connect(lake={**lake.connection, **change})
        assert error()["type"] == f"urn:fitserve:problem:{slug}"
        api.connect(lake=lake.connection)


def test_folders_of_killed_workers_are_deleted(workers: Workers, tmp_path: Path) -> None:
    new = create.NewRun("ann", None, {}, {}, {}, kind=RunKind.import_)
    held = create.create_run(workers.engine, new, Settings().limits)[0].id
    claim = lease.claim(workers.engine, "w", lease_seconds=30, running_limit=99, kinds=(RunKind.import_,))
    assert claim is not None
    for name in (f"{held}-0", f"{held}-1", "run_gone-1", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    remove_left_folders(workers.engine, tmp_path, 60)
    assert len(list(tmp_path.iterdir())) == 4
    remove_left_folders(workers.engine, tmp_path, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", f"{held}-1"]
    finish.confirm_cancel(workers.engine, claim.lease)


# --- kills ---------------------------------------------------------------------------------------------------------


def _work(url: str, home: Path) -> None:
    """Be a process that carries out imports and their parts until it is killed."""
    settings = Settings(home=home, connections_file=home / "connections.json", lease_seconds=1, heartbeat_seconds=0.2)
    import_plan.PART_OBJECTS = 1
    engine, blobs = db.make_engine(url), FolderStore(home / "blobs")
    runner = SideRunner(settings, engine, blobs, threading.Event(), ATTEMPTS)
    worker_registry.register(engine, runner._worker, "here", 1)
    runner.start()
    while True:
        with contextlib.suppress(Unavailable):
            finish.expire_leases(engine, 10_000)
        runner.wake()
        threading.Event().wait(0.1)


def _import_under_kills(
    engine: Engine, url: str, home: Path, lake: Bucket, times: int, count: int, again: Callable[[CrashFleet], bool]
) -> None:
    home.mkdir(exist_ok=True)
    (home / "connections.json").write_text(json.dumps({"lake": lake.connection}))
    for name, data in CSV_PARTS.items():
        lake.put(f"killed/{name}", data)
    source = {"s3": {"connection": "lake", "path": "killed/*"}}
    made: list[Run] = []
    with CrashFleet(POINTS, times, count, home, _work, url, home) as fleet:
        while again(fleet) or len(made) < 2:
            resolved = {"name": f"killed-{len(made)}", "source": source, "options": {"lenient": True}, "known": None}
            new = create.NewRun("ann", None, {}, resolved, {}, kind=RunKind.import_)
            # Processes that are killed or slow may hold SQLite's lock for longer than a transaction waits for it.
            run_id = wait_for(lambda new=new: create.create_run(engine, new, Settings().limits), what="a run")[0].id

            def ended(run_id: str = run_id) -> Run | None:
                fleet.replace_dead()
                with db.reading(engine) as session:
                    run = session.get_one(Run, run_id)
                return run if run.state in TERMINAL else None

            made.append(wait_for(ended, what="the import's end"))
        print(f"{fleet.deaths} kills in {len(made)} imports")
        fleet.assert_all_died()
    assert [(run.state, run.error) for run in made] == [("succeeded", None)] * len(made)
    with db.reading(engine) as session:
        rows = list(session.scalars(select(Dataset).where(Dataset.name.like("killed-%"))))
        left = session.scalars(select(Run.state).where(Run.kind == RunKind.part)).all()
    assert sorted((row.name, row.version) for row in rows) == sorted((f"killed-{at}", 1) for at in range(len(made)))
    assert len({str(content(row)) for row in rows}) == 1
    assert rows[0].rows == 703
    assert set(left) <= set(TERMINAL)


def test_holders_and_helpers_die_at_each_line(engine: Engine, database_url: str, tmp_path: Path, lake: Bucket) -> None:
    """The version is there once, with all rows, after a death after the plan, after a part and before the commit."""
    _import_under_kills(engine, database_url, tmp_path / "home", lake, 1, 2, lambda fleet: fleet.crashes_to_come > 0)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_holders_and_helpers_die_twenty_times_at_each_line(
    engine: Engine, database_url: str, tmp_path: Path, lake: Bucket
) -> None:
    _import_under_kills(engine, database_url, tmp_path / "home", lake, 20, 3, lambda fleet: fleet.crashes_to_come > 0)


def test_who_has_lost_the_lease_makes_no_version(
    api: Api, workers: Workers, lake: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder that was paused beyond its lease goes on after another one has ended the run."""
    lake.put("paused/1.csv", b"n\n1\n")
    lake.put("paused/2.csv", b"n\n2\n")
    run_id = ask(api, "paused", "paused/*").json()["id"]
    join = ImportAttempt._join

    def lose_it(attempt: Any, importer: Any, plan: ImportPlan, verify: bool) -> Any:
        fetched = join(attempt, importer, plan, verify)
        with db.transaction(workers.engine) as session:
            past = db.now(session).replace(year=2020)
            session.execute(update(Run).where(Run.id == run_id).values(lease_expires_at=past))
        finish.expire_leases(workers.engine, 99)
        with monkeypatch.context() as patched:
            patched.setattr(ImportAttempt, "_join", join)
            assert workers.attempt() == RunState.succeeded
        attempt._check_wanted = lambda: None  # it notices nothing before its commit
        return fetched

    monkeypatch.setattr(ImportAttempt, "_join", lose_it)
    assert workers.attempt() is None
    with db.reading(workers.engine) as session:
        assert session.scalars(select(Dataset.version).where(Dataset.name == "paused")).all() == [1]
    assert workers.run(run_id).state == "succeeded"
