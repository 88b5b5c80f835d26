"""Asks the public data on vulnerabilities about every pinned dependency: `python .ci/audit.py VENV TOOL_LOCK LOCK...`.

Ends with 1 where one is known. Where the tool or its data cannot be had, nothing is known: that is said, and is no
failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS = 240  # for one lock, whatever the network does


def tool(folder: Path, lock: str) -> Path | None:
    """pip-audit in an environment of its own; None where it cannot be installed."""
    command = folder / "bin" / "pip-audit"
    if not command.exists():
        install = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        try:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=SECONDS)
            subprocess.run([*install, "--require-hashes", "-r", lock], check=True, timeout=SECONDS, capture_output=True)
        except (subprocess.SubprocessError, OSError) as error:
            print(f"audit: SKIPPED, pip-audit cannot be installed here: {type(error).__name__}")
            return None
    return command


def audit(command: Path, lock: str) -> tuple[list[str], str]:
    """Vulnerabilities found, and what could not be looked up (with why)."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        arguments = ["--disable-pip", "--require-hashes", "-r", lock, "-f", "json", "-o", str(report)]
        try:
            done = subprocess.run(
                [command, *arguments, "--timeout", "10", "--progress-spinner", "off"],
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            return [], f"no answer within {SECONDS} s"
        if not report.exists() or not report.read_text().strip():
            return [], (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
        packages = json.loads(report.read_text())["dependencies"]
    found = [
        f"{package['name']} {package['version']}: {one['id']} (mended in {', '.join(one['fix_versions']) or 'nothing'})"
        for package in packages
        for one in package.get("vulns") or ()
    ]
    unknown = [package for package in packages if package.get("skip_reason")]
    why = f"{len(unknown)} of {len(packages)} not looked up: {unknown[0]['skip_reason']}" if unknown else ""
    return found, why


def main() -> int:
    folder, tool_lock, *locks = sys.argv[1:]
    command = tool(Path(folder), tool_lock)
    status = 0
    for lock in locks if command else ():
        found, why = audit(command, lock)
        for line in found:
            print(f"audit: {lock}: {line}")
        status = status or int(bool(found))
        if why:
            print(f"audit: {lock}: SKIPPED, its data cannot be had here: {why}")
        elif not found:
            print(f"audit: {lock}: nothing known against it")
    return status


if __name__ == "__main__":
    sys.exit(main())
