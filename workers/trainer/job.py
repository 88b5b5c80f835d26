"""The seam between the trainer, which knows networks, and the supervisor, which knows runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Stop = Literal["", "cancel", "hand_back"]


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What a trainer is asked to do. JSON throughout: it crosses a pipe."""

    run_id: str
    attempt: int
    spec: dict[str, Any]  # resolved
    facts: dict[str, Any]  # fitserve.dataset_facts.DatasetFacts of the dataset
    table: Path  # the dataset's Parquet file, local and verified
    folder: Path  # this attempt's own scratch folder; emptied afterwards
    checkpoint: Path | None = None  # the last checkpoint of an earlier attempt, local and verified
    threads: int = 0  # 0 is one for each core
    checkpoint_seconds: float = 30.0
    trial: int | None = None  # train this trial alone, from 0: another worker has the run


@dataclass(frozen=True, slots=True)
class Turn:
    """What to do next in a run of several trials, of which other workers may train some."""

    trial: int | None = None  # is to be trained here, now; None: others are at it, ask again
    checkpoint: Path | None = None  # of that trial, by a worker that had begun it
    done: dict[int, Path] = field(default_factory=dict)  # have been trained elsewhere: files of `apart`


class Reporter(Protocol):
    """What a trainer may say while it works. Every call returns at once, but for `turn`."""

    def event(self, level: Literal["info", "warn", "error"], message: str, data: dict[str, Any] | None = None) -> None:
        """Something a person wants to read."""

    def epoch(
        self, trial: int, epoch: int, logs: dict[str, float], seconds: float, layers: dict[str, Any] | None = None
    ) -> None:
        """An epoch ended: `trial` from 0, `epoch` from 1, Keras's `logs`, its duration."""

    def progress(self) -> None:
        """The trainer lives and works, though no epoch has ended."""

    def checkpoint(self, path: Path, epoch: int) -> None:
        """A whole, fsynced checkpoint file that the supervisor may take."""

    def turn(self, todo: Sequence[int]) -> Turn:
        """Which of these trials, from 0 and in order, is next. Waits for the supervisor's answer."""
        ...

    def stop(self) -> Stop:
        """Whether to stop, and why: asked between compiled calls. On `hand_back`, checkpoint first."""
        ...


@dataclass(frozen=True, slots=True)
class KeptEpoch:
    """The network after an epoch that was to be kept. `manifest` has what differs from the result's."""

    files: dict[str, Path]
    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A trained network on local disk. The supervisor makes it durable and commits it."""

    files: dict[str, Path]  # by blob kind: "keras", "onnx", and whatever else the manifest names
    manifest: dict[str, Any]  # complete but for the files' SHA-256 and sizes, and the run's id
    result: dict[str, Any] = field(default_factory=dict)  # final metrics, trials, evaluation: what Run.result shows
    kept: dict[int, KeptEpoch] = field(default_factory=dict)  # by epoch, from 1


class TrainingStopped(Exception):
    """Raised by `train` after it obeyed `Reporter.stop`."""

    def __init__(self, why: Stop) -> None:
        super().__init__(why)
        self.why = why


class TrainingFailed(Exception):
    """A deterministic failure: training again would end the same way, so the run fails without a retry.

    `cause` is one of `bad_data`, `diverged`, `out_of_memory`, `parity`, `internal_error`.
    """

    def __init__(self, cause: str, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.cause = cause
        self.data = data or {}
