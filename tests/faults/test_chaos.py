"""The short form of the harness: random kills, pauses and broker losses over real processes."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.faults.chaos import Chaos, FaultPlan, commit_name
from tests.faults.cluster import Cluster

pytestmark = pytest.mark.xdist_group("faults")  # one process that forks members for all


def test_no_run_is_lost_doubled_or_stuck(tmp_path: Path) -> None:
    seed = int(os.environ.get("FITSERVE_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed {seed}  commit {commit_name()}")
    plan = FaultPlan(seed=seed, runs=30, kills=10, stops=4, longest_stop=4, broker_kills=2, seconds=10)
    environment = {"FITSERVE_MAX_ATTEMPTS": "100"}
    with Cluster(tmp_path / "home", environment=environment, redis_append_only=False) as cluster:
        chaos = Chaos(plan, cluster)
        verdict = chaos.run()
        print(verdict.fields(), dict(chaos.counts))
        if not verdict.ok:
            pytest.fail(f"{verdict}\nseed {seed}\n{cluster.tail(10_000)}")
    assert verdict.acknowledged >= plan.runs
    assert verdict.recovered > 0
