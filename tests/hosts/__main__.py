"""`python -m tests.hosts [FORM ...]`: gangs on hosts that are really apart; a line of JSON for each form.

Forms: `cut` (each side, both ways, deaf and mute, 10, 40 and 120 s), `line` (20% loss, 200 ms), `tensorflow` (the real
trainer, cut off once and on that line), `storm`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from fitserve.ids import new_id
from tests.faults.__main__ import LEASES
from tests.faults.chaos import Postgres, commit_name
from tests.hosts import gangs
from tests.hosts.conftest import HOSTS, Deployment, deployment
from tests.hosts.network import missing

WAYS = {"both": (True, True), "deaf": (True, False), "mute": (False, True)}


@contextmanager
def _deployment(hosts: tuple[str, ...] = HOSTS, /, **environment: str) -> Iterator[Iterator[Deployment]]:
    home, postgres = Path(tempfile.mkdtemp(prefix="fitserve-hosts-")), Postgres(Path("/tmp") / new_id("fitserve-pg"))
    try:
        yield deployment(home / "home", postgres.start(), hosts, **environment)
    finally:
        postgres.cleanup()
        shutil.rmtree(home, ignore_errors=True)


def _cuts(seconds: list[int], ways: list[str], victims: list[Literal["leader", "helper"]]) -> None:
    for way, victim, length in itertools.product(ways, victims, seconds):
        incoming, outgoing = WAYS[way]
        with _deployment(**LEASES) as deployed:
            for hosts in deployed:
                found = gangs.cut_off(hosts, victim, length, incoming=incoming, outgoing=outgoing)
                print(json.dumps({"cut": victim, "way": way, "seconds": length, **found}), flush=True)


def _bad_line() -> None:
    with _deployment(**LEASES) as deployed:
        for hosts in deployed:
            print(json.dumps({"line": "20% loss, 200 ms", **gangs.bad_line(hosts)}), flush=True)


def _tensorflow(faults: tuple[str, ...] = ("cut", "line")) -> None:
    for fault in faults:
        with _deployment(**gangs.TENSORFLOW) as deployed:
            for hosts in deployed:
                print(json.dumps({"tensorflow": fault, **gangs.with_tensorflow(hosts, fault)}), flush=True)


def _storm(seed: int, seconds: float) -> None:
    with _deployment(("data", "worker1", "worker2", "worker3"), **LEASES) as deployed:
        found = gangs.storms(deployed, random.Random(seed), seconds)
    print(json.dumps({"storm": seed, "commit": commit_name(), **found}), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("forms", nargs="*", default=["cut", "line", "tensorflow", "storm"], metavar="FORM")
    parser.add_argument("--seconds", type=int, nargs="+", default=[10, 40, 120], help="of a cut")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--victims", nargs="+", choices=["leader", "helper"], default=["leader", "helper"])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--storm-seconds", type=float, default=600)
    args = parser.parse_args()
    if reason := missing():
        print(f"Skipped: {reason}")
        return 0
    for form in args.forms:
        if form == "cut":
            _cuts(args.seconds, args.ways, args.victims)
        elif form == "line":
            _bad_line()
        elif form == "tensorflow":
            _tensorflow()
        elif form == "storm":
            _storm(args.seed, args.storm_seconds)
        else:
            parser.error(f"no form {form}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
