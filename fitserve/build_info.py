"""Which build this is: commit and day, as recorded in wheels and images, or read from Git in a checkout."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from fitserve import __version__

_PACKAGE = Path(__file__).resolve().parent
RECORD = _PACKAGE / "build.json"  # written by deploy/build_hook.py and deploy/Dockerfile


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """The commit that this version was built from, and when."""

    commit: str | None = None
    committed: str | None = None  # the commit's day
    built: str | None = None  # the day, as 2026-11-28
    changed: bool = False  # whether the sources differed from the commit

    def __str__(self) -> str:
        day = f" of {self.committed}" if self.committed else ""
        changed = " with changes" if self.changed else ""
        commit = f"commit {self.commit[:12] if self.commit else 'unknown'}{day}{changed}"
        return f"{__version__} ({commit}, {f'built {self.built}' if self.built else 'not built: a checkout'})"


def build_info() -> BuildInfo:
    """Return the recorded build; in a checkout, its commit."""
    try:
        return BuildInfo(**json.loads(RECORD.read_text()))
    except FileNotFoundError:
        return of_checkout(_PACKAGE.parent)


def of_checkout(project: Path, built: str | None = None) -> BuildInfo:
    """Return the commit of a checkout, and whether it has changes; unknown if the folder is not a checkout's top."""
    if not (project / ".git").exists():
        return BuildInfo(built=built)
    try:
        commit, day = _git(project, "show", "--no-patch", "--format=%H %cs", "HEAD").split()
        changed = bool(_git(project, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return BuildInfo(built=built)
    return BuildInfo(commit, day, built, changed)


def _git(project: Path, *arguments: str) -> str:
    command = ["git", "-C", str(project), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
