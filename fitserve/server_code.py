"""Where the server's code is: the packages `services`, `workers` and `migrations`.

In a checkout they stand beside `fitserve`. In the wheel they are within it, because packages of such general names have
no place at the top of anybody's site-packages. Either way the processes that `fitserve up` starts find them on
PYTHONPATH.
"""

from __future__ import annotations

import os
from pathlib import Path

PACKAGES = ("services", "workers", "migrations")
IN_WHEEL = Path(__file__).resolve().parent / "server"  # pyproject.toml puts them there


def folder() -> Path:
    """Return the folder that holds the server's packages."""
    return IN_WHEEL if IN_WHEEL.is_dir() else Path(__file__).resolve().parent.parent


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment with `changes`, for a Python that runs the server's code.

    Nothing is imported from the folder where it is started, whose files may have any names.
    """
    search = [str(folder()), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(search), "PYTHONSAFEPATH": "1", **changes}
