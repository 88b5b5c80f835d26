"""From a CSV file to a served prediction: fitserve compared with a plain Keras script and, optionally, Ludwig.

`make bench-served`. The table has 500 rows of six numbers; the network is 128-64 with dropout, 200 epochs in batches of
100. Ours is timed from the first byte of the upload to the first prediction over HTTP, on a running system with a warm
trainer; this includes the evaluation, the exported files and the parity gate. The others are timed as they are used: a
script that reads the file, trains, saves the network, loads it again and predicts one row. `--ludwig PYTHON` names the
interpreter of an environment with Ludwig.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2
import numpy as np

from tests.conftest import Server, start_server, stop_server

COLUMNS = [f"c{place}" for place in range(6)]
SPEC = {
    "dataset": "table",
    "target": "label",
    "network": [
        {"Dense": {"units": 128, "activation": "relu"}},
        {"Dropout": {"rate": 0.2}},
        {"Dense": {"units": 64, "activation": "relu"}},
        {"Dropout": {"rate": 0.2}},
    ],
    "training": {"epochs": 200, "batch_size": 100, "seed": 0},
}

PLAIN = """
import sys
import keras
import numpy as np
import pandas as pd

path, folder = sys.argv[1:]
table = pd.read_csv(path)
y = (table.pop("label") == "yes").to_numpy("float32")
x = table.to_numpy("float32")
x = (x - x[:400].mean(0)) / x[:400].std(0)
L = keras.layers
model = keras.Sequential([keras.Input((6,)), L.Dense(128, "relu"), L.Dropout(0.2), L.Dense(64, "relu"), L.Dropout(0.2),
                          L.Dense(1, "sigmoid")])
model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
model.fit(x[:400], y[:400], batch_size=100, epochs=200, validation_data=(x[400:450], y[400:450]), verbose=0)
model.evaluate(x[450:], y[450:], verbose=0)
model.save(folder + "/model.keras")
print(float(keras.models.load_model(folder + "/model.keras").predict(x[:1], verbose=0)[0, 0]))
"""

LUDWIG = """
import sys
import pandas as pd
from ludwig.api import LudwigModel

path, folder = sys.argv[1:]
config = {
    "input_features": [{"name": f"c{i}", "type": "number"} for i in range(6)],
    "output_features": [{"name": "label", "type": "binary"}],
    "combiner": {
        "type": "concat",
        "fc_layers": [{"output_size": 128, "dropout": 0.2}, {"output_size": 64, "dropout": 0.2}],
    },
    "trainer": {"epochs": 200, "batch_size": 100, "early_stop": -1},
}
model = LudwigModel(config, logging_level=40)
model.train(dataset=path, output_directory=folder, skip_save_processed_input=True)
print(model.predict(dataset=pd.read_csv(path).head(1))[0].iloc[0].to_dict())
"""


def write_table(path: Path) -> None:
    """Write 500 rows of two classes with a curved boundary."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 6))
    label = x[:, 0] * x[:, 1] + x[:, 2] > 0.2
    rows = [
        ",".join([*(f"{value:.5f}" for value in row), "yes" if yes else "no"])
        for row, yes in zip(x, label, strict=True)
    ]
    path.write_text(",".join([*COLUMNS, "label"]) + "\n" + "\n".join(rows) + "\n")


def ours(server: Server, path: Path, number: int) -> float:
    """Return the seconds from the first byte of the upload to the first prediction."""
    model = f"served-{number}"
    api = httpx2.Client(base_url=server.base_url + "/api/v1", headers=server.headers, timeout=60)
    predict = httpx2.Client(base_url=server.predict_url, headers=server.headers, timeout=60)
    row = {"instances": [dict.fromkeys(COLUMNS, 0.5)]}
    started = time.perf_counter()
    api.put("/datasets/table", content=path.read_bytes(), headers={"Content-Type": "text/csv"}).raise_for_status()
    run = api.post("/runs", json={**SPEC, "model": model}).raise_for_status().json()["id"]
    while (state := api.get(f"/runs/{run}").json()["state"]) in ("queued", "running"):
        time.sleep(0.02)
    if state != "succeeded":
        raise SystemExit(f"the run {state}")
    while predict.post(f"/v1/models/{model}:predict", json=row).status_code != 200:
        time.sleep(0.02)
    return time.perf_counter() - started


def script(text: str, python: str, path: Path) -> float:
    """Return the seconds that a Python process takes to run this program."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run(
            [python, "-c", text, str(path), folder],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        return time.perf_counter() - started


def main() -> None:
    """Print each repetition, and as the last line one JSON object with medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ludwig", help="a Python with Ludwig installed")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"fitserve": [], "keras": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        write_table(path)
        server = start_server(Path(folder) / "home")
        try:
            ours(server, path, 0)  # warm-up: a trainer's first run is not representative
            for number in range(1, options.repeats + 1):
                seconds["fitserve"].append(ours(server, path, number))
                seconds["keras"].append(script(PLAIN, sys.executable, path))
                if options.ludwig:
                    seconds.setdefault("ludwig", []).append(script(LUDWIG, options.ludwig, path))
                print("   ".join(f"{name} {values[-1]:6.2f} s" for name, values in seconds.items()), flush=True)
        finally:
            stop_server(server)
    medians = {name: round(statistics.median(values), 2) for name, values in seconds.items()}
    ratios = {
        f"{name}_ratio": round(value / medians["fitserve"], 1) for name, value in medians.items() if name != "fitserve"
    }
    print(json.dumps({**medians, **ratios}))


if __name__ == "__main__":
    main()
