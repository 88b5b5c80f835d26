"""Versions of the packages that affect a run's numbers: processes that train together must have the same ones."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("fitserve", "tensorflow", "tensorflow-cpu", "keras", "numpy", "pyarrow", "onnxruntime")


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of these packages, by name. Reading them takes longer than a small epoch."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


@cache
def release() -> str:
    """Return a short hash that identifies all these versions together."""
    return hashlib.sha256(json.dumps(versions(), sort_keys=True).encode()).hexdigest()[:16]
