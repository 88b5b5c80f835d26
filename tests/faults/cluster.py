"""Real processes on one machine: workers, reaper, API, broker and database, for tests that kill and restart them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine

import migrations
from fitserve import blobs, db
from fitserve.embedded_redis import EmbeddedRedis
from fitserve.errors import Unavailable
from fitserve.ids import new_id
from fitserve.runs import create, finish, queries
from fitserve.settings import Limits, Settings
from fitserve.states import TERMINAL
from fitserve.tables import Blob, Dataset, Run
from tests.faults.fork_server import ForkedProcess, fork_server
from tests.ports import free_port
from tests.server_logs import add_log
from tests.waiting import PATIENCE, wait_until

PROJECT = Path(__file__).resolve().parents[2]
FAKE = "tests.faults.fake_trainer"
# Of workers that do not die in a test: a busy machine's pause then ends no attempt.
CALM = {"FITSERVE_LEASE_SECONDS": "60"}


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE, what: str = "") -> Any:
    """Return the first true value of `condition`. Fails after `seconds`, or PATIENCE where that is longer.

    It is not true while another process holds the database, which one that a test has stopped may do for long.
    """

    def asked() -> Any:
        try:
            return condition()
        except Unavailable:
            return None

    return wait_until(asked, what or "the condition", patience=max(seconds, PATIENCE))


@dataclass
class Member:
    """One process of the cluster and how it was started."""

    role: str
    environment: dict[str, str]
    process: ForkedProcess

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """Kill this process alone: its children must notice by themselves."""
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def trainers(self) -> list[psutil.Process]:
        """The trainer processes of a worker."""
        try:
            return psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []


@dataclass
class Cluster:
    """A home, a database, a broker, and members. Leases are short unless `environment` sets them."""

    home: Path
    database_url: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    redis: EmbeddedRedis | None = None
    redis_append_only: bool = True
    members: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.database_url = self.database_url or f"sqlite:///{self.home / 'fitserve.db'}"
        self.log = add_log(self.home / "log")
        migrations.upgrade(self.database_url)
        self.redis = EmbeddedRedis(self.home / "redis", append_only=self.redis_append_only).start()
        self.variables = {
            "FITSERVE_HOME": str(self.home),
            "FITSERVE_DATABASE_URL": self.database_url,
            "FITSERVE_REDIS_URL": self.redis.url,
            "FITSERVE_TEST_HOOKS": "1",
            "FITSERVE_TRAINER_MODULE": FAKE,
            "FITSERVE_AUTH": "false",
            "FITSERVE_CLUSTER_PUBLIC": "true",  # wherever the tests run; the fake trainer serves nobody
            "FITSERVE_LEASE_SECONDS": "2",
            "FITSERVE_MAX_ATTEMPTS": "100",  # a busy machine's pauses cost attempts too
            "FITSERVE_HEARTBEAT_SECONDS": "0.4",
            "FITSERVE_REAP_SECONDS": "0.3",
            "FITSERVE_REDISPATCH_SECONDS": "2",
            **self.environment,
        }
        with patched(self.variables):
            self.settings = Settings()
        self.engine: Engine = db.make_engine(self.database_url)
        self.blobs = blobs.open_store(self.settings.resolved_blob_url)
        self.dataset_id = add_dataset(self.engine, self.blobs)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            if member.alive:
                with contextlib.suppress(ProcessLookupError):
                    member.resume()
                    member.process.kill()
            member.process.wait()
        if self.redis is not None:
            self.redis.stop()
        self.engine.dispose()

    def start(self, role: str, **environment: str) -> Member:
        """Start a `worker`, `reaper` or `api`."""
        module = {
            "worker": "workers.__main__",
            "reaper": "workers.reaper.__main__",
            "api": "services.control.__main__",
        }[role]
        ports = {name: str(free_port()) for name in PORTS}
        variables = {**os.environ, **self.variables, **ports, **environment}
        member = Member(role, variables, fork_server().start(module, variables, self.log))
        self.members.append(member)
        return member

    def submit(
        self,
        *,
        priority: int = 0,
        key: str | None = None,
        model: str | None = None,
        workers: dict[str, Any] | None = None,
        **fake: Any,
    ) -> str:
        """Create a run as the API does, but without publishing a message. Returns its id."""
        spec = {"fake": {"epochs": 3, "seed": 1, **fake}, "training": {"workers": workers}}
        new = create.NewRun("tester", self.dataset_id, spec, spec, {}, model=model, priority=priority)
        wanted = create.idempotency_key(key, repr(spec).encode())
        made: Run = wait_for(lambda: create.create_run(self.engine, new, Limits(), wanted)[0], what="a new run")
        return made.id

    def cancel(self, run_id: str) -> Run:
        """Cancel a run as the API does."""
        run: Run = wait_for(lambda: finish.cancel(self.engine, run_id, None), what="a cancellation")
        return run

    def lost_leases(self, run_id: str) -> int:
        """Return how many attempts of a run ended because its lease had expired, as on a machine that pauses."""
        with db.reading(self.engine) as session:
            events = queries.events_after(session, run_id, 0, 10_000)
        return sum("stopped renewing its lease" in (event.message or "") for event in events)

    def run(self, run_id: str) -> Run:
        with db.reading(self.engine) as session:
            return queries.get(session, run_id)

    def wait_over(self, run_id: str, seconds: float = 30) -> Run:
        """Wait until a run is over, and return it."""

        def over() -> Run | None:
            run = self.run(run_id)
            return run if run.state in TERMINAL else None

        try:
            return wait_for(over, seconds)
        except AssertionError:
            run = self.run(run_id)
            raise AssertionError(f"{run_id} is {run.state} after {seconds} s; log:\n{self.tail()}") from None

    def wait_state(self, run_id: str, state: str, seconds: float = 20) -> Run:
        wait_for(lambda: self.run(run_id).state == state, seconds, f"{run_id} {state}\n{self.tail()}")
        return self.run(run_id)

    def wait_epoch(self, run_id: str, epoch: int, seconds: float = 20) -> None:
        """Wait until an epoch is in the database."""

        def reached() -> bool:
            with db.reading(self.engine) as session:
                found = queries.latest_epoch(session, run_id)
                return found is not None and found.epoch >= epoch

        wait_for(reached, seconds, f"epoch {epoch}")

    def tail(self, size: int = 6000) -> str:
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else ""


PORTS = ("FITSERVE_PORT", "FITSERVE_WORKER_METRICS_PORT", "FITSERVE_REAPER_METRICS_PORT")


@contextlib.contextmanager
def patched(variables: Mapping[str, str]) -> Iterator[None]:
    """Add variables to this process's environment, and restore it at the end."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def add_dataset(engine: Engine, store: blobs.BlobStore) -> str:
    """Insert a dataset whose bytes are never read. Returns its id."""
    stored = store.put_bytes(b"a dataset that the fake trainer does not read")
    now = datetime.now(UTC)
    with db.transaction(engine) as session:
        if session.get(Blob, stored.sha256) is None:
            session.add(Blob(sha256=stored.sha256, bytes=stored.bytes, kind="dataset", created_at=now))
            session.flush()
        row = Dataset(
            id=new_id("ds"),
            name=new_id("d"),
            version=1,
            owner="tester",
            sha256=stored.sha256,
            blob=stored.sha256,
            rows=10,
            bytes=stored.bytes,
            source={},
            columns=[],
            profile={},
            created_at=now,
        )
        session.add(row)
        session.flush()
        return row.id
