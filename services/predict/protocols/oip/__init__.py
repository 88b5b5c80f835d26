"""The Open Inference Protocol v2, over REST and gRPC."""

from __future__ import annotations

import re

from services.predict.protocols.oip.grpc import GRPC_SERVICES
from services.predict.protocols.oip.rest import OPENAPI_PATHS, OPENAPI_SCHEMAS, find_route
from services.predict.protocols.transport import WireProtocol

PROTOCOL = WireProtocol(
    name="oip",
    paths=re.compile("/v2(/|$)"),
    find_route=find_route,
    grpc_services=GRPC_SERVICES,
    openapi_paths=OPENAPI_PATHS,
    openapi_schemas=OPENAPI_SCHEMAS,
)
