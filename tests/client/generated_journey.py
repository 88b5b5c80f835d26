"""A program of somebody who has generated both clients by openapi-python-client: upload, run, wait, predict.

Run beside the packages `control` and `predict`, by an interpreter that has what these need.
"""

from __future__ import annotations

import json
import os
import time

from control import AuthenticatedClient as ControlClient
from control.api.datasets import create_api_v1_datasets_post as upload
from control.api.runs import get_run_api_v1_runs_run_id_get as get_run
from control.api.runs import submit_api_v1_runs_post as submit
from control.models import CreateApiV1DatasetsPostFilesBody, SubmitApiV1RunsPostJsonBody
from control.types import File
from predict import AuthenticatedClient as PredictClient
from predict.api.predictions import classify, predict
from predict.models import ExamplesRequest, ExamplesRequestRow, PredictRequest, PredictRequestRow

token = os.environ["FITSERVE_API_KEY"]
control = ControlClient(os.environ["FITSERVE_URL"], token)
rows = [(x / 10, y / 10) for x in range(-10, 10) for y in range(-5, 5)]
table = "x,y,side\n" + "".join(f"{x},{y},{'right' if x > y else 'left'}\n" for x, y in rows)
form = CreateApiV1DatasetsPostFilesBody(File(table.encode(), "sides.csv", "text/csv"), "generated-sides")
dataset = upload.sync(client=control, body=form)
spec = {"dataset": dataset.name, "target": "side", "model": "generated-sides", "training": {"epochs": 3}}
run = submit.sync(client=control, body=SubmitApiV1RunsPostJsonBody.from_dict(spec))
while run.state not in ("succeeded", "failed", "cancelled"):
    time.sleep(0.2)
    run = get_run.sync(run.id, client=control)
predictions = PredictClient(os.environ["FITSERVE_PREDICT_URL"], token)
row = {"x": 0.9, "y": -0.4}
asked = PredictRequest([PredictRequestRow.from_dict(row), [-0.9, 0.4]])
until = time.monotonic() + 60
while not hasattr(answer := predict.sync("generated-sides", client=predictions, body=asked), "predictions"):
    assert time.monotonic() < until, answer  # the prediction service hears of a model at its next poll
    time.sleep(0.2)
labels = classify.sync("generated-sides", client=predictions, body=ExamplesRequest([ExamplesRequestRow.from_dict(row)]))
print(json.dumps([dataset.rows, run.state, len(answer.predictions), sorted(label for label, _ in labels.results[0])]))
