"""What schemathesis cannot know: how to send bytes, and names of existing objects (`FITSERVE_TEST_REAL`, JSON)."""

from __future__ import annotations

import json
import os
from typing import Any

import schemathesis

REAL: dict[str, list[Any]] = json.loads(os.environ.get("FITSERVE_TEST_REAL", "{}"))


@schemathesis.serializer("application/offset+octet-stream")
def as_bytes(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """Skip cases with an additional header, which is never invalid: every proxy adds some."""
    return "x-schemathesis-unknown-property" not in (case.headers or {})


@schemathesis.hook
def map_path_parameters(_context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Send half of the requests to an existing object, chosen by the value itself, so that cases shrink well."""
    for name, value in (path_parameters or {}).items():
        real = REAL.get(name)
        if real and len(str(value)) % 2:
            path_parameters[name] = real[len(str(value)) % len(real)]  # type: ignore[index]
    return path_parameters
