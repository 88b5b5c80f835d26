"""promtool accepts the configuration, the rules and the exposed metrics; every alert has a test."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import yaml

from docs.tables import telemetry_names
from fitserve import telemetry
from tests.needs import need

PROJECT = Path(__file__).resolve().parents[2]
DEPLOY = PROJECT / "deploy" / "prometheus"


def promtool(*arguments: str, cwd: Path = DEPLOY, stdin: bytes | None = None) -> None:
    done = subprocess.run([need("promtool"), *arguments], cwd=cwd, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_the_configuration_and_rules_are_valid() -> None:
    promtool("check", "config", "prometheus.yml")


def test_each_alert_fires_only_when_it_should(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "fitserve.rules.yml", tmp_path)
    shutil.copy(Path(__file__).with_name("rules.test.yml"), tmp_path)
    promtool("test", "rules", "rules.test.yml", cwd=tmp_path)


def test_every_alert_has_a_test() -> None:
    groups = yaml.safe_load((DEPLOY / "fitserve.rules.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    tests = yaml.safe_load(Path(__file__).with_name("rules.test.yml").read_text())["tests"]
    silent = {one["alertname"] for one in tests[0]["alert_rule_test"]}
    assert alerts == silent
    fired = {one["alertname"] for test in tests for one in test.get("alert_rule_test", []) if one["exp_alerts"]}
    assert alerts == fired


def test_rules_query_existing_series() -> None:
    text = re.sub(r"#.*|record: .*", "", (DEPLOY / "fitserve.rules.yml").read_text())
    series = set(re.findall(r"(?<![:\w])fitserve_\w+(?!\w*:)", text))
    series = {re.sub(r"_(bucket|sum|count)$", "", name) for name in series if f"{name}:" not in text}
    assert series <= telemetry_names()


def test_exposed_metrics_are_well_formed() -> None:
    # The process_* and python_* series come from the client library, which names them.
    ours = b"".join(
        line for line in telemetry.exposition().splitlines(keepends=True) if b"fitserve_" in line.split(b"{")[0]
    )
    promtool("check", "metrics", stdin=ours)
