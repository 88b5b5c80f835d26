"""What the control API's handlers work with; made once, in `create_app`."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request
from sqlalchemy import Engine

from fitserve.blobs import BlobStore
from fitserve.queue import Publisher
from fitserve.settings import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """Settings, database, blobs and the way to wake a worker."""

    settings: Settings
    engine: Engine
    blobs: BlobStore
    queue: Publisher


def context(request: Request) -> Context:
    """The dependency: the app's context."""
    found: Context = request.app.state.context
    return found
