"""The model repository extension: index, load, unload. A load or unload holds for every process that serves.

Source: triton protocol extension_model_repository.md.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fitserve import db, registry
from fitserve.api_keys import Identity
from fitserve.errors import Forbidden, Unavailable
from services.predict.catalog.catalog import Entry, State
from services.predict.serving.prediction_service import LOAD_SECONDS, Service


def index(service: Service, identity: Identity, ready_only: bool) -> list[dict[str, str]]:
    """Every version of every model that this caller sees."""
    found = []
    for entry in service.entries(identity):
        for number, pointer in sorted(entry.versions.items()):
            slot = pointer.wanted[0]
            ready = entry.facts.loaded and not slot.failed
            if ready or not ready_only:
                reason = slot.error or ("" if entry.facts.loaded else "unloaded")
                state = "READY" if ready else "UNAVAILABLE"
                found.append({"name": entry.facts.name, "version": str(number), "state": state, "reason": reason})
    return found


async def set_loaded(service: Service, identity: Identity, model: str, loaded: bool) -> None:
    """Loads or unloads a model, and returns when it has happened here. Raises NotFound, Forbidden, Unavailable."""
    entry = service.entry(model, identity)
    if not (identity.may("train") and (identity.may("admin") or identity.owner == entry.facts.owner)):
        raise Forbidden("This key may not load or unload this model.", expected="its owner's key with the scope train")

    def write() -> None:
        with db.transaction(service.engine) as session:
            registry.set_loaded(session, model, loaded)

    await asyncio.get_running_loop().run_in_executor(service.executor, write)
    await settled(service, model, lambda entry: entry.facts.loaded == loaded and (not loaded or not _loading(entry)))


def _loading(entry: Entry) -> bool:
    return any(slot.network is None and slot.state in (State.start, State.loading) for slot in entry.needed)


async def settled(service: Service, model: str, condition: Any) -> None:
    """Waits until this process has seen a change of a model. Raises Unavailable."""
    service.watcher.poke()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LOAD_SECONDS
    while loop.time() < deadline:
        entry = service.catalog.entries.get(model)
        if entry is not None and condition(entry):
            return
        await asyncio.sleep(0.01)
    raise Unavailable(f"The model {model} did not settle in time.", retry_after=5)
