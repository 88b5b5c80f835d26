"""Runs over HTTP: a real API and a real worker with a fake trainer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from fitserve import db
from fitserve.queue import Publisher
from fitserve.runs import create, finish, lease, listing, trial_runs
from fitserve.runs.listing import RunFilter
from fitserve.settings import Limits
from tests.faults.chaos import Chaos, FaultPlan
from tests.faults.cluster import Cluster
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.xdist_group("faults")

SPEC = {"dataset": "points", "target": "label", "network": [{"Dense": 4}], "training": {"epochs": 3}, "model": "points"}
TERMINAL = ("succeeded", "failed", "cancelled")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("api") / "home") as made:
        made.start("worker")
        Chaos(FaultPlan(seed=0, runs=0), made).wait_for_api(made.start("api"))
        yield made


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[httpx2.Client]:
    port = cluster.members[-1].environment["FITSERVE_PORT"]
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=PATIENCE) as client:
        rows = "".join(f"{n % 7},{n % 3},{'yes' if n % 7 > 3 else 'no'}\n" for n in range(60))
        made = client.put("/datasets/points", content=f"a,b,label\n{rows}", headers={"Content-Type": "text/csv"})
        assert made.status_code == 201, made.text
        yield client


def wait(api: httpx2.Client, run_id: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        run: dict[str, Any] = api.get(f"/runs/{run_id}").json()
        return run if run["state"] in TERMINAL else None

    return dict(wait_until(ended, f"the end of {run_id}"))


def slow_run(cluster: Cluster, epochs: int = 8, seconds: float = 0.1) -> str:
    """Create and publish a run of the anonymous owner for the fake trainer."""
    spec = {"fake": {"epochs": epochs, "seed": 1, "seconds": seconds}}
    new = create.NewRun("anonymous", cluster.dataset_id, spec, spec, {})
    run = create.create_run(cluster.engine, new, Limits())[0]
    publisher = Publisher(cluster.settings)
    publisher.publish(run.id)
    publisher.close()
    return run.id


def test_a_spec_becomes_a_run_with_every_default_filled_in(api: httpx2.Client) -> None:
    accepted = api.post("/runs", json=SPEC)
    assert accepted.status_code == 202, accepted.text
    body = accepted.json()
    assert accepted.headers["Location"] == f"/api/v1/runs/{body['id']}"
    assert body["spec"]["training"] == {"epochs": 3}
    assert body["resolved"]["training"]["optimizer"]
    done = wait(api, body["id"])
    assert (done["state"], done["model"], done["result"]["version"]) == ("succeeded", "points", 1)
    assert done["progress"]["epoch"] == 3
    assert [epoch["epoch"] for epoch in api.get(f"/runs/{body['id']}/epochs").json()["items"]] == [1, 2, 3]
    again = api.post("/runs", json=done["resolved"])
    assert again.status_code == 202, again.text
    assert again.json()["resolved"] == done["resolved"]


def test_a_spec_may_be_yaml(api: httpx2.Client) -> None:
    text = "dataset: points\ntarget: label\ntraining: {epochs: 2}\n"
    accepted = api.post("/runs", content=text, headers={"Content-Type": "application/yaml"})
    assert accepted.status_code == 202, accepted.text


def test_validate_only_queues_nothing(api: httpx2.Client) -> None:
    before = len(api.get("/runs").json()["items"])
    checked = api.post("/runs", params={"validate_only": "true"}, json=SPEC)
    assert checked.status_code == 200, checked.text
    assert set(checked.json()) == {"valid", "resolved", "summary", "estimates", "warnings", "search"}
    assert len(api.get("/runs").json()["items"]) == before


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"target": "lable"}, 422, "label"),
        ({"dataset": "nothing"}, 404, "nothing"),
        ({"network": [{"Lambda": {"function": "x"}}]}, 422, "Lambda"),
        ({"training": {"epochs": 10**12}}, 422, "epochs"),
    ],
)
def test_an_invalid_spec_is_refused_before_it_is_queued(
    api: httpx2.Client, change: dict[str, Any], status: int, text: str
) -> None:
    refused = api.post("/runs", json=SPEC | change)
    assert refused.status_code == status, refused.text
    assert refused.headers["content-type"] == "application/problem+json"
    assert text in refused.text


def test_an_idempotency_key_repeats_its_request_only(api: httpx2.Client) -> None:
    headers = {"Idempotency-Key": "once"}
    first = api.post("/runs", json=SPEC, headers=headers)
    second = api.post("/runs", json=SPEC, headers=headers)
    assert second.status_code == 202
    assert (second.json()["id"], second.headers["Idempotency-Replayed"]) == (first.json()["id"], "true")
    other = api.post("/runs", json=SPEC | {"model": "other"}, headers=headers)
    assert (other.status_code, other.json()["type"]) == (409, "urn:fitserve:problem:idempotency-key-reused")
    assert api.post("/runs?priority=3", json=SPEC, headers=headers).status_code == 409


def test_a_queued_run_has_a_position_and_can_be_cancelled(api: httpx2.Client, cluster: Cluster) -> None:
    blocker = slow_run(cluster, epochs=60)
    cluster.wait_epoch(blocker, 1)
    first, second = (api.post("/runs", json=SPEC).json()["id"] for _ in range(2))
    urgent = api.post("/runs", params={"priority": 9}, json=SPEC).json()["id"]
    places = [api.get(f"/runs/{run_id}").json()["queue"] for run_id in (urgent, first, second)]
    assert [place["position"] for place in places] == [0, 1, 2]
    assert all(place["estimated_start"] for place in places)
    assert api.post(f"/runs/{first}/cancel").status_code == 200
    assert api.post(f"/runs/{first}/cancel").json()["state"] == "cancelled"
    running = api.post(f"/runs/{blocker}/cancel")
    assert (running.status_code, bool(running.json()["cancel_requested_at"])) == (202, True)
    assert wait(api, blocker)["state"] == "cancelled"
    assert wait(api, urgent)["state"] == wait(api, second)["state"] == "succeeded"
    assert api.post(f"/runs/{second}/cancel").status_code == 409


def test_retry_and_reproduce(api: httpx2.Client) -> None:
    run_id = api.post("/runs", json=SPEC).json()["id"]
    assert wait(api, run_id)["state"] == "succeeded"
    assert api.post(f"/runs/{run_id}/retry").status_code == 409
    accepted = api.post(f"/runs/{run_id}/reproduce")
    assert accepted.status_code == 202, accepted.text
    again = wait(api, accepted.json()["id"])
    assert (again["kind"], again["parent_id"], again["model"]) == ("reproduction", run_id, None)
    assert again["reproduction"] == {"epochs_compared": 3, "equal": True, "first_difference": None}


def test_lists_are_paged(api: httpx2.Client) -> None:
    first = api.get("/runs", params={"limit": 2}).json()
    assert first["next_cursor"]
    second = api.get("/runs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    ids = [run["id"] for run in first["items"] + second["items"]]
    assert ids == sorted(ids, reverse=True)
    assert len(set(ids)) == 4
    states = {run["state"] for run in api.get("/runs", params={"state": "cancelled"}).json()["items"]}
    assert states == {"cancelled"}


def test_several_runs_are_one_answer(api: httpx2.Client) -> None:
    ids = [run["id"] for run in api.get("/runs", params={"limit": 2, "state": "succeeded"}).json()["items"]][::-1]
    found = api.get("/run-details", params={"run": [ids[0], "run_none", *ids]}).json()
    assert [run["id"] for run in found] == ids, "in the order asked for, without those that are not there"
    assert found == [api.get(f"/runs/{run_id}").json() for run_id in ids]
    assert api.get("/run-details", params={"run": ["run_none"] * 101}).status_code == 422
    assert api.get("/run-details", params={"run": ["run_\x00", ids[0]]}).json()[0]["id"] == ids[0]


@pytest.mark.parametrize("path", ["/runs/nothing", "/runs/..%2f..%2fetc", "/runs/a%00b", "/runs/" + "x" * 300])
def test_an_unknown_run_is_404(api: httpx2.Client, path: str) -> None:
    for suffix in ("", "/events", "/epochs"):
        assert api.get(path + suffix).status_code == 404


# --- the event stream ---


def stream_events(
    api: httpx2.Client, run_id: str, after: int | None = None, most: int = 10_000
) -> list[dict[str, Any]]:
    """Return the events of one connection, which is closed after `most`."""
    headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": str(after)})
    events: list[dict[str, Any]] = []
    with api.stream("GET", f"/runs/{run_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        current: dict[str, str] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line and name in ("id", "event", "data"):
                current[name] = value
            elif not line and "data" in current:
                event = json.loads(current["data"])
                assert (str(event["id"]), event["type"]) == (current["id"], current["event"])
                events.append(event)
                current = {}
                if len(events) >= most:
                    break
    return events


def test_a_stream_that_reconnects_misses_nothing_and_repeats_nothing(api: httpx2.Client, cluster: Cluster) -> None:
    run_id = slow_run(cluster, epochs=12)
    received: list[dict[str, Any]] = []
    while not (received and received[-1]["data"].get("state") in TERMINAL):
        received += stream_events(api, run_id, received[-1]["id"] if received else None, most=3)
    listed = api.get(f"/runs/{run_id}/events", params={"limit": 1000}).json()["items"]
    assert received == listed
    assert [event["data"]["epoch"] for event in received if event["type"] == "metrics"] == list(range(1, 13))
    assert [event["data"]["state"] for event in received if event["type"] == "state"] == [
        "queued",
        "running",
        "succeeded",
    ]


def test_a_stream_ends_with_the_run_and_a_finished_one_is_204(api: httpx2.Client, cluster: Cluster) -> None:
    run_id = slow_run(cluster, epochs=2)
    last = stream_events(api, run_id)[-1]
    assert last["data"]["state"] == "succeeded"
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last["id"])}
    assert api.get(f"/runs/{run_id}/events", headers=headers).status_code == 204
    assert len(stream_events(api, run_id, after=0)) == len(stream_events(api, run_id))


@pytest.mark.parametrize("bad", ["x", "-1", "9" * 30, "0" * 20 + "9" * 30, "1.5"])
def test_an_invalid_last_event_id_is_refused(api: httpx2.Client, cluster: Cluster, bad: str) -> None:
    with db.reading(cluster.engine) as session:
        run_id = listing.list_runs(session, RunFilter(), limit=1)[0].id
    headers = {"Accept": "text/event-stream", "Last-Event-ID": bad}
    assert api.get(f"/runs/{run_id}/events", headers=headers).status_code == 422


def test_events_and_epochs_are_paged(api: httpx2.Client, cluster: Cluster) -> None:
    run_id = slow_run(cluster, epochs=5, seconds=0)
    wait(api, run_id)
    for noun in ("events", "epochs"):
        whole = api.get(f"/runs/{run_id}/{noun}").json()
        assert whole["next_cursor"] is None
        paged: list[Any] = []
        cursor = None
        while True:
            page = api.get(
                f"/runs/{run_id}/{noun}", params={"limit": 2} | ({"cursor": cursor} if cursor else {})
            ).json()
            paged += page["items"]
            if (cursor := page["next_cursor"]) is None:
                break
        assert paged == whole["items"]


def test_a_trial_of_another_worker_belongs_to_its_run(cluster: Cluster, api: httpx2.Client) -> None:
    spec = {"fake": {"epochs": 2, "seed": 1, "trials": 3}, "training": {"epochs": 2, "restarts": 3}}
    new = create.NewRun(
        "anonymous", cluster.dataset_id, spec, spec, {}, kind="held"
    )  # claimed below; workers do not claim this kind
    run_id = create.create_run(cluster.engine, new, Limits())[0].id
    held = lease.claim(cluster.engine, "us", lease_seconds=60, running_limit=100, kinds=("held",))
    assert held is not None
    (part_id,) = trial_runs.offer(cluster.engine, held.lease, [2])
    part = wait(api, part_id)
    assert (part["state"], part["kind"], part["parent_id"]) == ("succeeded", "trial", run_id)
    assert (part["spec"], part["queue"]) == ({"run": run_id, "trial": 2}, None)
    assert (part["progress"]["trial"], part["progress"]["epoch"]) == (2, 2)
    listed = [run["id"] for run in api.get("/runs", params={"limit": "500"}).json()["items"]]
    assert run_id in listed
    assert part_id not in listed
    for again in ("retry", "reproduce"):
        refused = api.post(f"/runs/{part_id}/{again}")
        assert refused.status_code == 409
        assert run_id in refused.json()["fix"]
    assert api.get(f"/runs/{part_id}/findings").status_code == 409
    finish.confirm_cancel(cluster.engine, held.lease)
