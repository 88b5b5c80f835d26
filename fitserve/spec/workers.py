"""Workers that train one network together: their number, what they cannot divide, and how many are worthwhile.

docs/scaling.md has the model of a step's time and its measurements: computation is divided by the number of workers,
but each worker applies the whole update and, in a ring, sends and receives almost twice the gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from fitserve.data_model import DataModel
from fitserve.errors import Problem
from fitserve.spec.argument_types import NonNegative, Positive
from fitserve.spec.losses import Dice, Loss, Tversky

MAX_WORKERS = 64
_ASSUMED_BANDWIDTH = 125e6  # bytes a second in each direction: 1 Gbit/s
_MESSAGE_SECONDS = 0.0005  # latency of one ring message, however small
_BYTE_SECONDS = 1.8e-9  # processor time to send and receive one byte
_UPDATE_SECONDS = 6e-9  # Adam's update of one weight; at most half of a step
_OPTIONS = (2, 4, 8)  # numbers of workers from which `auto` chooses
# least share of the ideal speed-up (without any communication) for a number of workers to be worthwhile
_WORTHWHILE = 0.6


class Workers(DataModel):
    """How many workers train the network together; a number is `count`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: Annotated[int, Field(ge=1, le=MAX_WORKERS)] | Literal["auto"] = Field(
        description="Workers, each with a share of every batch; auto: as many as pay, by the size of network and batch"
    )
    at_least: Positive = Field(1, description="Fewer do not begin")
    wait: Annotated[NonNegative, Field(le=86_400)] = Field(
        60.0, description="Seconds to wait for all of them; then those that are there begin"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.count != "auto" and self.at_least > self.count:
            raise ValueError(f"at_least is {self.at_least}, but count is {self.count}")
        return self


def _shorthand(value: Any) -> Any:
    if value == 1 and not isinstance(value, bool):
        return None
    return {"count": value} if isinstance(value, (int, str)) and not isinstance(value, bool) else value


AnyWorkers = Annotated[Workers | None, BeforeValidator(_shorthand)]


def step_seconds(alone: float, parameters: int, workers: int, bandwidth: float = _ASSUMED_BANDWIDTH) -> float:
    """Estimate a step's seconds on `workers` workers from its seconds on one, the weights and the network."""
    if workers == 1:
        return alone
    update = min(alone / 2, parameters * _UPDATE_SECONDS)
    exchanged = 2 * (workers - 1) / workers * 4 * parameters * (1 / bandwidth + _BYTE_SECONDS)
    return (alone - update) / workers + update + exchanged + 2 * (workers - 1) * _MESSAGE_SECONDS


def worthwhile(alone: float, parameters: int, batch_size: int) -> int:
    """Return how many workers are worthwhile on a 1 Gbit/s network; 1 if further workers are not."""
    best, fastest = 1, alone
    for count in _OPTIONS:
        seconds = step_seconds(alone, parameters, count)
        if count <= batch_size and seconds < fastest and alone / seconds >= _WORTHWHILE * count:
            best, fastest = count, seconds
    return best


def whole_batch_losses(training: Any) -> list[str]:
    """Return the names of the losses that are no means over rows, so that shares of a batch do not add up to them."""
    losses = training.loss.values() if isinstance(training.loss, dict) else (training.loss,)
    return [type(loss).__name__ for loss in losses if isinstance(loss, Loss) and isinstance(loss, (Dice, Tversky))]


def undividable(training: Any, networks: str | None) -> Iterator[Problem]:
    """Yield why training cannot be divided among workers. `networks`: pointer to the key that asks for several."""
    workers = training.workers
    if workers is None or workers.count == 1:
        return
    at = "/training/workers"
    if networks is not None or training.restarts > 1:
        detail = "Several workers train one network together; those of restarts, ensembles, folds and searches are"
        detail += " spread over the workers one by one anyway."
        fix = "Leave workers out, or ask for one network" + (": ensemble: false" if networks == "/ensemble" else ".")
        yield Problem(detail, at, received=workers.count, fix=fix)
    if training.switches:
        detail = "Several workers train with one optimizer from the first epoch to the last."
        yield Problem(detail, "/training/switches", fix="Leave switches out, or workers.")
    if training.jit_compile is True:
        yield Problem("XLA compiles no exchange between workers.", "/training/jit_compile", fix="jit_compile: auto")
    for name in whole_batch_losses(training):
        detail = f"{name} is of a whole batch, not a mean over its rows: it cannot be divided."
        yield Problem(detail, at, received=workers.count, fix="Leave workers out, or use BinaryCrossentropy.")
    size = training.batch_size
    if size != "full" and workers.count != "auto" and size < workers.count:
        detail = f"A batch of {size} rows has no row for each of {workers.count} workers."
        yield Problem(detail, at, received=workers.count, expected=f"at most {size}", fix="A larger batch_size")
