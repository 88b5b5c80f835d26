"""Keep a web process small: return a large request's memory to the system."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

M_ARENA_MAX = -8  # mallopt's parameter
MAX_ARENAS = 1  # by default, each of many threads gets its own arena


def stay_small() -> None:
    """Configure the allocators. Call it before pyarrow is imported: what has been allocated stays where it is."""
    # The other pools never return memory. `pa.set_memory_pool` would not do for Arrow's own readers and writers.
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    mallopt = _of_libc("mallopt")
    if mallopt is not None:
        mallopt(M_ARENA_MAX, MAX_ARENAS)


def release_memory() -> None:
    """Return free memory to the system. Takes some milliseconds."""
    import pyarrow as pa  # imported here because `stay_small` comes first

    pa.default_memory_pool().release_unused()
    trim = _of_libc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_libc(name: str) -> Any:
    """Return a function that glibc has and other C libraries may lack."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
