"""Check every pinned dependency against the public vulnerability data: `python .ci/audit.py VENV TOOL_LOCK LOCK...`.

Exits with 1 if one is known. If the tool or its data are unavailable, that is reported and is not a failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS = 240  # time limit for one lock


def tool(folder: Path, lock: str) -> Path | None:
    """Return pip-audit in its own environment; None if it cannot be installed."""
    command, uv = folder / "bin" / "pip-audit", [sys.executable, "-m", "uv"]
    if not command.exists():
        install = [*uv, "pip", "install", "--quiet", "--python", folder / "bin" / "python", "--require-hashes"]
        try:
            make = [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder]
            subprocess.run(make, check=True, timeout=SECONDS, capture_output=True)
            subprocess.run([*install, "-r", lock], check=True, timeout=SECONDS, capture_output=True)
        except (subprocess.SubprocessError, OSError) as error:
            print(f"audit: SKIPPED, pip-audit cannot be installed here: {type(error).__name__}")
            return None
    return command


def audit(command: Path, lock: str) -> tuple[list[str], str]:
    """Return the vulnerabilities found, and why some packages could not be checked."""
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
            return [], (done.stderr.strip().splitlines() or ["no output"])[-1][:300]
        packages = json.loads(report.read_text())["dependencies"]
    vulnerabilities = [
        f"{package['name']} {package['version']}: {known['id']} (fixed in {', '.join(known['fix_versions']) or 'none'})"
        for package in packages
        for known in package.get("vulns") or ()
    ]
    unknown = [package for package in packages if package.get("skip_reason")]
    why = f"{len(unknown)} of {len(packages)} not checked: {unknown[0]['skip_reason']}" if unknown else ""
    return vulnerabilities, why


def main() -> int:
    folder, tool_lock, *locks = sys.argv[1:]
    command = tool(Path(folder), tool_lock)
    status = 0
    for lock in locks if command else ():
        vulnerabilities, why = audit(command, lock)
        for line in vulnerabilities:
            print(f"audit: {lock}: {line}")
        status = status or int(bool(vulnerabilities))
        if why:
            print(f"audit: {lock}: SKIPPED, its data are not available here: {why}")
        elif not vulnerabilities:
            print(f"audit: {lock}: no known vulnerabilities")
    return status


if __name__ == "__main__":
    sys.exit(main())
