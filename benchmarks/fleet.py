"""`make bench-fleet`: database and broker load per worker and per run, for docs/scaling.md.

Real processes on PostgreSQL and Redis with production's leases; training is a dummy of a few epochs, so only the
overhead around it counts. Transactions are PostgreSQL commits, commands are Redis commands. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import redis
from sqlalchemy import text

from fitserve.ids import new_id
from tests.faults.chaos import Postgres
from tests.faults.cluster import Cluster

PRODUCTION = {
    "FITSERVE_LEASE_SECONDS": "30",
    "FITSERVE_HEARTBEAT_SECONDS": "5",
    "FITSERVE_REAP_SECONDS": "5",
    "FITSERVE_REDISPATCH_SECONDS": "30",
}
EPOCHS = 5


class Meter:
    """Counters of both servers."""

    def __init__(self, cluster: Cluster) -> None:
        assert cluster.redis is not None
        self.cluster = cluster
        self.broker = redis.Redis(unix_socket_path=str(cluster.redis.socket))
        self.overhead = 1  # the INFO that reads the count

    def read(self) -> tuple[float, int, int, int]:
        """Return the time, commits, commands, and database connections."""
        with self.cluster.engine.connect() as connection:
            commits, connections = connection.execute(
                text("SELECT xact_commit, numbackends FROM pg_stat_database WHERE datname = current_database()")
            ).one()
        commands = self.broker.info("stats")["total_commands_processed"] - self.overhead
        self.overhead += 1
        return time.monotonic(), int(commits), int(commands), int(connections)

    def rates(self, seconds: float) -> dict[str, float]:
        """Return commits and commands per second while idle."""
        before = self.read()
        time.sleep(seconds)
        after = self.read()
        passed = after[0] - before[0]
        return {
            "commits": (after[1] - before[1]) / passed,
            "commands": (after[2] - before[2]) / passed,
            "connections": after[3],
        }


def wait_until_succeeded(cluster: Cluster, ids: list[str]) -> None:
    for run_id in ids:
        assert cluster.wait_over(run_id, 120).state == "succeeded"


def runs_cost(meter: Meter, count: int) -> dict[str, float]:
    """Count commits and commands of `count` runs; the caller subtracts the idle load."""
    before = meter.read()
    wait_until_succeeded(meter.cluster, [meter.cluster.submit(epochs=EPOCHS, seconds=0.0) for _ in range(count)])
    after = meter.read()
    return {
        "commits": after[1] - before[1],
        "commands": after[2] - before[2],
        "seconds": after[0] - before[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--runs", type=int, default=100)
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="fitserve-fleet-"))
    postgres = Postgres(Path("/tmp") / new_id("fitserve-pg"))
    try:
        with Cluster(home, postgres.start(), PRODUCTION) as cluster:
            cluster.start("reaper")
            time.sleep(5)
            meter = Meter(cluster)
            alone = meter.rates(args.seconds)
            workers = 0
            idle = alone
            for _ in range(2):
                cluster.start("worker")
                workers += 1
                time.sleep(8)
                idle = meter.rates(args.seconds)
            cost = runs_cost(meter, args.runs)
        figures = {
            "reaper_commits_s": alone["commits"],
            "reaper_commands_s": alone["commands"],
            "idle_worker_commits_s": (idle["commits"] - alone["commits"]) / workers,
            "idle_worker_commands_s": (idle["commands"] - alone["commands"]) / workers,
            "worker_connections": (idle["connections"] - alone["connections"]) / workers,
            "run_commits": (cost["commits"] - idle["commits"] * cost["seconds"]) / args.runs,
            "run_commands": (cost["commands"] - idle["commands"] * cost["seconds"]) / args.runs,
            "runs_a_minute": 60 * args.runs / cost["seconds"],
        }
    finally:
        postgres.cleanup()
        shutil.rmtree(postgres.folder, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)
    for name, value in figures.items():
        print(f"{name:>24} {value:10.2f}")
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
