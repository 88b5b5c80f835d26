"""Run states and the transitions between them: pure data.

A test keeps `mermaid()` and the diagram in ARCHITECTURE.md equal. T3 (a heartbeat) and T10 (publish again) change no
state and are not listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal


class RunKind(StrEnum):
    """What a run does."""

    training = "training"  # what its spec says
    reproduction = "reproduction"  # another run's training again, to be compared with it
    prediction = "prediction"  # a whole dataset
    export = "export"  # a version in another format
    trial = "trial"  # one trial of another run, by an idle worker
    part = "part"  # a part of another run's batch prediction
    helper = "helper"  # one worker's share in training another run's network
    cleanup = "cleanup"  # removal of what another run, which is over, has written outside


WHOLE_TRAININGS: Final = (RunKind.training, RunKind.reproduction)  # trained from beginning to end by one trainer
DEPENDENT_KINDS: Final = (RunKind.trial, RunKind.part, RunKind.helper)  # these end when their run does
INTERNAL_KINDS: Final = (*DEPENDENT_KINDS, RunKind.cleanup)  # nobody submitted them


class RunState(StrEnum):
    """State of a run."""

    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


# What is being done about a run that has not ended. `taken_back`: queued again, after an attempt was lost.
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
