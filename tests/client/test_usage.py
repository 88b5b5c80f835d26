"""Operations, resumable uploads, and a check that the tests of this folder use every method of the client."""

from __future__ import annotations

import inspect
import json
from fnmatch import fnmatchcase
from pathlib import Path

import httpx2
import pytest

from fitserve.client import Client
from fitserve.client.runs import Run
from fitserve.errors import BadInput, Conflict, NotFound
from tests.client import test_server
from tests.client.breaking_proxy import breaking_proxy
from tests.client.client_use import ClientUse, public_methods
from tests.client.conftest import ROWS
from tests.conftest import Server, get_text
from tests.waiting import PATIENCE

# Routes that the client has no method for, and why. `*` stands for anything.
NOT_IN_CLIENT = {
    "/api/v1/session": "a browser's cookie",
    "/api/v1/uploads/{upload_id}": "GET and DELETE: for people who inspect an upload; the client sends HEAD",
    "/api/v1/models/{name}/versions": "part of GET /api/v1/models/{name}",
    "/api/v1/models/{name}/versions/{number}": "part of GET /api/v1/models/{name}",
    "/api/v1/models/{name}/labels": "part of GET /api/v1/models/{name}",
    "/api/v1/runs/{run_id}/walk": "what a page draws; programs download the weights",
    "/v1/models": "TensorFlow Serving's list; models.list is fitserve's own",
    "/v2/*": "the Open Inference Protocol's own clients",
    "/livez": "a load balancer",
    "/v1/*/metadata": "models.signature gives the same",
    "/v1/models/{model}/versions/{version}*": "the address with a version or a label",
    "/v1/models/{model}/labels/{label}*": "the address with a version or a label",
    "OPTIONS /api/v1/uploads": "tus clients that ask first",
    "*/openapi.json": "documents, for generators",
}


def test_system_and_audit(client: Client, trained: Run) -> None:
    system = client.system()
    assert any(worker.alive for worker in system.workers)
    assert system.runs["succeeded"] >= 1
    assert sum(item.bytes for item in system.storage) > 0
    entries = list(client.audit(limit=5))
    assert 1 <= len(entries) <= 5
    assert entries == sorted(entries, key=lambda entry: -entry.id)
    made = list(client.audit(limit=3, search="api/v1/runs", method="POST", outcome="done", owner=entries[0].owner))
    assert made
    assert {entry.action for entry in made} == {"POST /api/v1/runs"}
    since = made[-1].created_at
    assert not list(client.audit(since=since, until=since, key_id=made[0].key_id))
    assert client.system_history("day").step == 600
    assert all(alarm.since <= alarm.seen_at for alarm in client.alarms(limit=5))
    assert client.storage()[0].bytes > 0


def test_layers_rules_and_drawn_plots_come(client: Client, trained: Run, tmp_path: Path) -> None:
    assert trained.layers(trial=0).items[0]["layers"]
    assert all(rule.threshold and rule.source for rule in client.runs.rules())
    assert trained.draw("confusion", tmp_path).read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in trained.draw("surface", tmp_path / "s.svg", x="x", y="y").read_bytes()
    with pytest.raises(BadInput):
        trained.draw("no-such-plot", tmp_path)
    with pytest.raises(NotFound):
        trained.apply_finding(99)


def test_imports_name_a_connection_that_there_is(client: Client, trained: Run) -> None:
    assert "none" not in [connection.name for connection in client.datasets.connections()]
    with pytest.raises(BadInput) as refused:
        client.datasets.import_from("imported", {"sql": {"connection": "none", "query": "SELECT 1"}}, lenient=True)
    with pytest.raises(BadInput, match="connection"):
        client.datasets.queue_import("imported", {"sql": {"connection": "none", "query": "SELECT 1"}})
    assert refused.value.problems[0].pointer == "/source/sql/connection"
    with pytest.raises(BadInput, match="was not imported"):
        client.datasets.get(trained.dataset).reimport()


def test_small_batches_become_one_version(client: Client) -> None:
    dataset = client.datasets.upload(b"a,b\n1,x\n2,y\n", "small-batches")
    for number in (3, 4, 4):
        waiting = dataset.stage(f"a,b\n{number},z\n".encode(), batch=f"batch-{number}")
    assert (waiting.batches, waiting.rows) == (2, 2) == (dataset.staged().batches, dataset.staged().rows)
    made = dataset.commit()
    assert ([row["a"] for row in made.iter_rows()], made.version) == ([1, 2, 3, 4], 2)
    assert dataset.commit().id == made.id


def test_a_dataset_is_refreshed_and_a_run_shared(client: Client, trained: Run) -> None:
    dataset = client.datasets.get(trained.dataset)
    assert dataset.change(shared=True).shared
    assert not dataset.shared
    (side,) = dataset.iter_columns("side")
    assert side in dataset.columns == list(dataset.iter_columns())
    assert dataset.refresh().shared
    assert trained.share().shared
    assert not trained.share(False).shared


def test_runs_are_annotated_found_changed_together_and_deleted(client: Client, trained: Run) -> None:
    changed = trained.annotate(name="the circle", tags=["base", "é"], notes="first try")
    assert (changed.name, changed.tags, changed.notes) == ("the circle", ["base", "é"], "first try")
    assert {"base", "é"} <= set(client.runs.tags())
    assert [run.id for run in client.runs.list(search="CIRCLE try", tags=["é"])] == [trained.id]
    assert trained.annotate(name="", tags=[], notes="").name is None
    spec = {"dataset": trained.dataset, "target": "side", "network": [{"Dense": 2}], "training": {"epochs": 1}}
    runs = [client.runs.create(spec).wait() for _ in range(2)]
    assert [run.state for run in client.runs.get_many([*(run.id for run in runs), "run_none"])] == ["succeeded"] * 2
    outcome = client.runs.bulk("tag", [*runs, "run_none"], tag="gone")
    assert (outcome.done, [one.status for one in outcome.refused]) == ([run.id for run in runs], [404])
    runs[0].delete()
    assert [run.id for run in client.runs.list(tags=["gone"])] == [runs[1].id] == list(client.runs.ids(tags=["gone"]))
    assert client.runs.bulk("delete", runs).done == [runs[1].id]
    with pytest.raises(NotFound):
        runs[1].refresh()


def test_drift_traffic_and_feedback_of_a_served_model(client: Client, trained: Run) -> None:
    answers = client.models.classify("client-circle", ROWS)
    assert client.models.drift("client-circle").model == "client-circle"
    assert client.models.traffic("client-circle").model == "client-circle"
    assert len(client.models.history("client-circle").points) == 60
    items = [
        {"id": f"row-{n}-{trained.id}", "truth": "in", "predicted": label, "version": answers.version}
        for n, label in enumerate(answers.labels)
    ]
    answer = client.models.feedback("client-circle", items)
    assert (answer.stored, answer.unknown) == (2, [])
    assert client.models.feedback("client-circle", items).repeated == 2
    assert answer.live[0].accuracy == 0.5


def test_a_decision_moves_and_comes_back(client: Client, trained: Run) -> None:
    moved = client.models.decide("client-circle", 1, threshold=0.25)
    assert [one["threshold"] for one in moved.decisions] == [0.25]
    assert client.models.decision("client-circle", 1).decisions == moved.decisions
    assert client.models.decide("client-circle", 1).decisions == []


def test_a_rollout_and_a_comparison(client: Client, trained: Run) -> None:
    spec = {"dataset": trained.dataset, "target": "side", "network": [{"Dense": 2}]}
    for seed in (1, 2):
        client.runs.create(spec, training={"epochs": 1, "seed": seed}, model="client-rollouts").wait(PATIENCE)
    client.models.promote("client-rollouts", 1)
    started = client.rollouts.start(
        "client-rollouts", 2, steps=[10, 100], hold=60, min_requests=5, guards={"errors": 0.02, "p99_ratio": None}
    )
    assert (started.base, started.to, started.share) == (1, 2, 0.1)
    assert set(started.guards) == {"errors", "prediction_drift", "live_accuracy"}
    with pytest.raises(Conflict):
        client.rollouts.start("client-rollouts", 2)
    assert client.rollouts.pause("client-rollouts", started.id).state == "paused"
    assert client.rollouts.resume("client-rollouts", started.id).state == "running"
    (step,) = client.rollouts.get("client-rollouts", started.id).steps
    assert step.share == 0.1
    assert client.rollouts.abort("client-rollouts", started.id).state == "aborted"
    compared = client.rollouts.compare("client-rollouts", 2, share=40)
    assert (compared.kind, compared.share, compared.hold, compared.guards) == ("ab", 0.4, None, {})
    assert client.rollouts.promote("client-rollouts", compared.id).state == "succeeded"
    assert [one.id for one in client.rollouts.list("client-rollouts")] == [compared.id, started.id]
    ended = client.rollouts.wait("client-rollouts", compared.id, 1).reason
    assert ended == {"why": "promoted", "detail": "Promoted by hand.", "step": 0, "comparison": []}
    with pytest.raises(TimeoutError):
        client.rollouts.wait("client-rollouts", client.rollouts.compare("client-rollouts", 1).id, 0)


def test_a_webhook_is_told_of_events(client: Client, trained: Run) -> None:
    assert "run.failed" in client.webhooks.event_types()
    assert any(event.data["run"] == trained.id for event in client.webhooks.events(type="run.succeeded", limit=200))
    made = client.webhooks.create("https://8.8.8.8/hook", events=["run.*"], description="first")
    assert made.secret
    assert client.webhooks.get(made.id).description == "first"
    assert not client.webhooks.change(made.id, description="second", enabled=False).enabled
    client.webhooks.change(made.id, enabled=True)
    tested = client.webhooks.test(made.id)
    assert [one.id for one in client.webhooks.deliveries(made.id, limit=5)] == [tested.id]
    try:
        assert client.webhooks.redeliver(made.id, tested.id).state == "pending"
    except Conflict:
        pass  # it is under way: there is no network here
    assert client.webhooks.channels() == []
    assert made.id in [one.id for one in client.webhooks.list()]
    client.webhooks.delete(made.id)
    with pytest.raises(NotFound):
        client.webhooks.get(made.id)


def test_an_automation_is_made_rehearsed_and_ended(client: Client, trained: Run) -> None:
    policy = {"on": {"schedule": "0 3 1 1 *"}, "do": {"champion": "client-circle"}, "gate": {}, "then": "notify"}
    made = client.automations.create("yearly", policy)
    assert (made.model, made.enabled, made.policy.then) == ("client-circle", True, "notify")
    assert client.automations.get("yearly").id == made.id
    assert client.automations.rehearse(made.id).ticks == client.automations.rehearse(policy).ticks
    assert list(client.automations.history(made.id)) == []
    changed = client.automations.change(made.id, enabled=False, policy={**policy, "then": "nothing"})
    assert (changed.enabled, changed.next_at, changed.policy.then) == (False, None, "nothing")
    with pytest.raises(Conflict):
        client.automations.create("yearly", policy)
    assert made.id in [one.id for one in client.automations.list()]
    client.automations.delete(made.id)
    with pytest.raises(NotFound):
        client.automations.get(made.id)


def test_slices_and_the_groups_of_protected_columns(client: Client, trained: Run) -> None:
    slices = trained.slices()
    assert {column["column"] for column in slices.columns} <= {"x", "y", "colour"}
    assert trained.slices(column="x").columns == [column for column in slices.columns if column["column"] == "x"]
    with pytest.raises(NotFound):
        trained.slices(column="nothing")
    assert trained.fairness().items == []
    assert client.models.fairness("client-circle", 1).items == []


def test_a_trial_of_a_search_is_the_same_to_the_bit_as_a_run_of_its_own(client: Client, trained: Run) -> None:
    spec = {"dataset": trained.dataset, "target": "side", "network": [{"Dense": 3}, {"Dropout": 0.2}]}
    rates = {"Adam": {"learning_rate": {"search": [0.01, 0.1]}}}
    run = client.runs.create(spec, training={"epochs": 2, "optimizer": rates}, search={"sampler": "grid"}).wait(
        PATIENCE
    )
    trials = run.trials()
    assert sorted(trial.state for trial in trials) == ["succeeded", "succeeded"]
    best = min(trials, key=lambda trial: trial.value or 0.0)
    assert client.runs.validate(run.trial_spec(best.trial)).resolved == client.runs.validate(run.best_spec()).resolved
    alone = client.runs.create(run.trial_spec(1)).wait(PATIENCE)
    own, again = ([row for row in one.history() if row["trial"] == trial] for one, trial in ((run, 1), (alone, 0)))
    assert [{**row, "trial": 0, "seconds": 0} for row in own] == [{**row, "seconds": 0} for row in again]


def test_a_resumable_upload_resumes_after_a_broken_connection(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "pieces.csv"
    path.write_text("a,b\n" + "".join(f"{row},{row % 7}\n" for row in range(1_000_000)))
    sizes: list[int] = []
    size = path.stat().st_size
    assert size > 8 * 1024 * 1024  # more than a piece
    with breaking_proxy(server.base_url, up=[3_000_000, 4_000_000]) as url, Client(url, server.token) as client:
        made = client.datasets.upload(path, resumable=True, progress=lambda sent, _: sizes.append(sent))
        assert (made.name, made.rows) == ("pieces", 1_000_000)
        with pytest.raises(BadInput):
            client.datasets.upload(b"", "nothing", resumable=True)
    assert sizes == sorted(sizes)
    assert sizes[-1] == size
    assert 0 < sizes[0] < 4_100_000  # what arrived before the break was not sent again


def test_an_unknown_upload_is_not_found(server: Server) -> None:
    with httpx2.Client(headers=server.headers, timeout=PATIENCE) as http:
        assert http.head(f"{server.base_url}/api/v1/uploads/up_nobody").status_code == NotFound.status


def test_every_method_and_route_is_used(server: Server, client_use: ClientUse) -> None:
    """Runs after the other tests of this folder; alone it cannot know."""
    names = [name for name, _ in inspect.getmembers(test_server, inspect.isfunction) if name.startswith("test_")]
    missed = {f"{test_server.__name__}.{name}" for name in names} - client_use.tests
    if missed:
        pytest.skip(f"needs the tests of this folder to have run here: {sorted(missed)[:3]}")
    assert public_methods().keys() - client_use.methods == set()
    documents = [f"{server.base_url}/api/v1/openapi.json", f"{server.predict_url}/openapi.json"]
    unrequested = [
        f"{verb.upper()} {template}"
        for url in documents
        for template, verbs in json.loads(get_text(url))["paths"].items()
        for verb in verbs
        if not client_use.requested(template, verb)
        and not any(
            fnmatchcase(asked, part) for part in NOT_IN_CLIENT for asked in (template, f"{verb.upper()} {template}")
        )
    ]
    assert unrequested == []
