"""Asking again: with backoff, as long as it does no harm, as the server says."""

from __future__ import annotations

import random
from dataclasses import dataclass

from fitserve.client.effects import Answer, Call, Open, Operation, Send, Sleep
from fitserve.client.errors import Unreachable, error_of
from fitserve.errors import FitserveError

_REFUSED_BEFORE_ACTING = frozenset({429, 503})
_MAYBE_ACTED = frozenset({408, 502, 504})


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long to ask again. Times are in seconds."""

    retries: int = 4
    first_pause: float = 0.25
    longest_pause: float = 8.0
    longest_retry_after: float = 60.0  # a server that asks for more gets its error raised at once

    def pause(self, attempt: int, asked_for: float | None = None) -> float:
        """Before the retry number `attempt` (from 0): exponential, half of it random; at least what was asked for."""
        backoff = min(self.longest_pause, self.first_pause * 2.0**attempt)
        return max(asked_for or 0.0, backoff * random.uniform(0.5, 1.0))


def persist(call: Call, patience: Patience, *, stream: bool = False) -> Operation[Answer]:
    """Sends until an answer below 400 comes. Raises what `error_of` makes of any other, or Unreachable."""
    attempt = 0
    while True:
        try:
            answer: Answer = yield (Open(call) if stream else Send(call))
            if answer.status < 400:
                return answer
            raise error_of(answer)
        except FitserveError as error:
            if attempt >= patience.retries or not worth_repeating(error, call, patience):
                raise
            pause = patience.pause(attempt, error.retry_after)
        yield Sleep(pause)
        attempt += 1


def worth_repeating(error: FitserveError, call: Call, patience: Patience) -> bool:
    """Whether the same request may succeed later, and sending it again does no harm."""
    if error.retry_after is not None and error.retry_after > patience.longest_retry_after:
        return False
    if isinstance(error, Unreachable):
        return call.repeatable or not error.sent
    return error.status in _REFUSED_BEFORE_ACTING or (error.status in _MAYBE_ACTED and call.repeatable)
