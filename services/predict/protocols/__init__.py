"""The wire protocols that predictions are served over.

Every package of this one is imported here, and one that declares a `WireProtocol` as PROTOCOL (see `transport.py`) is
served: routing, gRPC, telemetry, authentication and the OpenAPI document follow from it.
"""

from __future__ import annotations

import importlib
import pkgutil

from services.predict.protocols.transport import WireProtocol


def _discover() -> tuple[WireProtocol, ...]:
    names = (f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__) if module.ispkg)
    declared = (getattr(importlib.import_module(name), "PROTOCOL", None) for name in names)
    return tuple(protocol for protocol in declared if isinstance(protocol, WireProtocol))


PROTOCOLS = _discover()


def find_protocol(path: str) -> WireProtocol | None:
    """Return the protocol that a path belongs to; None for the operator's paths."""
    return next((protocol for protocol in PROTOCOLS if protocol.paths.match(path)), None)
