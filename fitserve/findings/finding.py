"""What a rule is, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from fitserve.findings.record import Record

Severity = Literal["critical", "warning", "info"]
Operation = dict[str, Any]  # of a JSON Patch: {"op", "path", "value"}


@dataclass(frozen=True, slots=True)
class Found:
    """A rule's answer. `epochs` are the evidence's, `values` what was measured there."""

    sentence: str
    epochs: tuple[int, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    patch: tuple[Operation, ...] = ()
    trial: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One documented rule. `hides` names findings that are mere symptoms of this one."""

    name: str
    title: str
    severity: Severity
    threshold: str
    source: str
    answer: str  # what the patch does, in words
    look: Callable[[Record], Found | None]
    hides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One diagnosis. `patch` is for the run's resolved spec; applied, it is a spec to train again."""

    rule: str
    severity: Severity
    title: str
    sentence: str
    threshold: str
    source: str
    answer: str
    trial: int
    epochs: tuple[int, ...]
    values: dict[str, Any]
    patch: tuple[Operation, ...]
