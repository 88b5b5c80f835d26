"""The interface between the trainer, which knows networks, and the supervisor, which knows runs.

Everything here except paths is JSON, because it crosses a socket. `workers.trainer.channel` encodes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from fitserve.states import FailureCause

StopReason = Literal["", "cancel", "release"]
OUT_OF_FOLD = "out_of_fold"  # the kind of a file that becomes a dataset and is not part of the artifact


@dataclass(frozen=True, slots=True)
class GangPlace:
    """A process's place among those that train one network together: `addresses` of all, by number; 0 leads."""

    addresses: list[str]
    rank: int


@dataclass(frozen=True, slots=True)
class Room:
    """Memory and disk, in bytes, that a process has for rows. A gang must agree on what is streamed, and how."""

    memory: int  # bytes of encoded rows
    disk: int


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """A request to a trainer: what to train, from which files."""

    run_id: str
    attempt: int
    spec: dict[str, Any]  # resolved
    facts: dict[str, Any]  # fitserve.dataset_facts.DatasetFacts of the dataset
    table: Path  # the dataset's Parquet file, local and verified
    folder: Path  # this attempt's own scratch folder; removed afterwards
    checkpoint: Path | None = None  # the last checkpoint of an earlier attempt, local and verified
    threads: int = 0  # 0 is one for each core
    checkpoint_seconds: float = 30.0
    trials: list[dict[str, Any]] = field(default_factory=list)  # a search's rows of trials that started before
    pace: float = 1.0  # at which a search's run was resolved
    limits: dict[str, Any] = field(default_factory=dict)  # fitserve.settings.Limits, for a search's trials
    trial: int | None = None  # from 0: train this trial alone, for a run that another worker holds
    source: Path | None = None  # the manifest of the artifact that the network begins with, local and verified,
    weights: Path | None = None  # and its file of weights
    gang: GangPlace | None = None  # train it together with other processes
    room: Room | None = None  # the smallest room among these processes; None: this machine's own


@dataclass(frozen=True, slots=True)
class TrialAssignment:
    """The next step in a run of several trials, some of which other workers may train."""

    trial: int | None = None  # to train now; None: other workers train all that remain, ask again
    checkpoint: Path | None = None  # that trial's checkpoint, from a worker that had started it
    finished: dict[int, Path] = field(default_factory=dict)  # trial files of other workers, by trial


class Reporter(Protocol):
    """Interface for a trainer's reports during training. Every call except `next_trial` returns at once."""

    def event(self, level: Literal["info", "warn", "error"], message: str, data: dict[str, Any] | None = None) -> None:
        """Report something for people to read."""

    def epoch(
        self, trial: int, epoch: int, logs: dict[str, float], seconds: float, layers: dict[str, Any] | None = None
    ) -> None:
        """Report the end of an epoch: `trial` from 0, `epoch` from 1, Keras's `logs`, its duration."""

    def search_trial(self, row: dict[str, Any]) -> None:
        """Report that a trial of a search begins, or how it ended: `fitserve.runs.history.TrialReport`."""

    def progress(self) -> None:
        """Report that the trainer is making progress although no epoch has ended."""

    def checkpoint(self, path: Path, epoch: int) -> None:
        """Hand over a complete, fsynced checkpoint file."""

    def next_trial(self, remaining: Sequence[int]) -> TrialAssignment:
        """Ask which of these trials, from 0 and in order, is next, and wait for the supervisor's answer."""
        ...

    def stop(self) -> StopReason:
        """Return whether to stop, and why. Asked between compiled calls; on `release`, checkpoint first."""
        ...


@dataclass(frozen=True, slots=True)
class KeptEpoch:
    """The network after one of the epochs to keep. `manifest` holds the entries that differ from the result's."""

    files: dict[str, Path]
    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A trained network on local disk. The supervisor makes it durable and commits it."""

    files: dict[str, Path]  # by blob kind: "keras", "onnx", and whatever else the manifest names
    manifest: dict[str, Any]  # complete except for the files' SHA-256 and sizes, and the run's id
    result: dict[str, Any] = field(default_factory=dict)  # final metrics, trials, evaluation: shown as Run.result
    kept_epochs: dict[int, KeptEpoch] = field(default_factory=dict)  # by epoch, from 1


class TrainingStopped(Exception):
    """Raised by `train` once it has obeyed `Reporter.stop`."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


class GangBroken(Exception):
    """A process of the gang was lost; training resumes from the last checkpoint.

    `silent`: addresses at which nothing answered, if the processes never met.
    """

    def __init__(self, message: str, silent: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.silent = list(silent)


class TrainingFailed(Exception):
    """A deterministic failure: training again would end the same way, so the run fails without a retry."""

    def __init__(self, cause: FailureCause, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.cause = cause
        self.data = data or {}
