"""Run states and the transitions between them: pure data.

A test keeps `mermaid()` and the diagram in ARCHITECTURE.md equal. T3 (renew the lease) and T10 (publish again) change
no state and are not listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal


class RunKind(StrEnum):
    """What a run does."""

    training = "training"  # a training by its spec
    reproduction = "reproduction"  # repeats another run's training, to compare the two
    prediction = "prediction"  # a batch prediction for a whole dataset
    import_ = "import"  # import of a table from its source
    export = "export"  # a version in another format
    trial = "trial"  # one trial of another run, by an idle worker
    part = "part"  # a part of another run's batch prediction or import
    helper = "helper"  # one worker's share in training another run's network
    cleanup = "cleanup"  # removes external data of another run, which has ended


WHOLE_TRAININGS: Final = (RunKind.training, RunKind.reproduction)  # trained from beginning to end by one trainer
DEPENDENT_KINDS: Final = (RunKind.trial, RunKind.part, RunKind.helper)  # these end when their run does
INTERNAL_KINDS: Final = (*DEPENDENT_KINDS, RunKind.cleanup)  # kinds that nobody submits


class RunState(StrEnum):
    """State of a run."""

    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


class FailureCause(StrEnum):
    """Why a run failed: `error.cause` of the run, and the label of the telemetry series of failures."""

    # Permanent: another attempt would end in the same way.
    bad_data = "bad_data"  # its table cannot be trained on, or not be predicted
    diverged = "diverged"  # the loss is not a finite number
    search = "search"  # no trial of a search succeeded
    parity = "parity"  # the serving graph's results differ from Keras
    export = "export"  # the conversion to another format
    registration = "registration"  # its model's name was taken meanwhile
    out_of_memory = "out_of_memory"
    gang_address = "gang_address"  # other workers cannot reach this one
    gang_broken = "gang_broken"  # the connections between workers keep breaking
    destination_refused = "destination_refused"  # a batch prediction's destination does not take it
    source_refused = "source_refused"  # an import's source cannot be read
    # Transient: another attempt may succeed, so a run fails with these only when its attempts are used up.
    worker_lost = "worker_lost"  # its lease expired
    killed = "killed"  # a signal killed the trainer
    no_progress = "no_progress"  # the trainer reported nothing for too long
    trainer_start = "trainer_start"  # no trainer process would start
    incomplete_history = "incomplete_history"  # epochs are missing, so it starts over
    disk_full = "disk_full"
    destination_away = "destination_away"  # a batch prediction's destination does not answer
    source_away = "source_away"  # an import's source does not answer, or changes while it is read
    internal_error = "internal_error"  # a bug of ours; permanent if the trainer reports it


# The phases of a run that has not ended. `taken_back`: queued again after a lost attempt.
Phase = Literal["queued", "taken_back", "preparing", "training", "exporting", "evaluating"]
TERMINAL = frozenset({RunState.succeeded, RunState.failed, RunState.cancelled})


@dataclass(frozen=True, slots=True)
class Transition:
    """One transition: `source` is None where the run is created."""

    id: str
    source: RunState | None
    target: RunState
    who: str
    when: str


TRANSITIONS: tuple[Transition, ...] = (
    Transition("T1", None, RunState.queued, "API, or supervisor for a part", "created"),
    Transition("T2", RunState.queued, RunState.running, "supervisor", "claimed: attempt + 1, new lease"),
    Transition("T4", RunState.running, RunState.succeeded, "supervisor", "artifact durable, not cancelled"),
    Transition("T5", RunState.running, RunState.failed, "supervisor", "deterministic error"),
    Transition("T6", RunState.running, RunState.queued, "supervisor or reaper", "lease expired, or released"),
    Transition("T7", RunState.running, RunState.failed, "supervisor or reaper", "attempts used up: worker_lost"),
    Transition("T8", RunState.queued, RunState.cancelled, "API, or supervisor for a part", "cancelled while queued"),
    Transition("T9", RunState.running, RunState.cancelled, "supervisor or reaper", "cancel requested"),
)


def mermaid() -> str:
    """Return the state diagram in Mermaid's notation."""
    lines = ["stateDiagram-v2"]
    lines += [f"    {t.source or '[*]'} --> {t.target}: {t.id} {t.when} ({t.who})" for t in TRANSITIONS]
    lines += [f"    {state} --> [*]" for state in RunState if state in TERMINAL]
    return "\n".join(lines)


STACKED_TRIALS = "stacked_trials"  # in the data of the event that says which of a search's trials train as one network
