"""Gangs on hosts that are really apart: one fault, or faults at random, and what is left."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from sqlalchemy import select

from fitserve import db
from fitserve.runs import queries
from fitserve.states import TERMINAL, RunKind, RunState
from fitserve.tables import Epoch, GangMember, Run
from tests.faults.__main__ import LEASES
from tests.faults.checker import AcknowledgedRun, Verdict, check_runs
from tests.faults.cluster import Member
from tests.faults.test_division import wait_idle
from tests.faults.test_gang import messages, parts_of
from tests.hosts.conftest import Deployment
from tests.waiting import wait_until

EPOCHS = 600  # half a minute: a test that is slow to cut finds the run in training
WORKERS = ("worker1", "worker2")
TOGETHER = "2 workers train the network together"
WEB_PORT = 8000
INTERRUPTION = 3.0  # seconds between two epochs, from which on training was interrupted


@dataclass(frozen=True)
class Begun:
    """A run that two workers train together, and the names of their hosts."""

    run_id: str
    leader: str
    helper: str


def begun(hosts: Deployment, *, epochs: int = EPOCHS, at_least: int = 1, wait: float = 15, **environment: str) -> Begun:
    """Start two workers and, once both are idle, a run that both train."""
    workers: dict[str, Member] = {}
    for name in WORKERS:
        address = hosts.network.hosts[name].address
        workers[name] = hosts.start("worker", name, FITSERVE_CLUSTER_HOST=address, **environment)
    wait_idle(hosts.cluster, len(workers))
    together = {"count": 2, "at_least": at_least, "wait": wait}
    run_id = hosts.cluster.submit(seed=5, epochs=epochs, seconds=0.05, checkpoint_every=5, workers=together)
    hosts.start("reaper", "data")
    hosts.cluster.wait_epoch(run_id, 10, 120 + wait)
    assert TOGETHER in messages(hosts.cluster, run_id), _story(hosts, run_id)
    leader = host_of(workers, hosts.cluster.run(run_id).worker)
    (helper,) = set(WORKERS) - {leader}
    return Begun(run_id, leader, helper)


def check(hosts: Deployment, run_id: str, epochs: int = EPOCHS) -> Run:
    """Check that the run ended as an undisturbed one, and that no part is left."""
    run = hosts.cluster.wait_over(run_id, 600)
    assert run.state == "succeeded", run.error
    verdict = check_runs(hosts.cluster.engine, hosts.cluster.blobs, [AcknowledgedRun(run_id, 5, epochs)])
    assert verdict.ok, f"{verdict}\n{hosts.cluster.tail()}"
    return run


def cut_off(
    hosts: Deployment, victim: Literal["leader", "helper"], seconds: float, *, incoming: bool, outgoing: bool
) -> dict[str, Any]:
    """Cut one of the gang off for so long. Returns the seconds until the run went on, and who trained on.

    The one that was cut off then trains in a gang again.
    """
    gang = begun(hosts)
    run_id, last = gang.run_id, max(epochs_at(hosts, gang.run_id))
    assert last < EPOCHS - 20, "the run is over before anything is cut"
    cut_at, host = time.monotonic(), hosts.network.hosts[getattr(gang, victim)]
    host.cut(incoming, outgoing)
    mending = threading.Timer(seconds, host.mend)
    mending.start()
    try:
        hosts.cluster.wait_epoch(run_id, min(EPOCHS, last + 20), 180)
        recovered = time.monotonic() - cut_at
        run = check(hosts, run_id)
        assert run.attempt > 1 or "training resumes" in messages(hosts.cluster, run_id), "nobody has noticed"
    except AssertionError as error:
        raise AssertionError(f"{error}\n{_story(hosts, run_id)}\n{hosts.cluster.tail(20_000)}") from error
    finally:
        mending.join()
    workers = {"count": 2, "at_least": 2, "wait": 0}
    again = hosts.cluster.submit(seed=5, epochs=20, seconds=0.05, workers=workers)
    check(hosts, again, 20)
    assert TOGETHER in messages(hosts.cluster, again)
    said = messages(hosts.cluster, run_id)
    return {"recovered_s": round(recovered, 1), "attempts": run.attempt, "gangs": said.count(TOGETHER)}


def _story(hosts: Deployment, run_id: str) -> str:
    """What happened to a run and its parts, as lines."""
    with db.reading(hosts.cluster.engine) as session:
        events = queries.events_after(session, run_id, 0, 100_000)
        told = [f"{one.created_at:%H:%M:%S} {one.attempt} {one.message}" for one in events if one.type != "metrics"]
    parts = parts_of(hosts.cluster, run_id)
    return "\n".join([*told, *(f"{p.id} {p.state} {p.worker} {p.started_at} {p.finished_at}" for p in parts)])


def bad_line(hosts: Deployment) -> dict[str, Any]:
    """Train with a helper whose packets take 200 ms more, or are lost: one of five."""
    hosts.network.disturb("worker2", delay_ms=200, loss_percent=20)
    run_id = begun(hosts, wait=120).run_id
    began_at = time.monotonic()
    run, said = check(hosts, run_id), messages(hosts.cluster, run_id)
    took = round(time.monotonic() - began_at, 1)
    return {"seconds": took, "attempts": run.attempt, "gangs": said.count(TOGETHER)}


TABLE = "a,b,c,y\n" + "".join(
    f"{a / 40},{b / 30},{(a * b) % 7},{a * b / 1200 + (a % 5) / 10}\n" for a in range(40) for b in range(30)
)
SPEC: dict[str, Any] = {
    "dataset": "circle",
    "target": "y",
    "network": [{"Dense": {"units": 32, "activation": "relu"}}, {"Dense": {"units": 32, "activation": "relu"}}],
    # No Adam: it divides by small numbers, which makes rounding grow from epoch to epoch.
    "training": {
        "epochs": 120,
        "batch_size": 24,
        "early_stopping": None,
        "seed": 3,
        "optimizer": {"SGD": {"learning_rate": 0.01, "momentum": 0.9}},
    },
    "ensemble": False,
}


TENSORFLOW = {"FITSERVE_TRAINER_MODULE": "", **LEASES, "FITSERVE_CHECKPOINT_SECONDS": "1"}


def with_tensorflow(hosts: Deployment, fault: str) -> dict[str, Any]:
    """Train by TensorFlow's own collectives, alone and with a fault in the middle. Returns the worst difference."""
    hosts.start("api", "web", FITSERVE_PORT=str(WEB_PORT))
    hosts.start("reaper", "data")
    workers = {
        name: hosts.start("worker", name, FITSERVE_CLUSTER_HOST=hosts.network.hosts[name].address) for name in WORKERS
    }
    socket = hosts.network.unix_socket("web", WEB_PORT, hosts.cluster.home / "web.sock")
    wait_until(lambda: hosts.answers(socket, "/readyz"), "the API is ready")
    _, dataset = hosts.ask(socket, "PUT", "/api/v1/datasets/circle", TABLE.encode(), "text/csv")
    training = dict(SPEC["training"])
    if fault == "line":
        hosts.network.disturb("worker2", delay_ms=200, loss_percent=20)
        training |= {"epochs": 4, "batch_size": 240}  # each step waits for the line
    runs: dict[int, str] = {}
    for count in (1, 2):
        several = {"count": count, "at_least": count, "wait": 0} if count > 1 else None
        spec = {**SPEC, "dataset": dataset["id"], "training": {**training, "workers": several}}
        status, run = hosts.ask(socket, "POST", "/api/v1/runs", json.dumps(spec).encode(), "application/json")
        assert status == 202, run
        runs[count] = run["id"]
        if count == 2 and fault == "cut":
            hosts.cluster.wait_epoch(run["id"], 20, 300)
            helper = host_of(workers, parts_of(hosts.cluster, run["id"])[-1].worker)
            hosts.network.hosts[helper].cut()
            wait_until(lambda: "training resumes" in messages(hosts.cluster, runs[2]), "it is noticed")
            hosts.network.hosts[helper].mend()
        assert hosts.cluster.wait_over(run["id"], 900).state == "succeeded", hosts.cluster.run(run["id"]).error
    alone, together = (_losses(hosts, runs[count]) for count in (1, 2))
    assert len(alone) == len(together) == training["epochs"]
    apart = [abs(one / other - 1) for one, other in zip(alone, together, strict=True)]
    worst = max(apart)
    assert worst < 1e-4, apart
    said = messages(hosts.cluster, runs[2])
    assert TOGETHER in said
    return {"worst_difference": worst, "gangs": said.count(TOGETHER), "resumed": said.count("training resumes")}


def host_of(workers: Mapping[str, Member], holder: str | None) -> str:
    """The host of a run's holder; "" where nobody holds it."""
    names = [name for name, member in workers.items() if f"-{member.process.pid}-" in (holder or "")]
    return names[0] if names else ""


def _losses(hosts: Deployment, run_id: str) -> list[float]:
    with db.reading(hosts.cluster.engine) as session:
        query = select(Epoch.logs).where(Epoch.run_id == run_id).order_by(Epoch.epoch)
        return [float(logs["loss"]) for logs in session.scalars(query)]


def epochs_at(hosts: Deployment, run_id: str) -> dict[int, float]:
    """When each epoch was written, as seconds."""
    with db.reading(hosts.cluster.engine) as session:
        rows = session.execute(select(Epoch.epoch, Epoch.created_at).where(Epoch.run_id == run_id))
        return {epoch: at.timestamp() for epoch, at in rows}


@dataclass
class GangStorm:
    """Faults at random on three hosts, two of which train a run together whenever they can."""

    hosts: Deployment
    random: Random
    workers: dict[str, Member] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    submitted: list[AcknowledgedRun] = field(default_factory=list)
    hit: set[str] = field(default_factory=set)  # helpers' parts whose gang was disturbed
    mending: list[threading.Timer] = field(default_factory=list)

    def blow(self, seconds: float) -> tuple[Verdict, dict[str, Any]]:
        """Disturb for so long, one run after the other; then mend everything and wait until all are over."""
        for name in ("worker1", "worker2", "worker3"):
            self._start(name)
        self.hosts.start("reaper", "data")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if all(self.hosts.cluster.run(run.run_id).state in TERMINAL for run in self.submitted):
                self._submit()
            if (gang := self._gang()) is not None:
                self.hit.add(gang.id)
                self._let_train(str(gang.parent_id), self.random.choice([0, 5, 30]))
                self._disturb(self._victim(gang))
            time.sleep(0.2)
        for timer in self.mending:
            timer.join()
        for run in self.submitted:
            self.hosts.cluster.wait_over(run.run_id, 900)
        return check_runs(self.hosts.cluster.engine, self.hosts.cluster.blobs, self.submitted), self._figures()

    def _submit(self) -> None:
        number, epochs = len(self.submitted), self.random.randrange(100, 400)
        workers = {"count": 2, "at_least": self.random.choice([1, 2]), "wait": 20}
        run_id = self.hosts.cluster.submit(seed=number, epochs=epochs, seconds=0.1, workers=workers)
        self.submitted.append(AcknowledgedRun(run_id, number, epochs))

    def _gang(self) -> Run | None:
        """The helper's part of a gang that trains and has not been disturbed."""
        query = select(Run).join(GangMember, GangMember.run_id == Run.id)
        where = (Run.kind == RunKind.helper, Run.state == RunState.running, GangMember.rank.is_not(None))
        with db.reading(self.hosts.cluster.engine) as session:
            return next((part for part in session.scalars(query.where(*where)) if part.id not in self.hit), None)

    def _let_train(self, run_id: str, epochs: int) -> None:
        """Wait until a run has trained so many epochs more, but not for long: its gang may be gone by itself."""
        deadline, first = time.monotonic() + 20, len(epochs_at(self.hosts, run_id))
        while time.monotonic() < deadline and len(epochs_at(self.hosts, run_id)) < first + epochs:
            time.sleep(0.2)

    def _victim(self, part: Run) -> str:
        """The leader's host or the helper's, at times any."""
        leader = self.hosts.cluster.run(str(part.parent_id)).worker
        holder = self.random.choice([leader, leader, part.worker, part.worker, None])
        return host_of(self.workers, holder) or self.random.choice(list(self.workers))

    def _start(self, name: str) -> None:
        address = self.hosts.network.hosts[name].address
        self.workers[name] = self.hosts.start("worker", name, FITSERVE_CLUSTER_HOST=address)

    def _disturb(self, name: str) -> None:
        """Begin a fault; it ends by itself while others begin."""
        host, worker = self.hosts.network.hosts[name], self.workers[name]
        fault, seconds = self.random.choice(["both", "deaf", "mute", "kill", "stop"]), self.random.choice([1, 10, 40])
        self.faults[f"{fault} {seconds} s" if fault != "kill" else fault] += 1
        if fault == "kill":
            worker.kill()
            self._start(name)
            return
        if fault == "stop":
            worker.pause()
            mend = worker.resume
        else:
            host.cut(incoming=fault != "mute", outgoing=fault != "deaf")
            mend = host.mend
        self.mending.append(threading.Timer(seconds, _forgiving(mend)))
        self.mending[-1].start()

    def _figures(self) -> dict[str, Any]:
        gaps: list[float] = []
        said = Counter[str]()
        left: list[str] = []
        for run in self.submitted:
            at = sorted(epochs_at(self.hosts, run.run_id).values())
            gaps += [later - earlier for earlier, later in itertools.pairwise(at) if later - earlier > INTERRUPTION]
            said[TOGETHER] += messages(self.hosts.cluster, run.run_id).count(TOGETHER)
            left += [part.id for part in parts_of(self.hosts.cluster, run.run_id) if part.state not in TERMINAL]
        return {
            "gangs": said[TOGETHER],
            "gangs_disturbed": len(self.hit),
            "interruptions": len(gaps),
            "interruption_p50_s": round(Verdict.percentile(gaps, 0.5), 1),
            "interruption_p95_s": round(Verdict.percentile(gaps, 0.95), 1),
            "interruption_max_s": round(max(gaps, default=0.0), 1),
            "parts_left": left,
            "faults": dict(sorted(self.faults.items())),
        }


def _forgiving(mend: Any) -> Any:
    def mended() -> None:
        with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
            mend()

    return mended


def storms(hosts: Iterator[Deployment], random: Random, seconds: float) -> dict[str, Any]:
    """Let one storm blow over a deployment. Returns its figures; raises AssertionError where something is wrong."""
    for one in hosts:
        verdict, figures = GangStorm(one, random).blow(seconds)
        assert verdict.ok, f"{verdict}\n{one.cluster.tail(20_000)}"
        assert figures["gangs"], "no gang formed"
        assert not figures["parts_left"], figures
        return {**verdict.fields(), **figures}
    raise AssertionError("no deployment")
