"""Attempts at one run by a gang: workers that train one network together, a leader and its helpers.

The leader holds the run's lease and alone writes to the run. It offers the helpers' parts to idle workers, and begins
once all have joined or after the time that the spec allows. When a helper is lost, the gang resumes from the last
checkpoint with the workers that remain; none of that spends an attempt of the run. While another whole run is queued,
nobody waits: the gang begins with the workers that have joined, or lets the other run go first.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar

from fitserve import db
from fitserve.errors import StorageFull, Unavailable
from fitserve.runs import finish, gangs, worker_registry
from fitserve.runs.gangs import GangOver, Helper
from fitserve.runs.history import EventReport
from fitserve.spec.workers import Workers
from fitserve.states import FailureCause, RunState
from fitserve.tables import Run
from workers.attempt.attempt import CHECK_SECONDS, TrainerAttempt
from workers.attempt.gang_address import NoFreePort, free_address, host_of, reachable, why_no_gang
from workers.attempt.outcome import RETRY_SECONDS, AttemptFailed, TrainerStopped
from workers.installed import release, versions
from workers.trainer.channel import Message
from workers.trainer.interface import GangPlace

log = logging.getLogger(__name__)

AVOID_SECONDS = 120.0  # for which a worker is not asked whose address has not answered; others have time to join
OFFER_AGAIN_SECONDS = 5.0  # between two checks for parts that helpers gave back
ASK_SECONDS = 0.3  # between two checks for new helpers, or for the gang's start
PATIENCE_SECONDS = 6.0  # for idle workers to claim queued runs; after that, these runs count as waiting for our workers
_FIXES = {
    FailureCause.gang_address: "Close the cluster's ports to the outside; FITSERVE_CLUSTER_PUBLIC",
    FailureCause.gang_broken: "Open FITSERVE_CLUSTER_PORTS between the workers, in both directions",
}
_SET_HOST = "Set FITSERVE_CLUSTER_HOST there to an address of that machine; open FITSERVE_CLUSTER_PORTS to the workers."
_NO_PORT = "Give FITSERVE_CLUSTER_PORTS a wider range, or close what listens in it"
BREAKS = 3  # losses in a row without a finished epoch; the leader then trains alone
T = TypeVar("T")


def workers_of(run: Run) -> Workers | None:
    """Return how many workers train the run together, and how it waits for them; None for one worker."""
    written = (run.resolved.get("training") or {}).get("workers")
    return None if written is None else Workers.model_validate(written)


class GangLost(Exception):
    """A helper was lost or is leaving: the remaining workers resume from the last checkpoint."""


class OtherRunsWait(Exception):
    """Too few helpers have joined while another run is queued that this worker could train."""


@dataclass
class _GangAttempt(TrainerAttempt):
    """The part of an attempt that leaders and helpers share."""

    def _until_available(self, work: Callable[[], T]) -> T:
        """Do database work, retrying while the database is unreachable, at most until the lease expires."""
        while True:
            try:
                return work()
            except (Unavailable, StorageFull):
                self._housekeep()
                time.sleep(RETRY_SECONDS)

    def _pause(self) -> None:
        """Wait a moment for other workers. Raises TrainerStopped: a waiting trainer has nothing to save."""
        self._progress_at = time.monotonic()
        self._housekeep()
        if self._cancel_requested or self.stopping.wait(ASK_SECONDS):
            raise TrainerStopped

    def _report_event(self, level: Literal["info", "warn"], message: str, data: dict[str, Any] | None = None) -> None:
        self._seq += 1
        self._pending.append(EventReport(self._seq, level, message, data or {}))


@dataclass
class LeaderAttempt(_GangAttempt):
    """The leader's attempt at a run that several workers train together."""

    _helpers: Sequence[Helper] = ()  # while the gang trains
    _intact_at: float = 0.0
    _breaks: int = 0  # since the last epoch
    _reachable: dict[str, bool] = field(default_factory=dict)  # helpers' addresses
    _avoided: dict[str, float] = field(default_factory=dict)  # until when, by host
    _own_silent: str = ""  # this worker's address, if it did not answer either

    def __post_init__(self) -> None:
        super().__post_init__()
        workers = workers_of(self.claim.run)
        assert workers is not None
        self._at_least, self._wait_seconds = workers.at_least, workers.wait
        self._count = int(workers.count)

    def _train(self) -> RunState | None:
        while True:
            try:
                address = self._own_address()
                if address is None:
                    return super()._train()
                return self._train_with(self._gather(address), address)
            except GangLost as lost:
                self._regroup(str(lost))
            except OtherRunsWait:
                return self._yield_to_other_runs(f"Fewer than {self._at_least} workers are there; other runs go first")
            except NoFreePort as error:
                return self._yield_to_other_runs(f"{error}: another worker may have a free one")

    def _own_address(self) -> str | None:
        """Return the address at which helpers reach this worker; None if it must train alone.

        If the run requires helpers, raise AttemptFailed instead, or NoFreePort after waiting for a port.
        """
        cause, why = FailureCause.gang_address, why_no_gang(self.settings)
        if why is None and self._own_silent:
            why = f"nothing answers at this worker's own address, {self._own_silent}"
        if why is None and self._breaks >= BREAKS:
            cause, why = FailureCause.gang_broken, f"{self._breaks} times a worker was lost before an epoch ended"
        if why is None:
            try:
                return free_address(self.settings)
            except NoFreePort as error:
                if self._at_least > 1:
                    return self._wait_for_port(str(error))
                why = str(error)
        if self._at_least > 1:
            needs = f"The run needs {self._at_least} workers, and {why}"
            raise AttemptFailed(cause, needs, {"fix": _SET_HOST if self._own_silent else _FIXES[cause]}, final=True)
        self._report_event("warn", f"One worker trains the network alone: {why}.")
        return None

    def _wait_for_port(self, why: str) -> str:
        """Wait for a free port, which spends no attempt, and return this worker's address. Raises NoFreePort."""
        self._report_event("warn", f"Waiting for a free port: {why}.", {"fix": _NO_PORT})
        deadline = time.monotonic() + max(self._wait_seconds, PATIENCE_SECONDS)
        while True:
            self._pause()
            try:
                return free_address(self.settings)
            except NoFreePort:
                if time.monotonic() >= deadline:
                    raise

    # --- before -----------------------------------------------------------------------------------------

    def _gather(self, address: str) -> list[Helper]:
        """Offer parts, wait for helpers, and return those to start with. Raises OtherRunsWait, TrainerStopped."""
        offered = self._until_available(lambda: gangs.offer(self.engine, self.lease, self._count - 1, release()))
        self._publish(offered)
        offered_at = time.monotonic()
        deadline, others_since, announced = offered_at + self._wait_seconds, float("inf"), False
        explained = False
        self.trainer = self.slot.trainer(self._housekeep, in_gang=True)
        while True:
            self._pause()
            helpers, useless, others = self._until_available(partial(self._check_helpers, offered, address))
            now, enough = time.monotonic(), 1 + len(helpers) >= self._at_least
            if 1 + len(helpers) >= self._count:
                return helpers
            explained = explained or (now >= deadline and self._explain_absence(offered))
            others_since = min(others_since, now) if others else float("inf")
            if others_since + PATIENCE_SECONDS <= now and not enough:
                raise OtherRunsWait
            if enough and now >= min(deadline, others_since + PATIENCE_SECONDS):
                return helpers
            if not announced:
                announced = True
                missing = self._count - 1 - len(helpers)
                self._report_event("info", f"Waiting for {missing} more worker{'s' if missing > 1 else ''}.")
            if now - offered_at >= OFFER_AGAIN_SECONDS:
                offered_at, offered = now, self._offer_again(offered, useless)

    def _explain_absence(self, offered: Sequence[str]) -> bool:
        """Report why idle workers may not have joined, if there are any while parts wait for them."""
        with db.reading(self.engine) as session:
            hosts = worker_registry.idle_hosts(session) if gangs.any_unclaimed(session, offered) else []
        if hosts:
            same = ", ".join(f"{name} {number}" for name, number in versions().items())
            message = f"Idle workers have not joined, on {', '.join(hosts[:5])}: only those with the versions here can."
            self._report_event("warn", message, {"fix": f"Install there: {same}.", "hosts": hosts})
        return bool(hosts)

    def _check_helpers(self, offered: Sequence[str], address: str) -> tuple[list[Helper], int, bool]:
        """Return the helpers that can be reached, the number that cannot, and whether other runs are waiting."""
        with db.reading(self.engine) as session:
            helpers = gangs.find_joined(session, offered)
        there = [one for one in helpers if self._is_reachable(address, one)]
        others = gangs.others_wait(self.engine, self.lease.run_id, self.settings.limits.running_runs)
        return there, len(helpers) - len(there), others

    def _is_reachable(self, address: str, helper: Helper) -> bool:
        if self._avoided.get(host_of(helper.address), 0.0) > time.monotonic():
            return False
        if helper.address not in self._reachable:
            own = platform.node()
            found = self._renewing_lease(lambda: reachable(address, own, helper.address, helper.hostname))
            self._reachable[helper.address] = found
            if not found:
                message = f"{helper.hostname} cannot join: its address, {helper.address}, cannot be reached from here."
                self._report_event(
                    "warn", message, {"fix": "Set FITSERVE_CLUSTER_HOST there to a name or address known here."}
                )
        return self._reachable[helper.address]

    def _offer_again(self, offered: Sequence[str], useless: int) -> list[str]:
        """Offer new parts in place of those that were given back, or whose workers cannot be reached."""
        count = self._count - 1 + useless
        left = self._until_available(lambda: gangs.offer_again(self.engine, self.lease, offered, count, release()))
        self._publish([run_id for run_id in left if run_id not in offered])
        return left

    def _publish(self, parts: Sequence[str]) -> None:
        for run_id in parts:
            self.division.publish(run_id)

    def _yield_to_other_runs(self, why: str) -> RunState | None:
        """Queue the run again, after all others, without spending an attempt."""
        self.slot.drop()

        def end() -> RunState:
            gangs.yield_to_other_runs(self.engine, self.lease, platform.node())
            return finish.release(self.engine, self.lease, tuple(self._pending), why)

        return self._commit_end(end)

    # --- training ---------------------------------------------------------------------------------------

    def _train_with(self, helpers: list[Helper], address: str) -> RunState | None:
        """Train with these helpers, or alone without any. Raises GangLost."""
        addresses = self._until_available(lambda: gangs.begin(self.engine, self.lease, helpers, address))
        count = len(addresses)
        alone = "No other worker has joined: this one trains the network alone."
        self._report_event(
            "info", f"{count} workers train the network together." if helpers else alone, {"workers": count}
        )
        self.claim.run.checkpoint = self._checkpoint_blob  # newer than the claim's if this attempt has regrouped
        request = self._renewing_lease(self._request, FailureCause.bad_data)
        trainer = self.trainer
        assert trainer is not None
        self._helpers = helpers
        ended = self._train_to_end(trainer, replace(request, gang=GangPlace(addresses, 0) if helpers else None))
        self._helpers = ()
        if ended["type"] == "failed" and ended["cause"] == FailureCause.gang_broken:
            self._avoid(ended["data"].get("silent", []), address, helpers)
            raise GangLost(ended["message"])
        if ended["type"] == "stopped" and self._stop_sent_at is None:
            raise GangLost("it shuts down")
        return self._finish(trainer, ended)

    def _avoid(self, silent: Sequence[str], address: str, helpers: Sequence[Helper]) -> None:
        """Ask other workers for a while than those at whose addresses nothing answered, though they hold their parts.

        At this worker's own address, too, something must answer: otherwise no gang that it leads can meet.
        """
        self._own_silent = address if address in silent else ""
        for helper in helpers:
            if helper.address in silent and not self._own_silent:
                self._avoided[host_of(helper.address)] = time.monotonic() + AVOID_SECONDS
                message = f"{helper.hostname} cannot join: nothing answers at its address, {helper.address}."
                self._report_event("warn", message, {"fix": _SET_HOST})

    def _handle(self, message: Message) -> None:
        if message["type"] == "epoch":
            self._breaks = 0
        super()._handle(message)

    def _housekeep(self) -> None:
        """Do every attempt's housekeeping, and check the helpers' leases. Also raises GangLost."""
        super()._housekeep()
        now = time.monotonic()
        if self._helpers and now - self._intact_at >= CHECK_SECONDS:
            self._intact_at = now
            with contextlib.suppress(Unavailable):  # their leases cannot be read then; our own limits the wait
                if not gangs.hold_their_parts(self.engine, self._helpers):
                    raise GangLost("it no longer holds its part")

    def _regroup(self, why: str) -> None:
        """Kill our trainer, which fails the step in all others, so that the gang resumes from the last checkpoint."""
        log.warning("a gang is broken", extra={"run": self.lease.run_id, "why": why})
        self.slot.drop()
        self.trainer, self._helpers = None, ()
        self._breaks += 1
        self._report_event("warn", f"A worker of the gang was lost; training resumes from the last checkpoint ({why}).")


@dataclass
class HelperAttempt(_GangAttempt):
    """An attempt at a helper's part of a run. It is never retried: the leader offers a new part instead."""

    def _train(self) -> RunState | None:
        self.trainer = self.slot.trainer(self._housekeep, in_gang=True)
        try:
            rank, addresses = self._join()
        except (GangOver, NoFreePort) as error:
            log.info("a helper's part is over before it began", extra={"run": self.lease.run_id, "why": str(error)})
            raise TrainerStopped from error
        request = replace(self._renewing_lease(self._request), gang=GangPlace(addresses, rank), checkpoint=None)
        ended = self._train_to_end(self.trainer, request)
        return self._finish(self.trainer, ended)

    def _join(self) -> tuple[int, list[str]]:
        """Announce this worker; return its rank and all addresses once the gang begins. Raises GangOver, NoFreePort."""
        address, spec = free_address(self.settings), self.claim.run.spec
        self._until_available(lambda: gangs.join(self.engine, self.lease, platform.node(), address))
        while True:
            ranked = self._until_available(lambda: gangs.find_rank(self.engine, self.lease, spec))
            if ranked is not None:
                return ranked
            self._pause()

    def _cancel_or_release(self) -> RunState | None:
        return self._commit_end(partial(finish.confirm_cancel, self.engine, self.lease, tuple(self._pending)))

    def _fail_or_requeue(self, failure: AttemptFailed) -> RunState | None:
        log.info("a helper's part has failed", extra={"run": self.lease.run_id, "why": str(failure)})
        return self._cancel_or_release()
