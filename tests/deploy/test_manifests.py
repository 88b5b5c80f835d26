"""The Kubernetes manifests are valid against Kubernetes's schemas and consistent with each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from fitserve import telemetry
from fitserve.settings import Settings
from tests.conftest import PROJECT

FILE = PROJECT / "deploy/kubernetes/fitserve.yaml"
MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all(FILE.read_text()))
ROLES = ("api", "predict", "worker", "reaper")
OLDEST = "1.30"  # the oldest supported Kubernetes: the first whose `preStop` can sleep


def by_name(kind: str) -> dict[str, dict[str, Any]]:
    return {m["metadata"]["name"]: m for m in MANIFESTS if m["kind"] == kind}


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    return dict(manifest["spec"]["template"]["spec"])


PODS = {**by_name("Deployment"), **by_name("Job")}


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda m: f"{m['kind']}-{m['metadata']['name']}")
def test_every_manifest_is_valid(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_field_is_rejected() -> None:
    wrong = {**MANIFESTS[0], "spec": {**MANIFESTS[0]["spec"], "backofLimit": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, OLDEST, strict=True)


def test_every_role_is_deployed_and_guarded() -> None:
    assert set(by_name("Deployment")) == {f"fitserve-{role}" for role in ROLES}
    assert set(by_name("PodDisruptionBudget")) == set(by_name("Deployment"))
    assert set(by_name("Job")) == {"fitserve-migrate"}
    for name, deployment in by_name("Deployment").items():
        assert deployment["spec"]["replicas"] >= 2, name
        assert pod(deployment)["topologySpreadConstraints"], name


@pytest.mark.parametrize("name", PODS)
def test_pods_have_minimal_privileges(name: str) -> None:
    spec = pod(PODS[name])
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"]
    assert "memory" in container["resources"]["limits"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted["secrets"] == "/run/secrets"
    (secret,) = [volume["secret"] for volume in spec["volumes"] if volume["name"] == "secrets"]
    keys = {item["key"] for item in secret.get("items", [{"key": "all"}])}
    assert keys == (
        {"all"} if name == "fitserve-api" else {"fitserve_database_url", "fitserve_redis_url", "fitserve_blob_url"}
    )
    assert all("emptyDir" in volume or "secret" in volume for volume in spec["volumes"]), "nothing on a machine's disk"


def test_selectors_find_their_pods() -> None:
    labels = {
        name: manifest["spec"]["template"]["metadata"]["labels"] for name, manifest in by_name("Deployment").items()
    }
    for name, service in by_name("Service").items():
        assert service["spec"]["selector"].items() <= labels[name].items()
        ports = {port["name"] for port in pod(by_name("Deployment")[name])["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for name, budget in by_name("PodDisruptionBudget").items():
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels[name].items()
    for rule in by_name("Ingress")["fitserve"]["spec"]["rules"][0]["http"]["paths"]:
        service = by_name("Service")[rule["backend"]["service"]["name"]]
        assert rule["backend"]["service"]["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


def test_workers_of_a_gang_reach_each_other_and_nobody_else_reaches_them() -> None:
    (container,) = pod(by_name("Deployment")["fitserve-worker"])["containers"]
    env = {one["name"]: one for one in container["env"]}
    assert env["FITSERVE_CLUSTER_HOST"]["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"
    ports = Settings(cluster_ports=env["FITSERVE_CLUSTER_PORTS"]["value"]).cluster_ports
    members = by_name("Service")["fitserve-worker"]["spec"]
    assert members["clusterIP"] == "None"
    workers = {"matchLabels": members["selector"]}
    policy = by_name("NetworkPolicy")["fitserve-worker"]["spec"]
    assert policy["podSelector"] == workers
    metrics, gang = policy["ingress"]
    assert metrics == {"ports": [{"port": 9101}]}
    assert gang["from"] == [{"podSelector": workers}]
    assert [f"{one['port']}-{one['endPort']}" for one in gang["ports"]] == [ports]


def test_workers_scale_on_queue_age_and_predictions_on_cpu() -> None:
    scalers = by_name("HorizontalPodAutoscaler")
    (worker,) = scalers["fitserve-worker"]["spec"]["metrics"]
    name = worker["external"]["metric"]["name"]
    series = {family.name for family in telemetry.REGISTRY.collect()}
    assert name in series
    rules = yaml.safe_load(Path(FILE.parent, "queue-age.yaml").read_text())["rules"]["external"]
    assert [rule["name"]["as"] for rule in rules] == [name]
    (predict,) = scalers["fitserve-predict"]["spec"]["metrics"]
    assert predict["resource"]["name"] == "cpu"
    for scaler, found in scalers.items():
        assert by_name("Deployment")[scaler]["spec"]["replicas"] == found["spec"]["minReplicas"]


def test_a_worker_has_time_to_hand_its_run_back() -> None:
    assert pod(by_name("Deployment")["fitserve-worker"])["terminationGracePeriodSeconds"] > Settings().graceful_seconds
