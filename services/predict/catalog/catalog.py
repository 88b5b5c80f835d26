"""What is served: networks in memory, the places they stand in, and the names that point at them.

    Catalog ── name ──> Entry ── default, labels, versions ──> Pointer ── current ──> Slot ── network ──> Network

A `Slot` is one artifact of one version, in memory or not. A `Pointer` is a name that requests use; it moves
only when what it shall name is loaded, so a request always finds something that answers. All of this is
touched by the event loop's thread alone; a request keeps the Network it started with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from fitserve.registry import CHAMPION, LabelFacts, ModelFacts
from services.predict.catalog.loaded_model import Network


class State(StrEnum):
    """A version's state, in TensorFlow Serving's words."""

    start = "START"  # known, and loaded when it is asked for
    loading = "LOADING"
    available = "AVAILABLE"
    unloading = "UNLOADING"
    end = "END"  # could not be loaded


@dataclass(eq=False)
class Slot:
    """One artifact as one version of a model."""

    model: str
    version: int
    artifact: str
    state: State = State.start
    error: str = ""
    error_code: str = "OK"
    retry_at: float = 0.0  # monotonic seconds: a failed load is tried again after this
    network: Network | None = None
    waiters: list[Any] = field(default_factory=list)  # futures of requests that need it loaded

    @property
    def failed(self) -> bool:
        return self.state == State.end


@dataclass(eq=False)
class Pointer:
    """A name for a slot. `wanted` is where the registry points, `current` is what answers."""

    wanted: tuple[Slot, ...]  # in order of preference
    label: str | None = None
    current: Slot | None = None

    def settle(self, before: Pointer | None) -> None:
        """Chooses what answers: the wanted where loaded, else what answered before, else the best that may load."""
        first = self.wanted[0]
        if first.network is not None:
            self.current = first
            return
        held = before.current if before else self.current
        if held is not None and held.network is not None:
            self.current = held
            return
        loaded = next((slot for slot in self.wanted if slot.network is not None), None)
        promising = next((slot for slot in self.wanted if not slot.failed), first)
        self.current = loaded if first.failed and loaded is not None else promising


@dataclass(eq=False)
class Entry:
    """One model at one generation of the registry."""

    facts: ModelFacts
    slots: dict[tuple[int, str], Slot]  # by version and artifact
    default: Pointer | None
    versions: dict[int, Pointer]
    labels: dict[str, Pointer]
    canaries: tuple[tuple[float, Pointer], ...]  # (share, pointer)
    shadows: tuple[Pointer, ...]

    def pointers(self) -> Iterator[Pointer]:
        """Every name of this model."""
        if self.default is not None:
            yield self.default
        yield from self.versions.values()
        yield from self.labels.values()

    @property
    def needed(self) -> list[Slot]:
        """The slots that are loaded without being asked for: the default's and the labels'."""
        pointers = [*self.labels.values()] if self.default is None else [self.default, *self.labels.values()]
        return list(dict.fromkeys(slot for pointer in pointers for slot in pointer.wanted[:1]))


def make_entry(facts: ModelFacts, before: Entry | None) -> Entry:
    """A model's slots and pointers after a change; what is loaded already stays loaded."""
    kept = before.slots if before else {}
    slots: dict[tuple[int, str], Slot] = {}

    def slot(version: int, artifact: str) -> Slot:
        key = (version, artifact)
        if key not in slots:
            slots[key] = kept.get(key) or Slot(facts.name, version, artifact)
        return slots[key]

    live = {row.version: slot(row.version, row.artifact) for row in reversed(facts.versions) if not row.retired}
    versions = {number: Pointer((one,)) for number, one in live.items()}
    labels = {p.label: Pointer((slot(p.version, p.artifact),), p.label) for p in facts.labels}
    entry = Entry(
        facts=facts,
        slots=slots,
        default=_default(live, labels),
        versions=versions,
        labels=labels,
        canaries=_canaries(facts.labels, labels),
        shadows=tuple(labels[p.label] for p in facts.labels if p.shadow),
    )
    settle(entry, before)
    return entry


def _default(live: dict[int, Slot], labels: dict[str, Pointer]) -> Pointer | None:
    newest_first = tuple(live.values())
    if CHAMPION in labels:
        champion = labels[CHAMPION].wanted[0]
        return Pointer((champion, *(slot for slot in newest_first if slot is not champion)))
    return Pointer(newest_first) if newest_first else None


def _canaries(facts: tuple[LabelFacts, ...], labels: dict[str, Pointer]) -> tuple[tuple[float, Pointer], ...]:
    return tuple((p.weight, labels[p.label]) for p in facts if p.weight > 0 and p.label != CHAMPION)


def settle(entry: Entry, before: Entry | None = None) -> None:
    """Lets every pointer choose anew."""
    if entry.default is not None:
        entry.default.settle(before.default if before else None)
    for number, pointer in entry.versions.items():
        pointer.settle(before.versions.get(number) if before else None)
    for label, pointer in entry.labels.items():
        pointer.settle(before.labels.get(label) if before else None)


class Catalog:
    """All models by name."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._random = np.random.default_rng()

    def draw(self, entry: Entry) -> Pointer | None:
        """Who answers a request without a version: a canary by its weight, else the default."""
        if entry.canaries:
            point = self._random.random()
            for share, pointer in entry.canaries:
                if point < share:
                    return pointer
                point -= share
        return entry.default

    def loaded(self) -> list[Slot]:
        """Every slot that is in memory, whether or not a name still points at it."""
        found: dict[int, Slot] = {}
        for entry in self.entries.values():
            for slot in entry.slots.values():
                if slot.network is not None:
                    found[id(slot)] = slot
            for pointer in entry.pointers():
                if pointer.current is not None and pointer.current.network is not None:
                    found[id(pointer.current)] = pointer.current
        return list(found.values())
