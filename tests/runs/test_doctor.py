"""`fitserve doctor`: its results for a healthy system, and for each broken part."""

from __future__ import annotations

import json
import subprocess
import sys

from sqlalchemy import update

from fitserve import db
from fitserve.blobs import FolderStore
from fitserve.settings import Settings
from fitserve.tables import Dataset, Run
from tests.faults.cluster import PROJECT, Cluster
from workers.doctor import CheckResult, run_checks


def by_check(cluster: Cluster, **changes: object) -> dict[str, CheckResult]:
    settings: Settings = cluster.settings.model_copy(update=changes)
    return {result.check: result for result in run_checks(settings)}


def test_all_is_well(cluster: Cluster) -> None:
    findings = by_check(cluster)
    assert set(findings) == {"sqlite", "database", "blobs", "space", "broker", "artifacts", "runs"}
    assert not [finding for finding in findings.values() if finding.outcome == "wrong"]


def test_the_command_prints_json_and_exits_with_1_where_something_is_wrong(cluster: Cluster) -> None:
    cluster.submit()
    command = [sys.executable, "-m", "workers.doctor", "--json"]
    done = subprocess.run(command, cwd=PROJECT, env=cluster.variables | {"PATH": ""}, capture_output=True, check=False)
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 1
    assert findings["runs"]["outcome"] == "wrong"
    assert "no worker is alive" in findings["runs"]["detail"]
    assert findings["runs"]["fix"]


def test_what_is_broken_is_named_with_a_fix(cluster: Cluster) -> None:
    def broken(check: str, **changes: object) -> None:
        finding = by_check(cluster, **changes)[check]
        assert (finding.outcome, bool(finding.fix)) == ("wrong", True), finding

    broken("database", database_url="sqlite:////nowhere/at/all.db")
    broken("database", database_url=f"sqlite:///{cluster.home / 'empty.db'}")
    broken("blobs", blob_url="file:///proc/nowhere")
    broken("broker", redis_url="redis://127.0.0.1:1/0")


def test_a_missing_blob_and_a_lost_run_are_noticed(cluster: Cluster) -> None:
    store = cluster.blobs
    assert isinstance(store, FolderStore)
    with db.transaction(cluster.engine) as session:
        gone = session.get(Dataset, cluster.dataset_id)
        assert gone is not None
        store.delete(gone.blob)
    assert "missing" in by_check(cluster)["artifacts"].detail
    run_id = cluster.submit()
    with db.transaction(cluster.engine) as session:
        long_ago = db.now(session).replace(year=2020)
        values = {"state": "running", "lease_token": "t", "lease_expires_at": long_ago}
        session.execute(update(Run).where(Run.id == run_id).values(**values))
    assert by_check(cluster)["runs"].outcome == "wrong"
