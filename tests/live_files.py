"""Look into a folder while other processes write to it and delete from it."""

from __future__ import annotations

import os
from pathlib import Path


def files_under(folder: Path) -> list[Path]:
    """Return the paths of all files under `folder`; what is deleted meanwhile may be missing or still be named.

    `Path.rglob` raises FileNotFoundError where a folder disappears before it is read.
    """
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
