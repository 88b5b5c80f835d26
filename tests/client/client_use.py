"""Record which methods of the client ran in this process, and which routes they requested."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from fitserve.client import automations, client, datasets, keys, models, rollouts, runs, webhooks, weights
from fitserve.client.connection import Connection

CLASSES = (
    client.Client,
    datasets.Datasets,
    datasets.Dataset,
    runs.Runs,
    runs.Run,
    models.Models,
    models.Model,
    rollouts.Rollouts,
    keys.Keys,
    webhooks.Webhooks,
    automations.Automations,
    weights.Weights,
)


@dataclass
class ClientUse:
    """What has run so far."""

    methods: set[str] = field(default_factory=set)
    routes: set[tuple[str, str]] = field(default_factory=set)  # method and path
    tests: set[str] = field(default_factory=set)

    def requested(self, template: str, verb: str) -> bool:
        """Return whether a route of an OpenAPI document was requested."""
        pattern = re.compile(re.sub(r"\{[^}]+\}", "[^/]+?", template) + "$")
        return any(method == verb.upper() and pattern.match(path) for method, path in self.routes)


def public_methods() -> dict[str, tuple[type, Callable[..., Any]]]:
    """Return the class and function of every method that talks to a server, by qualified name."""
    return {
        function.__qualname__: (owner, function)
        for owner in CLASSES
        for name, function in vars(owner).items()
        if inspect.isfunction(function) and function.__module__ == owner.__module__  # not Pydantic's
        if not name.startswith("_") and not hasattr(function, "local")
    }


@contextmanager
def recording() -> Iterator[ClientUse]:
    """Record within the block."""
    use = ClientUse()

    def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
        # An iterator's method is recorded once it is iterated: a generator function wraps a generator function.
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def iterate(*args: Any, **kwargs: Any) -> Iterator[Any]:
                use.methods.add(function.__qualname__)
                yield from function(*args, **kwargs)

            return iterate

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            use.methods.add(function.__qualname__)
            return function(*args, **kwargs)

        return call

    build = Connection._build

    def recorded_build(*args: Any, **kwargs: Any) -> httpx2.Request:
        request = build(*args, **kwargs)
        use.routes.add((request.method, request.url.path))
        return request

    with pytest.MonkeyPatch.context() as patch:
        for owner, function in public_methods().values():
            patch.setattr(owner, function.__name__, recorded(function))
        patch.setattr(Connection, "_build", recorded_build)
        yield use
