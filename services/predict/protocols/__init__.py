"""The wire protocols that predictions are served over.

A new protocol is a module or a package beside these that declares a `WireProtocol` (see `transport.py`), and a name in
PROTOCOLS: routing, gRPC, telemetry, authentication and the OpenAPI document follow from it.
"""

from __future__ import annotations

from services.predict.protocols import oip, tfserving
from services.predict.protocols.transport import WireProtocol

PROTOCOLS: tuple[WireProtocol, ...] = (tfserving.PROTOCOL, oip.PROTOCOL)


def find_protocol(path: str) -> WireProtocol | None:
    """Return the protocol that a path belongs to; None for the operator's paths."""
    return next((protocol for protocol in PROTOCOLS if protocol.paths.match(path)), None)
