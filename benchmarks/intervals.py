"""Cost of an interval or a set of labels in addition to its prediction, over HTTP: part of `make bench-serving`.

The default networks of three tables answer the same row with and without `"interval": 0.9`, by turns.

    python -m benchmarks.intervals [--seconds 3] [--rounds 5]        the figures alone, as one JSON object
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import default_models
from benchmarks.wrk import SERVER_CORE, Side, load, median
from tests.predict.toy_registry import RunningService, ToyRegistry, run_service

LEVEL = 0.9
AT_ONCE = (1, 16)  # connections
TABLES = {  # in the second, widths follow the rows
    "interval": ("insurance.csv", "charges"),
    "by_row": ("auto_mpg.csv", "mpg"),
    "set": ("titanic.csv", "Survived"),
}


def register(toys: ToyRegistry, data: Path) -> dict[str, dict[str, Any]]:
    """Train and register the networks. Returns a row for each."""
    rows = {}
    for name, (file, target) in TABLES.items():
        model, rows[name] = default_models.default_model(data / file, target)
        toys.register(name, model)
    return rows


def figures(
    served: RunningService, rows: dict[str, dict[str, Any]], seconds: int, rounds: int, folder: Path
) -> dict[str, float]:
    """Return `interval_rate_N` and so on: requests per second at N connections, as a share of those without.

    `interval_cpu_N` and so on are the same of the server's processor time per request.
    """
    measured: dict[str, float] = {}
    for name, row in rows.items():
        path, asked = f"{served.url}/v1/models/{name}:predict", {"instances": [row], "interval": LEVEL}
        bodies = (json.dumps(asked), json.dumps({"instances": [row]}))
        sides = [Side(name, path, body, served.headers, pid=served.process.pid) for body in bodies]
        for _ in range(rounds):
            for connections in AT_ONCE:
                for side in sides:
                    load(side, connections, seconds, folder)
        for connections in AT_ONCE:
            for key, of_side in (("rate", [one.rates for one in sides]), ("cpu", [one.cpu for one in sides])):
                ratios = [a / b for a, b in zip(*(one[connections] for one in of_side), strict=True)]
                measured[f"{name}_{key}_{connections}"] = round(median(ratios), 3)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=default_models.DATA, help="folder of the tables")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        toys = ToyRegistry(Path(name) / "home")
        rows = register(toys, arguments.data)
        with run_service(toys, ("taskset", "-c", SERVER_CORE)) as served:
            print(json.dumps(figures(served, rows, arguments.seconds, arguments.rounds, Path(name))))


if __name__ == "__main__":
    main()
