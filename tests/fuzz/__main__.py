"""The long form, `make fuzz`: public suites of bad input, then every target for its share of FUZZ_SECONDS.

`FITSERVE_TEST_SUITES` names a folder with the suites listed in `suites.py`; missing ones are reported and skipped.
Exits with 1 if anything was found; findings are saved in `--folder`, to become seeds in `seeds.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import PROJECT
from tests.fuzz.seeds import REGRESSIONS, SEEDS
from tests.fuzz.targets import TARGETS, attempt

SHARES = {"sniffer": 0.22, "spec": 0.26, "tfserving": 0.22, "oip": 0.22, "table": 0.08}


def guided(name: str, seconds: int, folder: Path) -> str:
    """Run one target under atheris. Returns `nothing found` or the end of the output."""
    command = [sys.executable, "-m", "tests.fuzz.guided", name, str(folder), str(seconds)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, errors="replace")
    lines = done.stderr.splitlines()
    counted = next((line.split()[-1] for line in lines if "number_of_executed_units" in line), "?")
    covered = next((line for line in reversed(lines) if " cov: " in line), "").partition("cov: ")[2].split(" ")[0]
    if done.returncode == 0:
        return f"nothing found; {counted} inputs, {covered} edges"
    return "FOUND\n" + "\n".join(line[:300] for line in [*done.stdout.splitlines(), *lines][-40:])


def unguided(name: str, seconds: int, folder: Path) -> str:
    """Run one target without atheris on randomly changed seeds. An input that breaks the target is saved."""
    source, count = random.Random(0), 0
    seeds = [*SEEDS[name], *REGRESSIONS[name].values()]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        data = bytearray(source.choice(seeds))
        for _ in range(source.randint(1, 6)):
            at, other = source.randrange(len(data) + 1), source.choice(seeds)
            start = source.randrange(len(other))
            data[at : at + source.randint(0, 8)] = source.choice(
                (source.randbytes(source.randint(0, 4)), other[start : start + source.randint(0, 16)])
            )
        count += 1
        try:
            attempt(name, bytes(data))
        except Exception as error:
            saved = folder / "findings" / f"{name}-{count}"
            saved.parent.mkdir(parents=True, exist_ok=True)
            saved.write_bytes(data)
            return f"FOUND {saved}: {type(error).__name__}: {error}"[:500]
    return f"nothing found; {count} inputs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=300, help="for all targets together")
    parser.add_argument("--folder", type=Path, default=PROJECT / ".fuzz", help="for the corpus and the findings")
    parser.add_argument("--only", choices=["suites", *TARGETS], help="the suites, or one target")
    parser.add_argument("--no-suites", action="store_true")
    options = parser.parse_args()
    fuzz = guided if importlib.util.find_spec("atheris") else unguided
    print("guided by coverage (atheris)" if fuzz is guided else "atheris is not installed: seeds changed at random")
    report: dict[str, str] = {}
    if options.only in (None, "suites") and not options.no_suites:
        from tests.fuzz import suites

        report["suites"] = suites.run()
        print(report["suites"], flush=True)
    for name in TARGETS:
        if options.only not in (None, name):
            continue
        seconds = max(5, round(options.seconds * (SHARES[name] if options.only is None else 1)))
        started = time.monotonic()
        report[name] = fuzz(name, seconds, options.folder)
        print(f"{name}: {time.monotonic() - started:.0f} s: {report[name]}", flush=True)
    print(json.dumps({name: result.splitlines()[0] for name, result in report.items()}))
    return int(any("FOUND" in result for result in report.values()))


if __name__ == "__main__":
    sys.exit(main())
