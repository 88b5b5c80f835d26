"""A kept epoch, end to end: requested in a spec, trained by a worker, labelled, served, never collected."""

from __future__ import annotations

import json

import httpx2
import numpy as np

from fitserve import db
from fitserve.blobs import open_store
from fitserve.runs import blob_references
from fitserve.tables import Run
from tests.conftest import Server
from tests.journey.test_journey import wait
from tests.predict.toy_registry import eventually
from tests.waiting import PATIENCE


def table() -> str:
    x = np.random.default_rng(0).normal(size=(80, 2))
    return "a,b,y\n" + "".join(f"{a:.4f},{b:.4f},{'yes' if a * b > 0 else 'no'}\n" for a, b in x)


SPEC = {
    "dataset": "epochs",
    "target": "y",
    "network": [{"Dense": {"units": 4, "activation": "tanh"}}],
    "training": {"epochs": 6, "keep_epochs": [2, 4], "optimizer": {"Adam": {"learning_rate": 0.1}}},
    "model": "epochs",
}


def test_from_the_spec_to_a_label(server: Server) -> None:
    api = httpx2.Client(base_url=server.base_url + "/api/v1", headers=server.headers, timeout=PATIENCE)
    assert api.put("/datasets/epochs", content=table(), headers={"Content-Type": "text/csv"}).status_code == 201
    refused = api.post("/runs", json={**SPEC, "training": {"epochs": 3, "keep_epochs": [2, 9]}})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/training/keep_epochs"
    run = api.post("/runs", json=SPEC).json()
    run = wait(api, run["id"])
    assert run["state"] == "succeeded", run["error"]
    artifacts = run["result"]["kept_epochs"]
    assert sorted(artifacts) == ["2", "4"]

    absent = api.put("/models/epochs/labels/epoch-3", json={"version": 1, "epoch": 3})
    assert (absent.status_code, "2, 4" in absent.text) == (404, True)
    labelled = api.put("/models/epochs/labels/epoch-2", json={"version": 1, "epoch": 2})
    assert labelled.json()["artifact"] == artifacts["2"]

    predict = httpx2.Client(base_url=server.predict_url, headers=server.headers, timeout=PATIENCE)
    rows = {"instances": [{"a": 0.5, "b": 0.5}, {"a": -1.0, "b": 1.0}]}
    path = "/v1/models/epochs/labels/epoch-2:predict"
    eventually(lambda: predict.post(path, json=rows).status_code == 200)
    early, late = predict.post(path, json=rows), predict.post("/v1/models/epochs:predict", json=rows)
    assert (early.headers["x-model-version"], early.headers["x-model-label"]) == ("1", "epoch-2")
    assert "x-model-label" not in late.headers
    assert early.json() != late.json()

    engine = db.make_engine(f"sqlite:///{server.home / 'fitserve.db'}")
    blobs = open_store(f"file://{server.home / 'blobs'}")
    with db.reading(engine) as session:
        referred = set(blob_references.referenced_blobs(session, blobs))
        assert session.get(Run, run["id"]).result["kept_epochs"] == artifacts
    for artifact in artifacts.values():  # with a label and without one
        files = set(blob_references.find_digests(json.loads(blobs.read(artifact))))
        assert len(files & {path for path, _ in blobs.listing()}) >= 2  # the networks' own files
        assert {one for one in files if blobs.exists(one)} <= referred
    engine.dispose()
    assert api.delete("/models/epochs").status_code == 204
