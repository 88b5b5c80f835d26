"""TensorFlow Serving's protocol, over REST and gRPC."""

from __future__ import annotations

import re

from services.predict.protocols.tfserving.grpc import GRPC_SERVICES
from services.predict.protocols.tfserving.rest import OPENAPI_PATHS, OPENAPI_SCHEMAS, find_route
from services.predict.protocols.transport import WireProtocol

PROTOCOL = WireProtocol(
    name="tfserving",
    paths=re.compile("/v1/|/$"),  # `/`: KServe asks there whether the server is alive
    find_route=find_route,
    grpc_services=GRPC_SERVICES,
    openapi_paths=OPENAPI_PATHS,
    openapi_schemas=OPENAPI_SCHEMAS,
)
