"""Served models in memory, and the names that requests use for them.

    Catalog ── name ──> CatalogEntry ── default, labels, versions ──> Pointer ── current ──> Servable ──> LoadedModel

A `Servable` is one artifact of one version, in memory or not. A `Pointer` moves only once its new target is loaded, so
a request always finds a loaded model to answer it. Only the event loop's thread touches any of this; a request keeps
the LoadedModel that it started with.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from fitserve.registry import CHAMPION, ModelFacts
from services.predict.catalog.loaded_model import LoadedModel


class State(StrEnum):
    """A version's state, in TensorFlow Serving's words."""

    start = "START"  # known; loaded when a request needs it
    loading = "LOADING"
    available = "AVAILABLE"
    end = "END"  # could not be loaded


@dataclass(frozen=True, slots=True)
class Selector:
    """A request's choice of a model: its name, and at most one of version and label."""

    model: str
    version: int | None = None
    label: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether the service may choose the version that answers."""
        return self.version is None and self.label is None


OPEN = Selector("")  # names nothing: no model, no version, no label


@dataclass(eq=False)
class Servable:
    """One artifact as one version of a model, in memory or not."""

    model: str
    version: int
    artifact: str
    run: str  # run that the artifact's manifest must name
    state: State = State.start
    error: str = ""
    error_code: str = "OK"
    retry_at: float = 0.0  # monotonic seconds: a failed load is retried after this
    loaded_model: LoadedModel | None = None
    waiters: list[asyncio.Future[None]] = field(default_factory=list)  # requests waiting for it to be loaded

    @property
    def failed(self) -> bool:
        return self.state == State.end


@dataclass(eq=False)
class Pointer:
    """A name for a servable. `targets` are those that the registry assigns, best first; `current` answers requests."""

    targets: tuple[Servable, ...]
    label: str | None = None
    current: Servable | None = None

    @property
    def target(self) -> Servable:
        return self.targets[0]

    def choose_current(self, before: Pointer | None) -> None:
        """Choose the first target if it is loaded, else the previous one, else the best that may still be loaded."""
        previous = before.current if before else self.current
        if self.target.loaded_model is not None:
            self.current = self.target
        elif previous is not None and previous.loaded_model is not None:
            self.current = previous
        else:
            loaded = next((one for one in self.targets if one.loaded_model is not None), None)
            loadable = next((one for one in self.targets if not one.failed), self.target)
            self.current = loaded if self.target.failed and loaded is not None else loadable


@dataclass(eq=False)
class CatalogEntry:
    """One model at one generation of the registry."""

    facts: ModelFacts
    servables: dict[tuple[int, str], Servable]  # by version and artifact
    default: Pointer | None  # the champion, else the newest version
    versions: dict[int, Pointer]
    labels: dict[str, Pointer]
    canaries: tuple[tuple[float, Pointer], ...]  # share of the requests without a version, pointer
    shadows: tuple[Pointer, ...]

    @classmethod
    def build(cls, facts: ModelFacts, before: CatalogEntry | None) -> CatalogEntry:
        """Build a model's entry after a change in the registry; loaded versions stay loaded."""
        known = before.servables if before else {}
        servables: dict[tuple[int, str], Servable] = {}
        runs = {version.version: version.run for version in facts.versions}

        def servable(version: int, artifact: str) -> Servable:
            key = (version, artifact)
            if key not in servables:
                servables[key] = known.get(key) or Servable(facts.name, version, artifact, runs[version])
            return servables[key]

        # The registry lists versions oldest first; the default prefers the newest.
        newest_first = {v.version: servable(v.version, v.artifact) for v in reversed(facts.versions) if not v.retired}
        labels = {p.label: Pointer((servable(p.version, p.artifact),), p.label) for p in facts.labels}
        candidates = list(newest_first.values())
        if CHAMPION in labels:
            champion = labels[CHAMPION].target
            candidates = [champion, *(one for one in candidates if one is not champion)]
        entry = cls(
            facts=facts,
            servables=servables,
            default=Pointer(tuple(candidates)) if candidates else None,
            versions={number: Pointer((one,)) for number, one in newest_first.items()},
            labels=labels,
            canaries=tuple((p.weight, labels[p.label]) for p in facts.labels if p.weight > 0 and p.label != CHAMPION),
            shadows=tuple(labels[p.label] for p in facts.labels if p.shadow),
        )
        entry.choose_current(before)
        return entry

    def choose_current(self, before: CatalogEntry | None = None) -> None:
        """Have every pointer choose its current servable."""
        if self.default is not None:
            self.default.choose_current(before.default if before else None)
        for number, pointer in self.versions.items():
            pointer.choose_current(before.versions.get(number) if before else None)
        for label, pointer in self.labels.items():
            pointer.choose_current(before.labels.get(label) if before else None)

    def pointers(self) -> Iterator[Pointer]:
        """Yield every pointer of this model."""
        if self.default is not None:
            yield self.default
        yield from self.versions.values()
        yield from self.labels.values()

    def place_of(self, sticky_key: str) -> float:
        """Map a sticky key to a number from 0 to 1, different for each rollout."""
        salt = self.facts.rollout.id if self.facts.rollout is not None else self.facts.name
        digest = hashlib.blake2b(f"{salt}\0{sticky_key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64

    @property
    def required(self) -> list[Servable]:
        """Servables to load before any request needs them: the default's and the labels'."""
        pointers = [*self.labels.values()] if self.default is None else [self.default, *self.labels.values()]
        return list(dict.fromkeys(pointer.target for pointer in pointers))

    @property
    def before_rollout(self) -> LoadedModel | None:
        """The version that an active rollout will replace; None until it is loaded."""
        current = self.default.current if self.default is not None else None
        return current.loaded_model if current is not None else None

    @property
    def answering(self) -> Servable | None:
        """The loaded servable that answers requests without a version."""
        current = self.default.current if self.default is not None else None
        return current if current is not None and current.loaded_model is not None else None


class Catalog:
    """All models by name."""

    def __init__(self) -> None:
        self.entries: dict[str, CatalogEntry] = {}
        self._random = np.random.default_rng()

    def pick_pointer(self, entry: CatalogEntry, sticky_key: str | None = None) -> Pointer | None:
        """Return the pointer for a request without a version: a canary by its share of traffic, else the default.

        Requests with the same `sticky_key` get the same version, even while a canary's share grows.
        """
        if entry.canaries:
            point = self._random.random() if sticky_key is None else entry.place_of(sticky_key)
            for share, pointer in entry.canaries:
                if point < share:
                    return pointer
                point -= share
        return entry.default

    def loaded_servables(self) -> list[Servable]:
        """Return every servable in memory, whether or not a name still points at it."""
        candidates: list[Servable | None] = []
        for entry in self.entries.values():
            candidates += [*entry.servables.values(), *(pointer.current for pointer in entry.pointers())]
        return [one for one in dict.fromkeys(candidates) if one is not None and one.loaded_model is not None]

    def loaded_models(self) -> list[LoadedModel]:
        return [one.loaded_model for one in self.loaded_servables() if one.loaded_model is not None]
