"""Rollouts: versions that become the champion step by step, and A/B comparisons."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fitserve.client.connection import Resource, pause
from fitserve.client.models import model_path
from fitserve.wire.rollouts import RolloutDetail, RolloutInfo

_POLL = 0.5  # seconds


class Rollouts(Resource):
    """`client.rollouts`."""

    def start(
        self,
        model: str,
        to: int,
        *,
        steps: Sequence[float] | None = None,
        hold: float | None = None,
        min_requests: int | None = None,
        min_truths: int | None = None,
        deadline: float | None = None,
        guards: Mapping[str, float | None] | None = None,
        shadow: bool | None = None,
    ) -> RolloutInfo:
        """Make a version the champion step by step; guards roll it back if it does worse.

        Args:
            steps: percentages of the traffic, growing; by default 1, 10, 50, 100.
            hold: minimum seconds of each step; by default an hour.
            min_requests: minimum requests that the new version answers in each step; by default 100.
            min_truths: minimum predictions of it with ground truth, in each step that `live_accuracy` watches; by
                default 0.
            deadline: maximum seconds that a step waits, after its hold, for requests or ground truth before the rollout
                ends; by default a week. `math.inf` waits indefinitely.
            guards: limits that differ from the defaults: `errors`, `p99_ratio`, `prediction_drift`, `disagreement`,
                `live_accuracy`. None turns a guard off.
            shadow: first send it a copy of the traffic.

        Raises BadInput, NotFound, Conflict (it is the champion, retired, or another rollout is active).
        """
        body: dict[str, Any] = {"to": to, "steps": None if steps is None else list(map(float, steps)), "hold": hold}
        body |= {
            "min_truths": min_truths,
            "deadline": deadline,
            "min_requests": min_requests,
            "shadow": shadow,
            "guards": None if guards is None else dict(guards),
        }
        return self._start(model, body)

    def compare(
        self, model: str, to: int, *, share: float = 50.0, guards: Mapping[str, float | None] | None = None
    ) -> RolloutInfo:
        """Start an A/B comparison with the champion: the version answers `share` percent until the comparison is ended.

        `get` returns the difference in the live metric. Raises BadInput, NotFound, Conflict.
        """
        body: dict[str, Any] = {"to": to, "kind": "ab", "steps": [float(share)]}
        body["guards"] = None if guards is None else dict(guards)
        return self._start(model, body)

    def _start(self, model: str, body: dict[str, Any]) -> RolloutInfo:
        options = {name: None if value == math.inf else value for name, value in body.items() if value is not None}
        answer = self._connection.send("POST", model_path(model, "rollouts"), json=options, repeatable=False)
        return RolloutInfo.model_validate(answer.json())

    def get(self, model: str, id: str) -> RolloutDetail:
        """Return a rollout with its guard curves, and the live metric of both versions. Raises NotFound."""
        return RolloutDetail.model_validate(self._connection.get(model_path(model, "rollouts", id)))

    def list(self, model: str, limit: int | None = None) -> Iterator[RolloutInfo]:
        """Yield a model's rollouts, newest first."""
        yield from self._connection.pages(model_path(model, "rollouts"), RolloutInfo.model_validate, limit=limit)

    def pause(self, model: str, id: str) -> RolloutInfo:
        """Pause a rollout at its step; its guards stay active. Raises Conflict once it has ended."""
        return self._change(model, id, "pause")

    def resume(self, model: str, id: str) -> RolloutInfo:
        """Resume a paused rollout. Raises Conflict once it has ended."""
        return self._change(model, id, "resume")

    def abort(self, model: str, id: str) -> RolloutInfo:
        """Abort a rollout: return all traffic to the champion. Raises Conflict once it has ended."""
        return self._change(model, id, "abort")

    def promote(self, model: str, id: str) -> RolloutInfo:
        """Make the rollout's version the champion at once. Raises Conflict once it has ended."""
        return self._change(model, id, "promote")

    def wait(self, model: str, id: str, timeout: float | None = None) -> RolloutDetail:
        """Wait for a rollout to end and return it. Raises TimeoutError."""
        until = None if timeout is None else time.monotonic() + timeout
        while (rollout := self.get(model, id)).finished_at is None:
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"The rollout {id} is {rollout.state} after {timeout:g} s.")
            pause(_POLL)
        return rollout

    def _change(self, model: str, id: str, action: str) -> RolloutInfo:
        answer = self._connection.send("POST", model_path(model, "rollouts", id, action), repeatable=False)
        return RolloutInfo.model_validate(answer.json())
