"""What the processes of a server have in common when they start."""

from __future__ import annotations

import contextlib
import gc
import importlib.abc
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def permanent_objects() -> Iterator[None]:
    """Context for what stays until the process ends: the garbage collector goes through none of it, now or later.

    Imports leave no garbage. Going through what they leave takes an eighth of a start, and as long again at the end.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


# pyarrow's file systems take 3 MB: we open remote files otherwise.
_FILE_SYSTEMS = {f"pyarrow.{name}" for name in ("_azurefs", "_gcsfs", "_hdfs", "_s3fs")}
_UNUSED = _FILE_SYSTEMS | {
    "pandas",  # 45 MB and a fifth of a second, for pyarrow
    "valkey",  # 3 MB: `limits` loads this client beside that of Redis
    "opentelemetry.sdk.metrics",  # 2 MB, for redis-py
    "watchfiles",  # 1 MB, for uvicorn to watch source files
}


def hide_unused_modules() -> None:
    """Keep libraries from importing optional modules that we do not need.

    Call it before pyarrow is used. None in `sys.modules` would be simpler, but pyarrow's shim does not accept it.
    """
    sys.meta_path.insert(0, _WithoutUnused())


class _WithoutUnused(importlib.abc.MetaPathFinder):
    """Finds that unused modules are not installed."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname in _UNUSED:
            raise ModuleNotFoundError(f"{fullname} is not loaded in this process", name=fullname)
