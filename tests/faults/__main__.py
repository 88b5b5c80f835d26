"""`python -m tests.faults`, which is `make faults`: the long form. Prints the seed, the commit and Jepsen's fields."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from fitserve.ids import new_id
from tests.faults.chaos import Chaos, FaultPlan, Postgres, commit_name
from tests.faults.cluster import Cluster

# As in production: the promised recovery within 40 s assumes these.
LEASES = {
    "FITSERVE_LEASE_SECONDS": "30",
    "FITSERVE_HEARTBEAT_SECONDS": "5",
    "FITSERVE_REAP_SECONDS": "5",
    "FITSERVE_REDISPATCH_SECONDS": "30",
    # A run's holder is killed far more often than three times; other tests cover attempts that run out.
    "FITSERVE_MAX_ATTEMPTS": "1000",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--stops", type=int, default=90)
    parser.add_argument("--seconds", type=float, default=1500)
    parser.add_argument("--longest-stop", type=float, default=90)
    parser.add_argument("--broker-kills", type=int, default=10)
    parser.add_argument("--database-stops", type=int, default=5)
    parser.add_argument("--sqlite", action="store_true", help="SQLite instead of PostgreSQL")
    args = parser.parse_args()
    plan = FaultPlan(
        seed=args.seed,
        runs=args.runs,
        kills=args.kills,
        stops=args.stops,
        longest_stop=args.longest_stop,
        broker_kills=args.broker_kills,
        database_stops=0 if args.sqlite else args.database_stops,
        seconds=args.seconds,
        epochs=6,
        epoch_seconds=0.2,
        reapers=2,  # one may be paused for longer than a lease
        patience=1200,  # until the backlog is done, on a slow machine too
    )
    print(f"seed {plan.seed}  commit {commit_name()}  {'SQLite' if args.sqlite else 'PostgreSQL'}", flush=True)
    home = Path(tempfile.mkdtemp(prefix="fitserve-faults-"))
    postgres = None if args.sqlite else Postgres(Path("/tmp") / new_id("fitserve-pg"))
    begun = time.monotonic()
    try:
        url = postgres.start() if postgres else ""
        with Cluster(home / "home", url, environment=LEASES, redis_append_only=False) as cluster:
            chaos = Chaos(plan, cluster, postgres)
            verdict = chaos.run()
            if not verdict.ok:
                print(cluster.tail(20_000), file=sys.stderr)
    finally:
        if postgres:
            postgres.cleanup()
        shutil.rmtree(home, ignore_errors=True)
    for name in ("lost", "unexpected", "duplicated", "stuck"):
        for line in getattr(verdict, name)[:20]:
            print(f"{name}: {line}")
    for fault, count in sorted(chaos.counts.items()):
        print(f"  {fault:20} {count}")
    figures = {**verdict.fields(), "seconds": round(time.monotonic() - begun), "faults": dict(chaos.counts)}
    print(json.dumps({"plan": asdict(plan), "commit": commit_name(), **figures}))
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main())
