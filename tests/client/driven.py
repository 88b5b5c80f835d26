"""Notes which methods of the client were driven in this process, and which routes they asked."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from fitserve.client import client, datasets, drive, keys, models, runs
from fitserve.client.effects import listing, operation

CLASSES = (
    client._Server,
    datasets.Datasets,
    datasets.Dataset,
    runs.Runs,
    runs.Run,
    models.Models,
    models.Model,
    keys.Keys,
)


@dataclass
class Driven:
    """What happened so far."""

    methods: set[str] = field(default_factory=set)
    routes: set[tuple[str, str]] = field(default_factory=set)  # method and path
    tests: set[str] = field(default_factory=set)

    def asked(self, template: str, verb: str) -> bool:
        """Whether a route of an OpenAPI document was asked."""
        pattern = re.compile(re.sub(r"\{[^}]+\}", "[^/]+?", template) + "$")
        return any(method == verb.upper() and pattern.match(path) for method, path in self.routes)


def public_methods() -> set[str]:
    """Every method that talks to a server."""
    return {
        value.function.__qualname__
        for owner in CLASSES
        for name, value in inspect.getmembers_static(owner)
        if isinstance(value, operation | listing) and not name.startswith("_")
    }


@contextmanager
def noting() -> Iterator[Driven]:
    """Notes as long as it lasts."""
    found = Driven()
    begin, make = drive._Steps.__init__, drive.request_of

    def noted_begin(self: Any, running: Any) -> None:
        found.methods.add(running.gi_code.co_qualname)
        begin(self, running)

    def noted_make(http: Any, address: Any, call: Any, content: Any) -> Any:
        request = make(http, address, call, content)
        found.routes.add((request.method, request.url.path))
        return request

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drive._Steps, "__init__", noted_begin)
        patch.setattr(drive, "request_of", noted_make)
        yield found
