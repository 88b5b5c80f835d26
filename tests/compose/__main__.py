"""`make compose-test`: build the images and run docker-compose.yml: upload, train, predict, scale, kill, upgrade.

The images' other contents are used in containers too (gRPC, plots, Parquet, S3, traces), and Prometheus must reach all.

Needs root for podman. If no image can be pulled, `tests/compose/standins.sh FOLDER` creates stand-ins first.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from typing import Any

import httpx2

from fitserve.ids import new_id
from tests.compose import parts
from tests.compose.engine import Engine, EngineMissing, engine, until
from tests.compose.load import Load
from tests.conftest import free_ports
from tests.journey.test_journey import ROWS, SPEC, circle

POINTS = [{"x": 0.1, "y": -0.2, "colour": "red"}, {"x": 4.8, "y": 4.7, "colour": "blue"}]
LONG = {**SPEC, "training": {"epochs": 2500, "batch_size": 16, "seed": 1}, "model": "long"}
OURS = ("api", "predict", "worker", "reaper")
ALL_IMAGE = "localhost/fitserve-all:old"
DNS_SECONDS = 4.0  # longer than the proxy caches an address


def log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


class Deployment:
    """docker-compose.yml in operation, used from outside."""

    def __init__(self, engine: Engine, port: int, prometheus: int, new_images: dict[str, str]) -> None:
        self.engine, self.new_images = engine, new_images
        self.base, self.prometheus = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{prometheus}"
        self.figures: dict[str, Any] = {}

    def up(self) -> None:
        started = time.monotonic()
        self.engine.compose("up", "-d", "--no-build")
        until(self._asks_for_a_key, 60, "the API behind the proxy")
        self.figures["up_s"] = round(time.monotonic() - started, 1)
        printed = self.engine.compose("logs", "--no-color", "secrets")
        token = printed.split("first key (shown only once):")[1].split()[0]
        self.http = httpx2.Client(base_url=self.base, headers={"Authorization": f"Bearer {token}"}, timeout=30)

    def _asks_for_a_key(self) -> bool:
        with contextlib.suppress(httpx2.TransportError):  # the proxy may not listen yet
            return httpx2.get(f"{self.base}/api/v1/limits").status_code == 401
        return False

    def get(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()

    def submit(self, spec: dict[str, Any]) -> str:
        return str(self.http.post("/api/v1/runs", json=spec).raise_for_status().json()["id"])

    def run(self, run_id: str) -> Any:
        return self.get(f"/api/v1/runs/{run_id}")

    def finish(self, run_id: str, seconds: float = 300) -> Any:
        run = until(lambda: self._over(run_id), seconds, f"{run_id} over")
        assert run["state"] == "succeeded", run
        return run

    def _over(self, run_id: str) -> Any:
        run = self.run(run_id)
        return run if run["state"] in ("succeeded", "failed", "cancelled") else None

    def training_worker(self, run_id: str) -> str:
        """Return the container of the worker that trains this run, once it has reported an epoch."""
        until(lambda: self._trains(run_id), 120, f"{run_id} running")
        (postgres,) = self.engine.containers("postgres")
        query = f"SELECT worker FROM runs WHERE id = '{run_id}'"
        worker = self.engine.run("exec", postgres, "psql", "-U", "fitserve", "-d", "fitserve", "-tAc", query).strip()
        (container,) = [one for one in self.engine.containers("worker") if one[:12] in worker]
        return container

    def _trains(self, run_id: str) -> Any:
        run = self.run(run_id)
        assert run["state"] in ("queued", "running"), run
        return run if run["state"] == "running" and self.get(f"/api/v1/runs/{run_id}/epochs")["items"] else None

    def scale(self, service: str, count: int, **images: str) -> list[str]:
        """Start replicas in addition to existing ones; return all, once they are healthy."""
        self.engine.compose(
            "up", "-d", "--no-build", "--no-deps", "--no-recreate", "--scale", f"{service}={count}", service, **images
        )
        until(lambda: self._healthy(service, count), 120, f"{count} healthy {service}")
        return self.engine.containers(service)

    def _healthy(self, service: str, count: int) -> bool:
        containers = self.engine.containers(service)
        return len(containers) == count and all(map(self.engine.is_healthy, containers))


def inspect_containers(deployment: Deployment) -> None:
    """Check: non-root, read-only, no capabilities, healthy, a bill of materials, TensorFlow in one image only."""
    engine = deployment.engine
    for service in OURS:
        container = engine.containers(service)[0]
        details = engine.inspect(container)
        assert details["HostConfig"]["ReadonlyRootfs"], service
        assert engine.run("exec", container, "id", "-u").strip() == "10001", service
        status = engine.run("exec", container, "cat", "/proc/1/status")
        assert "CapEff:\t0000000000000000" in status, service
        assert "NoNewPrivs:\t1" in status, service
        assert engine.fails("exec", container, "touch", "/app/x"), service
        assert engine.fails("exec", container, "touch", "/opt/fitserve/x"), service
        until(lambda container=container: engine.is_healthy(container), 60, f"{service} healthy")
        names = {part["name"].lower().replace("_", "-") for part in bill_of_materials(engine, container, "sbom")}
        assert {"sqlalchemy", "pyarrow"} <= names, service
        assert ("tensorflow-cpu" in names) == (service in ("worker", "reaper")), service
    (api,) = engine.containers("api")
    assert engine.fails("exec", api, "python3", "-c", "import tensorflow")
    assert bill_of_materials(engine, api, "sbom-dashboard")
    for path in ("/metrics", "/livez", "/readyz"):
        assert deployment.http.get(path).status_code == 404, path


def bill_of_materials(engine: Engine, container: str, name: str) -> list[dict[str, Any]]:
    document = json.loads(engine.run("exec", container, "cat", f"/opt/fitserve/{name}.cdx.json"))
    assert document["bomFormat"] == "CycloneDX"
    return list(document["components"])


def journey(deployment: Deployment) -> None:
    """Upload, train and predict through the proxy."""
    http = deployment.http
    uploaded = http.put("/api/v1/datasets/circle", content=circle(), headers={"Content-Type": "text/csv"})
    assert uploaded.status_code == 201, uploaded.text
    assert uploaded.json()["rows"] == ROWS
    run_id = deployment.submit(SPEC)
    deployment.finish(run_id)
    until(lambda: classify(http).status_code == 200, 30, "the prediction")
    results = classify(http).json()["results"]
    assert dict(results[0])["in"] > 0.5 > dict(results[1])["in"], results
    assert http.get("/").status_code == 200
    parts.upload_parquet(http)
    parts.plots(http, run_id)


def use_parts(deployment: Deployment) -> None:
    """Use what no request through the proxy uses."""
    engine = deployment.engine
    deployment.figures["modules_imported"] = parts.imports(engine)
    parts.grpc_infer(engine, deployment.http.headers["Authorization"])
    image = engine.environment["FITSERVE_SERVER_IMAGE"]
    parts.s3_store(engine, image)
    parts.traces(engine, image)


def one_container(deployment: Deployment) -> None:
    """Try the image for trying out: one process tree without root, one volume, which outlives the container."""
    engine = deployment.engine
    deployment.figures["all_image_mb"] = round(engine.build("all", ALL_IMAGE, "old") / 1e6)
    name = new_id("fitserve-all")
    ports = free_ports(2)
    addresses = [f"http://127.0.0.1:{port}" for port in ports]
    published = ["-p", f"127.0.0.1:{ports[0]}:8000", "-p", f"127.0.0.1:{ports[1]}:8501"]
    start = ["run", "-d", "--name", name, *published, "-v", f"{name}:/var/lib/fitserve", ALL_IMAGE]
    try:
        engine.run(*start)
        until(lambda: all(map(is_ready, addresses)), 180, "everything in one container")
        assert engine.run("exec", name, "id", "-u").strip() == "10001"
        assert "commit" in engine.run("exec", name, "fitserve", "--version")
        key = engine.run("exec", name, "cat", "/var/lib/fitserve/first-key").strip()
        api, predict = (
            httpx2.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=30)
            for address in addresses
        )
        assert "/assets/" in api.get("/").text
        api.put("/api/v1/datasets/circle", content=circle(), headers={"Content-Type": "text/csv"}).raise_for_status()
        run_id = api.post("/api/v1/runs", json=SPEC).raise_for_status().json()["id"]
        until(lambda: api.get(f"/api/v1/runs/{run_id}").json()["state"] == "succeeded", 180, "the run's success")
        until(lambda: classify(predict).status_code == 200, 30, "the prediction")
        before = classify(predict).json()
        engine.run("stop", "--time", "40", name)
        assert engine.inspect(name)["State"]["ExitCode"] == 0
        engine.run("rm", name)
        engine.run(*start)
        until(lambda: all(map(is_ready, addresses)), 180, "another container on the same volume")
        until(lambda: classify(predict).status_code == 200, 30, "the prediction again")
        assert classify(predict).json() == before
    finally:
        engine.fails("rm", "-f", name)
        engine.fails("volume", "rm", name)


def is_ready(address: str) -> bool:
    try:
        return httpx2.get(f"{address}/readyz").status_code == 200
    except httpx2.HTTPError:
        return False


def classify(http: httpx2.Client) -> httpx2.Response:
    return http.post("/v1/models/circle:classify", json={"examples": POINTS})


def scale_and_kill(deployment: Deployment) -> None:
    """Kill the training one of two workers; the other takes over its run."""
    deployment.scale("worker", 2)
    log("two workers")
    run_id = deployment.submit(LONG)
    holder = deployment.training_worker(run_id)
    started = time.monotonic()
    deployment.engine.run("kill", "--signal", "KILL", holder)
    log(f"killed worker {holder[:12]}")
    until(lambda: deployment.run(run_id)["attempt"] > 1 or deployment._over(run_id), 60, "another attempt")
    deployment.figures["taken_over_s"] = round(time.monotonic() - started, 1)
    run = deployment.finish(run_id)
    assert run["attempt"] == 2, run
    deployment.engine.run("rm", "-f", holder)
    deployment.scale("worker", 2)


def upgrade(deployment: Deployment) -> None:
    """Upgrade as in docs/how-to/upgrade.md: migrations, then one service after another, under load."""
    engine, images = deployment.engine, deployment.new_images
    run_id = deployment.submit(LONG)
    deployment.training_worker(run_id)
    with Load(deployment.base, deployment.http.headers["Authorization"]) as load:
        engine.compose("up", "-d", "--no-build", "--no-deps", "migrate", **images)
        assert engine.run("wait", *engine.containers("migrate", include_stopped=True)).strip() == "0"
        for service in ("predict", "api"):
            old = engine.containers(service)
            both = deployment.scale(service, 2 * len(old), **images)
            time.sleep(DNS_SECONDS)
            for container in old:
                engine.run("stop", "--time", "15", container)
                engine.run("rm", container)
            assert all(engine.inspect(one)["Config"]["Labels"]["release"] == "new" for one in set(both) - set(old))
            log(f"{service} upgraded; {load.count} requests so far, {len(load.failures)} failed")
        engine.compose("up", "-d", "--no-build", "--no-deps", "--scale", "worker=2", "worker", "reaper", **images)
        until(lambda: deployment._healthy("worker", 2), 120, "the new workers")
        run = deployment.finish(run_id)
    deployment.figures |= {"upgrade_requests": load.count, "upgrade_failed": len(load.failures)}
    assert load.count > 100
    assert not load.failures, load.failures[:5]
    assert run["spent_attempts"] == 0, run  # returned to the queue, not lost
    for service in OURS:
        for container in engine.containers(service):
            assert engine.inspect(container)["Config"]["Labels"]["release"] == "new", service


def check_prometheus(deployment: Deployment) -> None:
    """Check that Prometheus reaches exactly our containers and evaluates every rule."""
    engine = deployment.engine
    expected = {service: sorted(map(engine.address, engine.containers(service))) for service in OURS}

    def query(path: str, **parameters: str) -> Any:
        return httpx2.get(f"{deployment.prometheus}/api/v1/{path}", params=parameters).json()["data"]

    def up() -> dict[str, list[str]]:
        targets = query("targets", state="active")["activeTargets"]
        by_job = {job: [one for one in targets if one["labels"]["job"] == job] for job in expected}
        if any(one["health"] != "up" for one in targets):
            return {}
        return {job: sorted(one["labels"]["instance"].split(":")[0] for one in those) for job, those in by_job.items()}

    until(lambda: up() == expected, 120, f"every process scraped: {expected}")
    deployment.figures["scraped"] = {service: len(those) for service, those in expected.items()}

    def rules() -> list[str]:
        return [rule["health"] for group in query("rules")["groups"] for rule in group["rules"]]

    until(lambda: set(rules()) == {"ok"}, 60, "every rule evaluated")
    deployment.figures["rules_ok"] = len(rules())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the images")
    parser.add_argument("--built", action="store_true", help="use the images left by --keep")
    args = parser.parse_args()
    project = new_id("fitservetest")[-20:].replace("_", "")
    ports = free_ports(2)
    tags = {
        "FITSERVE_SERVER_IMAGE": "localhost/fitserve-server",
        "FITSERVE_WORKER_IMAGE": "localhost/fitserve-worker",
    }
    variables = {"FITSERVE_HTTP_PORT": str(ports[0]), "PROMETHEUS_PORT": str(ports[1])}
    variables |= {name: f"{tag}:old" for name, tag in tags.items()}
    try:
        with engine(project, variables) as engine_here:
            deployment = Deployment(engine_here, *ports, {name: f"{tag}:new" for name, tag in tags.items()})
            started = time.monotonic()
            for target in ("server", "worker"):
                tag = f"localhost/fitserve-{target}"
                size = engine_here.size(f"{tag}:old") if args.built else engine_here.build(target, f"{tag}:old", "old")
                deployment.figures[f"{target}_image_mb"] = round(size / 1e6)
                engine_here.relabel(f"{tag}:old", f"{tag}:new", "new")
            if not args.built:
                deployment.figures["build_s"] = round(time.monotonic() - started, 1)
            log(f"built: {deployment.figures}")
            assert deployment.figures["server_image_mb"] < 600
            deployment.up()
            log(f"up in {deployment.figures['up_s']} s")
            try:
                for step in (
                    journey,
                    use_parts,
                    inspect_containers,
                    scale_and_kill,
                    check_prometheus,
                    upgrade,
                    check_prometheus,
                    one_container,
                ):
                    started = time.monotonic()
                    step(deployment)
                    deployment.figures[f"{step.__name__}_s"] = round(time.monotonic() - started, 1)
                    log(f"{step.__name__}: passed")
            except BaseException:
                print(engine_here.compose("logs", "--no-color", "--tail", "60"), file=sys.stderr)
                raise
            deployment.figures["engine"] = engine_here.command
            if not args.keep:
                engine_here.down()  # running containers keep their images in use
                for tag in tags.values():
                    engine_here.run("rmi", f"{tag}:old", f"{tag}:new")
                engine_here.run("rmi", ALL_IMAGE)
    except EngineMissing as missing:
        print(missing, file=sys.stderr)
        return 2
    print(json.dumps(deployment.figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
