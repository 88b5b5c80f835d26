"""Destinations: where a batch prediction writes its parts, each once, and all of them visible at once."""

from __future__ import annotations

from fitserve.datasets.destinations.objects import ObjectTarget
from fitserve.datasets.destinations.sql import SqlTarget
from fitserve.datasets.destinations.target import (
    DestinationAway,
    DestinationRefused,
    DestinationTarget,
    StoredPart,
    plain,
    refused,
)
from fitserve.datasets.sources import connections
from fitserve.settings import Settings
from fitserve.wire.destinations import Destination

__all__ = [
    "DestinationAway",
    "DestinationRefused",
    "DestinationTarget",
    "StoredPart",
    "find_connection",
    "open_target",
    "plain",
]


def find_connection(settings: Settings, destination: Destination, owner: str) -> connections.NamedConnection:
    """Return the connection that a destination refers to. Raises BadInput if it is unknown or not writable."""
    kind, name = destination.kind, destination.stated.connection
    connection = connections.find(settings, name, kind, owner, f"/destination/{kind}/connection")
    if not connection.writable:
        what = f"The connection {name!r} is for reading alone."
        fix = "The operator sets `writable: true` for connections that predictions may be written to."
        raise refused(kind, what, key="connection", fix=fix, received=name)
    return connection


def open_target(settings: Settings, destination: Destination, owner: str, run_id: str) -> DestinationTarget:
    """Return the destination of a run. Raises BadInput for an unknown connection."""
    connection = find_connection(settings, destination, owner)
    if destination.kind == "sql":
        return SqlTarget(destination.stated, connection, run_id)
    return ObjectTarget(destination.kind, destination.stated, connection, run_id)
