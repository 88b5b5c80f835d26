"""placeholder"""

from typing import Any


async def start_grpc(service: Any, settings: Any) -> Any:
    return None
