"""docker-compose.yml: compose accepts it; mounts exist, containers are locked down, secrets stay out of it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from services import secrets
from tests.conftest import PROJECT
from tests.needs import need

OURS = ("migrate", "api", "predict", "worker", "reaper")


def compose() -> list[str]:
    """Return the compose command of this machine, or skip the test."""
    return need("docker compose").split(" ")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"])


@pytest.mark.parametrize("proxy", ["http", "https"])
def test_compose_accepts_the_file(proxy: str) -> None:
    import os

    done = subprocess.run(
        [*compose(), "config"], cwd=PROJECT, env={**os.environ, "FITSERVE_PROXY": proxy}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"deploy/nginx/{proxy}.conf.template" in done.stdout


def test_compose_refuses_a_misspelt_key(tmp_path: Path) -> None:
    text = (PROJECT / "docker-compose.yml").read_text().replace("read_only: true", "readonly: true")
    (tmp_path / "docker-compose.yml").write_text(text)
    assert subprocess.run([*compose(), "config", "-q"], cwd=tmp_path, capture_output=True).returncode != 0


def test_workers_of_a_gang_reach_each_other_by_name_and_publish_no_port(services: dict[str, Any]) -> None:
    worker = services["worker"]
    assert worker["environment"]["FITSERVE_CLUSTER_HOST"] == "hostname"
    assert not worker.get("ports")
    assert worker.get("network_mode") != "host"


def test_mounted_files_exist(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./") and "$" not in source:
                assert (PROJECT / source).exists(), f"{name}: {source}"


def test_containers_are_locked_down(services: dict[str, Any]) -> None:
    for name in OURS:
        assert services[name]["read_only"] is True, name
        assert "user" not in services[name], name
    for name in OURS[1:]:
        assert services[name]["cap_drop"] == ["ALL"], name
        assert services[name]["security_opt"] == ["no-new-privileges:true"], name
        dependencies = services[name]["depends_on"]
        migrated = dependencies.get("migrate", {}).get("condition") == "service_completed_successfully"
        assert migrated or dependencies == {"api": {"condition": "service_healthy"}}, name


def test_no_secret_is_in_the_file_or_the_environment(services: dict[str, Any], tmp_path: Path) -> None:
    token = secrets.create_secrets(tmp_path)
    assert token == (tmp_path / "fitserve_root_key").read_text()
    for name, service in services.items():
        for variable in service.get("environment", {}):
            if variable.endswith(("PASSWORD", "TOKEN")) or variable == "FITSERVE_ROOT_KEY":
                pytest.fail(f"{name}: {variable}")
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert secrets.create_secrets(tmp_path) is None
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    acl = before["redis_users.acl"]
    password = before["fitserve_redis_url"].split(":")[2].split("@")[0]
    assert password not in acl
    assert acl.startswith("user default off")


def test_a_container_sees_only_the_secrets_that_it_needs(services: dict[str, Any], tmp_path: Path) -> None:
    secrets.create_secrets(tmp_path / "all")
    for share in ("api", "processes"):
        (tmp_path / "shares" / share).mkdir(parents=True)
    (tmp_path / "shares" / "processes" / "fitserve_root_key").write_text("of an earlier release")
    secrets.share_secrets(tmp_path / "all", tmp_path / "shares")
    seen = {path.name: sorted(file.name for file in path.iterdir()) for path in (tmp_path / "shares").iterdir()}
    assert seen == {
        "postgres": ["postgres_password"],
        "redis": ["redis_users.acl"],
        "processes": ["fitserve_database_url", "fitserve_redis_url"],
        "api": ["fitserve_database_url", "fitserve_redis_url", "fitserve_root_key"],
    }
    for name, service in services.items():
        mounted = [volume for volume in service.get("volumes", []) if ":/run/secrets" in volume]
        share = {"postgres": "postgres", "redis": "redis", "api": "api"}.get(name, "processes")
        if name != "secrets":
            assert mounted in ([], [f"secrets-{share}:/run/secrets:ro"]), name
    assert "secrets-processes:/run/secrets:ro" in services["worker"]["volumes"]
