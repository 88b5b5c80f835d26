"""Every method of the client, against the real server."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from safetensors.numpy import load_file

from fitserve.client import AsyncClient, Client, RunEnded, WaitedTooLong
from fitserve.client.runs import Run
from fitserve.errors import BadInput, Conflict, Forbidden, NotFound, Unauthenticated
from tests.client.conftest import ROWS, SPEC, circle
from tests.conftest import Server
from tests.waiting import PATIENCE

# The server as a whole


def test_the_server_describes_itself(client: Client, server: Server) -> None:
    assert client.ready()["status"] == "ready"
    assert client.limits()["rows"] > 1000
    assert client.spec_schema()["properties"]["network"]
    assert "fitserve_http_requests_total" in client.telemetry()
    assert "fitserve_predict" in client.telemetry("predict")
    assert client._connection.address.predict_url == server.predict_url
    assert server.token not in repr(client)


def test_a_wrong_key_is_refused(server: Server) -> None:
    with Client(server.base_url, "key_nobody.secret") as stranger, pytest.raises(Unauthenticated):
        list(stranger.runs.list())


# Datasets


def test_datasets_go_up_and_come_down_as_frames(client: Client, tmp_path: Path) -> None:
    frame = circle(60)
    path = tmp_path / "Round Trip.csv"
    frame.to_csv(path, index=False)
    sizes: list[tuple[int, int | None]] = []
    dataset = client.datasets.upload(path, progress=lambda sent, size: sizes.append((sent, size)))
    assert (dataset.name, dataset.rows) == ("round-trip", 60)
    assert sizes[-1] == (path.stat().st_size, path.stat().st_size)
    assert client.datasets.upload(path).id == dataset.id

    pd.testing.assert_frame_equal(dataset.to_pandas(), frame, check_dtype=False)
    assert dataset.to_polars(5).equals(pl.from_pandas(frame.head(5)))
    assert list(dataset.iter_rows(2)) == frame.head(2).to_dict("records")
    whole = client.datasets.get(dataset.ref)
    assert {column.name: column.kind for column in whole.columns} == {
        "x": "numeric",
        "y": "numeric",
        "colour": "categorical",
        "side": "categorical",
    }
    assert whole.profile().columns["x"]
    assert {relation.column for relation in whole.relations("side")} == {"x", "y", "colour"}
    assert "round-trip@1" in whole._repr_html_()
    assert dataset.ref in [one.ref for one in client.datasets.list()]
    assert len(list(client.datasets.list(1))) == 1


def test_every_kind_of_table_uploads(client: Client) -> None:
    frame = circle(40)
    for data in (frame, pl.from_pandas(frame), frame.to_csv(index=False).encode(), io.BytesIO(b"a,b\n1,2\n3,4\n")):
        assert client.datasets.upload(data, f"held-{uuid.uuid4().hex[:8]}").rows in (40, 2)
    with pytest.raises(BadInput, match="needs a name"):
        client.datasets.upload(frame)


def test_kinds_are_corrected_and_options_reach_the_reader(client: Client) -> None:
    text = b"zip;n\n12345;1,5\n23456;-\n34567;2,5\n"
    dataset = client.datasets.upload(
        text, "options", kinds={"zip": "categorical"}, delimiter=";", decimal=",", missing=["-"]
    )
    assert [(c.name, c.kind, c.missing) for c in client.datasets.get("options").columns] == [
        ("zip", "categorical", 0),
        ("n", "numeric", 1),
    ]
    changed = dataset.change(kinds={"zip": "ignored"})
    assert (changed.version, changed.parent_id) == (2, dataset.id)


def test_rows_are_appended_tables_come_down_and_versions_go(client: Client, tmp_path: Path) -> None:
    first = client.datasets.upload(b"a,b\n1,x\n2,y\n", "growing")
    second = first.append(b"a,b\n3,x\n")
    assert (second.rows, second.version, second.parent_id) == (3, 2, first.id)
    assert pl.read_parquet(second.download(tmp_path)).height == 3
    assert second.download(tmp_path / "t.csv", "csv").read_text().startswith("a,b\n1,x\n")
    second.delete()
    assert client.datasets.get("growing").version == 1


def test_a_bad_table_names_row_and_column(client: Client) -> None:
    with pytest.raises(BadInput) as caught:
        client.datasets.upload(b"a,b\n1,2\n3\n", "ragged")
    assert caught.value.problems[0].row == 2
    assert "row 2" in str(caught.value)
    with pytest.raises(NotFound):
        client.datasets.get("no-such-dataset")


def test_samples_are_listed_and_made(client: Client) -> None:
    samples = {item.sample: item for item in client.datasets.samples()}
    assert {"circle", "spiral"} <= set(samples)
    made = client.datasets.sample("spiral", "my-spiral", noise=5, rows=50, seed=1)
    assert (made.name, made.rows) == ("my-spiral", 50)


# Runs


def test_a_run_is_created_awaited_and_inspected(client: Client, trained: Run) -> None:
    assert (trained.state, trained.ended, trained.version, trained.dataset) == (
        "succeeded",
        True,
        1,
        "client-circle@1",
    )
    assert trained.scores("test")["accuracy"] > 0.6
    again = client.runs.get(trained.id)
    assert again.resolved["training"]["epochs"] == 25
    history = trained.history()
    assert (history.trials, len(history), len(list(trained.epochs(trial=1)))) == ([0, 1], 50, 25)
    assert history.curve("loss", 1)[-1][1] < history.curve("loss", 1)[0][1]
    assert list(history.to_pandas()["epoch"][:3]) == [1, 2, 3]
    assert history.to_polars().height == 50
    assert "<svg" in history._repr_html_()
    assert trained.id in trained._repr_html_()
    assert trained.id in [run.id for run in client.runs.list(state="succeeded", model="client-circle")]
    assert len(list(client.runs.list(limit=1))) == 1


def test_a_frame_is_trained_on_and_asked_in_one_call(client: Client) -> None:
    frame = circle()
    trained = client.train(frame, "side", name="client-frame", network=SPEC["network"], training=SPEC["training"])
    assert set(trained.predict(frame[:20])) <= {"in", "out"}


def test_events_come_in_order_and_resume(trained: Run) -> None:
    events = list(trained.events())
    assert [e.data["state"] for e in events if e.type == "state"][-2:] == ["running", "succeeded"]
    assert sum(e.type == "metrics" for e in events) == 50
    assert [e.id for e in events] == sorted({e.id for e in events})
    middle = events[len(events) // 2].id
    assert [e.id for e in trained.events(after=middle)] == [e.id for e in events if e.id > middle]
    assert list(trained.events(after=events[-1].id)) == []


def test_plots_are_figures(trained: Run) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    assert matplotlib
    figure = trained.plot()
    assert {axes.get_title() for axes in figure.axes} >= {"loss"}
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_the_same_idempotency_key_makes_one_run(client: Client, trained: Run) -> None:
    key = uuid.uuid4().hex
    spec = {**SPEC, "dataset": trained.dataset, "training": {"epochs": 1}}
    first = client.runs.create(spec, idempotency_key=key)
    assert client.runs.create(spec, idempotency_key=key).id == first.id
    with pytest.raises(Conflict):
        client.runs.create(spec, idempotency_key=key, training={"epochs": 2})
    first.wait(PATIENCE)


def test_specs_come_as_files_text_parts_and_keras_models(client: Client, trained: Run, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(f"dataset: {trained.dataset}\ntarget: side\ntraining: {{epochs: 7}}\n")
    assert client.runs.validate(path).resolved["training"]["epochs"] == 7
    assert client.runs.validate(path.read_text(), training={"epochs": 8}).resolved["training"]["epochs"] == 8

    class Model:  # as a Keras model: its to_json() is all that is used
        def to_json(self) -> str:
            layers = [
                {"name": "d", "units": 5, "activation": "relu"},
                {"name": "o", "units": 1, "activation": "sigmoid"},
            ]
            dense = {"module": "keras.layers", "class_name": "Dense", "registered_name": None}
            config = {"name": "s", "layers": [{**dense, "config": layer} for layer in layers]}
            made = {"module": "keras", "class_name": "Sequential", "config": config, "registered_name": None}
            return json.dumps(made)

    checked = client.runs.validate(dataset=trained.dataset, target="side", network=Model())
    assert [row.name for row in checked.summary if row.layer == "Dense"] == ["d", "o"]
    assert checked.estimates.parameters > 0


def test_a_keras_models_weights_begin_a_run(client: Client, trained: Run, tmp_path: Path) -> None:
    class Layer:
        def __init__(self, name: str, *shapes: tuple[int, ...]) -> None:
            self.name, self._arrays = name, [np.full(shape, 0.25, np.float32) for shape in shapes]

        def get_weights(self) -> list[Any]:
            return self._arrays

    class Model:  # as much of a Keras model as is used
        layers = (Layer("body", (2, 3), (3,)), Layer("drop"), Layer("end", (3, 1), (1,)))

        def to_json(self) -> str:
            parts = [
                ("Dense", "body", {"units": 3}),
                ("Dropout", "drop", {"rate": 0.1}),
                ("Dense", "end", {"units": 1}),
            ]
            layers = [
                {"module": "keras.layers", "class_name": kind, "config": {"name": name, **own}}
                for kind, name, own in parts
            ]
            layers[-1]["config"]["activation"] = "sigmoid"
            return json.dumps({"module": "keras", "class_name": "Sequential", "config": {"layers": layers}})

        def get_weights(self) -> list[Any]:
            return [array for layer in self.layers for array in layer.get_weights()]

    spec = {
        "dataset": trained.dataset,
        "target": "side",
        "features": {"x": "standardize", "y": "standardize"},
        "training": {"epochs": 1, "optimizer": {"SGD": {"learning_rate": 0.0}}},
    }
    begun = client.runs.create(
        spec, network=Model(), weights=True, initial_weights={"freeze": "body"}, model="client-begun"
    )
    initial = begun.resolved["initial_weights"]
    (kept,) = [one for one in client.weights.list() if one.id == initial["upload"]]
    assert (kept.parameters, initial["freeze"], initial["encoding"]) == (13, ["body"], "fit")
    assert client.weights.get(kept.id).tensors["body/0"] == [2, 3]
    begun.wait(PATIENCE)
    path = client.models.download("client-begun", 1, tmp_path, "weights")
    assert path.name == "client-begun-1.safetensors"
    assert {name: float(array.max()) for name, array in load_file(path).items()} == dict.fromkeys(
        ("body/0", "body/1", "end/0", "end/1"), 0.25
    )
    client.weights.delete(kept.id)
    with pytest.raises(NotFound):
        client.weights.get(kept.id)
    again = client.runs.create(begun.resolved, training={**begun.resolved["training"], "seed": 1})
    assert again.wait(PATIENCE).resolved["initial_weights"] == initial  # what a run of ours holds can be named again
    with pytest.raises(BadInput, match="has no weights"):
        client.runs.create(spec, network=[{"Dense": 3}], weights=True)
    wrong = {"body/0": np.ones((3, 3)), "body/1": np.ones(3), "end/0": np.ones((3, 1)), "end/1": np.ones(1)}
    with pytest.raises(BadInput, match=r"is \[2, 3\]; in the upload .* it is \[3, 3\]"):
        client.runs.create(spec, network=Model(), initial_weights=client.weights.upload(wrong).id)


def test_a_refused_spec_points_at_what_is_wrong(client: Client, trained: Run) -> None:
    with pytest.raises(BadInput) as caught:
        client.runs.create(dataset=trained.dataset, target="sid", network=[{"Dens": 3}])
    assert any("/network" in (problem.pointer or "") for problem in caught.value.problems)
    with pytest.raises(NotFound):
        client.runs.create(dataset="no-such-dataset", target="side")


def test_cancel_wait_retry_and_reproduce(client: Client, trained: Run) -> None:
    slow = client.runs.create({**SPEC, "dataset": trained.dataset}, training={"epochs": 500_000})
    with pytest.raises(WaitedTooLong, match="continues"):
        slow.wait(0.3)
    slow.cancel()
    with pytest.raises(RunEnded, match="cancelled") as caught:
        slow.wait(PATIENCE)
    assert caught.value.extra["state"] == "cancelled"
    assert slow.wait(PATIENCE, check=False).state == "cancelled"
    assert slow.refresh().ended
    again = slow.retry()
    assert again.parent_id == slow.id
    again.cancel().wait(PATIENCE, check=False)
    same = trained.reproduce().wait(PATIENCE)
    assert same.reproduction is not None
    assert same.reproduction.equal


def test_a_fork_goes_on_from_an_epoch(client: Client, trained: Run) -> None:
    """Its two trials trained stacked, which differs from one network alone by rounding."""
    base = client.runs.create(SPEC, dataset=trained.dataset).wait(
        PATIENCE
    )  # a fork of a model's run is a version of it
    before = [one.logs for one in base.epochs(trial=(base.result or {})["best_trial"])]
    forked = base.fork(2, learning_rate=0.0005, epochs=4).wait(PATIENCE)
    after = [one.logs for one in forked.epochs()]
    assert forked.parent_id == base.id
    assert len(after) == 4
    assert all(new == pytest.approx(old, rel=1e-3) for new, old in zip(after[:2], before[:2], strict=True))
    assert [one["learning_rate"] for one in after[2:]] == pytest.approx([0.0005] * 2)
    assert [one["after"] for one in forked.spec["training"]["switches"]] == [2], "its author's words, and the change"
    twice = forked.fork(3, optimizer="SGD", learning_rate=0.2, epochs=5)
    assert [one["after"] for one in twice.resolved["training"]["switches"]] == [2, 3]
    assert twice.resolved["training"]["switches"][1]["optimizer"]["SGD"]["learning_rate"] == 0.2
    twice.cancel().wait(PATIENCE, check=False)
    for wrong, names in (({"epoch": 99, "learning_rate": 0.1}, f"1 to {len(before)}"), ({"epoch": 1}, "learning_rate")):
        with pytest.raises(BadInput) as refused:
            base.fork(**wrong)
        assert names in str(refused.value.expected)
    with pytest.raises(BadInput) as caught:
        base.fork(1, optimizer="Adm")
    assert (caught.value.pointer or "").startswith("/training/switches/0/optimizer")


def test_insight_is_typed(trained: Run) -> None:
    assert [finding.n for finding in trained.findings()] == list(range(1, len(trained.findings()) + 1))
    assert trained.evaluation().part == "test"
    assert trained.complexity().kept_epoch >= 1
    assert {item["column"] for item in trained.importance().items} == {"x", "y", "colour"}
    assert trained.hardest().rows > 0
    assert trained.surface("x", "y").x.column == "x"
    assert trained.lineage().run == trained.id
    assert set(trained.explain(ROWS[0]).contributions) == {"x", "y", "colour"}


# Models


def test_predictions_come_for_frames_lists_and_arrays(client: Client, trained: Run) -> None:
    answers = client.models.classify("client-circle", ROWS)
    assert answers.labels == ["in", "out"]
    assert answers[0]["in"] == pytest.approx(1 - answers[0]["out"], abs=1e-6)
    assert (answers.model, answers.version, len(answers)) == ("client-circle", 1, 2)
    numbers = client.models.predict("client-circle", pd.DataFrame(ROWS), version=1)
    assert np.asarray(numbers).shape == (2, 1)
    assert numbers.to_pandas()["prediction"].tolist() == [item[0] for item in numbers]
    assert client.models.predict("client-circle", pl.DataFrame(ROWS)).items == numbers.items
    assert client.models.predict("client-circle", [[0.1, -0.2, "red"], [4.8, 4.7, "blue"]]).items == numbers.items
    assert answers.to_polars().columns == ["in", "out"]
    assert "<table>" in answers._repr_html_()
    assert client.models.status("client-circle") == {"1": "AVAILABLE"}
    assert client.models.signature("client-circle")["name"] == "client-circle"
    assert len(client.models.explain("client-circle", ROWS)["explanations"]) == 2


def test_models_are_promoted_rolled_back_downloaded_and_changed(client: Client, trained: Run, tmp_path: Path) -> None:
    name = "client-lifecycle"
    spec = {**SPEC, "dataset": trained.dataset, "model": name, "training": {"epochs": 2}}
    versions = [
        client.runs.create(spec, training={"epochs": 2, "seed": seed}).wait(PATIENCE).version for seed in (1, 2)
    ]
    assert versions == [1, 2]
    model = client.models.get(name)
    assert (model.serving, [version.version for version in model.versions]) == (2, [2, 1])
    assert client.models.promote(name, 1).version == 1
    assert client.models.promote(name, 2).previous == 1
    assert client.models.rollback(name).version == 1
    assert client.models.promote(name, 2, "canary", weight=0.25).weight == 0.25
    assert {label.label for label in model.refresh().labels} == {"champion", "canary"}
    with pytest.raises(Conflict):
        client.models.retire(name, 2)
    client.models.remove_label(name, "canary")
    assert client.models.retire(name, 2).retired_at is not None
    assert name in model._repr_html_()
    assert name in [one.name for one in client.models.list()]
    assert client.models.change(name, shared=True).shared

    path = client.models.download(name, 1, tmp_path)
    assert (path.name, path.read_bytes()[:2]) == (f"{name}-1.keras", b"PK")
    manifest = client.models.manifest(name, 1)
    digest = hashlib.sha256(client.models.download(name, 1, tmp_path / "m.onnx", "onnx").read_bytes()).hexdigest()
    assert digest == manifest["onnx"]["sha256"]
    with pytest.raises(NotFound):
        client.models.download(name, 9, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    client.models.delete(name)
    with pytest.raises(NotFound):
        client.models.get(name)


def test_a_whole_dataset_is_predicted_as_a_run(client: Client, trained: Run) -> None:
    run = client.runs.get(client.models.predict_dataset("client-circle", trained.dataset, name="predicted").id)
    run.wait(PATIENCE)
    assert run.kind == "prediction"
    assert client.datasets.get("predicted").rows == 240


def test_a_bad_row_is_refused(client: Client, trained: Run) -> None:
    with pytest.raises(BadInput):
        client.models.predict("client-circle", [{"x": "no number", "y": 1, "colour": "red"}])
    with pytest.raises(BadInput, match="no rows"):
        client.models.predict("client-circle", [])
    with pytest.raises(BadInput):
        client.models.regress("client-circle", ROWS)
    with pytest.raises(NotFound):
        client.models.predict("no-such-model", ROWS)


# Keys


def test_keys_are_made_used_and_revoked(client: Client, server: Server, trained: Run) -> None:
    key = client.keys.create(f"k-{uuid.uuid4().hex[:8]}", ["predict"], models=["client-circle"])
    with Client(server.base_url, key.token, predict_url=server.predict_url) as limited:
        for _ in range(100):  # the prediction service learns of a key within a second or so
            try:
                assert len(limited.models.predict("client-circle", ROWS)) == 2
                break
            except Unauthenticated:
                time.sleep(0.05)
        with pytest.raises(Forbidden):
            list(limited.runs.list())
    assert key.id in [one.id for one in client.keys.list()]
    assert client.keys.revoke(key.id).revoked_at is not None


# The same, awaited


def test_the_asynchronous_client_has_the_same_methods(server: Server, trained: Run) -> None:
    async def main() -> None:
        async with AsyncClient(server.base_url, server.token) as client:
            dataset = await client.datasets.upload(circle(50), "async-circle")
            assert (await dataset.to_pandas(3)).shape == (3, 4)
            run = await client.runs.create({**SPEC, "dataset": dataset.ref}, training={"epochs": 3})
            kinds = [event.type async for event in run.events()]
            assert kinds.count("metrics") == 3
            await run.wait(PATIENCE)
            assert run.state == "succeeded"
            assert len(await run.history()) == 3
            assert run.id in [one.id async for one in client.runs.list(limit=20)]
            answers = await asyncio.gather(*(client.models.predict("client-circle", ROWS) for _ in range(8)))
            assert len({str(answer.items) for answer in answers}) == 1
            with pytest.raises(NotFound):
                await client.datasets.get("no-such-dataset")

    asyncio.run(main())
