"""Measure the default network, by our own trainer, beside linear models and boosted trees with their defaults.

`make bench-accuracy`. Every method trains on the same 80% of a table and predicts the rest, with three seeds. Finished
cells are kept in a file (`--results`), so that a run goes on where it was stopped; delete it to measure again.

Errors: 1 - AUC (two labels), log loss (more), root mean squared error. `rank` is a method's mean rank over all cells;
`norm` its mean score, where 1 is the best method of a cell and 0 the worst; `error_vs_hgb` the geometric mean of its
error over HistGradientBoosting's. `seconds` are the processor's. All figures are given for the tables that the defaults
were chosen by, for the others (`confirm`), and for both; the last line is JSON of the latter two.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin would count as work on a busy machine

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

from benchmarks.accuracy.methods import Fold, fold_of, methods, timed
from benchmarks.accuracy.tables import TABLES, load
from benchmarks.peers import NotInstalled

SEEDS = 3
SOLVED = {"binary": 0.02, "multiclass": 0.05, "regression": 1e-9}  # errors below count as this in `error_vs_hgb`
TASKS = {table.name: table.task for table in TABLES}
Cell = dict[str, Any]


def error_of(fold: Fold, predicted: Any) -> float:
    """Return the error of predictions of the test rows."""
    if not fold.labels:
        return float(np.sqrt(np.mean((predicted - fold.truth) ** 2)))
    if len(fold.labels) == 2:
        return float(1 - roc_auc_score(fold.truth, predicted[:, 1]))
    clipped = np.clip(predicted, 1e-7, 1.0)
    return float(log_loss(fold.truth, clipped / clipped.sum(axis=1, keepdims=True), labels=range(len(fold.labels))))


def measure(arguments: argparse.Namespace) -> list[Cell]:
    """Measure the cells missing from the results, all tables with one seed before the next seed."""
    results: Path = arguments.results
    results.parent.mkdir(parents=True, exist_ok=True)
    cells = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(cell["table"], cell["seed"], cell["method"]) for cell in cells}
    for seed in range(arguments.seeds):
        for table in TABLES:
            if arguments.tables and table.name not in arguments.tables:
                continue
            wanted = {
                name: fit
                for name, fit in methods(arguments.environments).items()
                if (table.name, seed, name) not in done and (not arguments.methods or name in arguments.methods)
            }
            if not wanted:
                continue
            if table.file and not (arguments.data / table.file).exists():
                print(f"{table.name}: {table.file} is not in {arguments.data}")
                continue
            with tempfile.TemporaryDirectory() as folder:
                fold = fold_of(load(table, arguments.data, Path(folder)), seed)
                for name, fit in wanted.items():
                    cell = _cell(fold, name, fit)
                    if cell is None:
                        continue
                    cells.append(cell)
                    with results.open("a") as file:
                        file.write(json.dumps(cell) + "\n")
    return cells


def _cell(fold: Fold, name: str, fit: Any) -> Cell | None:
    try:
        predicted, seconds = timed(fit, fold)
    except NotInstalled as error:
        print(f"{name}: not measured: {error}")
        return None
    error, table = error_of(fold, predicted), fold.loaded.table
    print(f"{table.name:24s} {fold.seed} {name:12s} {error:10.4f} {seconds:7.1f} s", flush=True)
    return {
        "table": table.name,
        "development": table.development,
        "seed": fold.seed,
        "method": name,
        "error": error,
        "seconds": seconds,
    }


def figures(cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """Return the figures of each method, over the cells that all of them have."""
    names = list(dict.fromkeys(cell["method"] for cell in cells))
    by_place: dict[tuple[str, int], dict[str, Cell]] = {}
    for cell in cells:
        by_place.setdefault((cell["table"], cell["seed"]), {})[cell["method"]] = cell
    places = [found for found in by_place.values() if len(found) == len(names)]
    if not places:
        return {}
    errors = np.array([[place[name]["error"] for name in names] for place in places])
    best, worst = errors.min(axis=1, keepdims=True), errors.max(axis=1, keepdims=True)
    ranks = np.array([[1 + (row < one).sum() + ((row == one).sum() - 1) / 2 for one in row] for row in errors])
    scores = (worst - errors) / np.maximum(worst - best, 1e-12)
    against = np.full(len(names), np.nan)
    if "hgb" in names:
        # On a nearly solved table, the ratio of two tiny errors is meaningless.
        floors = np.array([[SOLVED[TASKS[next(iter(place.values()))["table"]]]] for place in places])
        floor = np.maximum(errors, floors)
        against = np.exp(np.log(floor / floor[:, [names.index("hgb")]]).mean(axis=0)) - 1
    return {
        name: {
            "rank": float(ranks[:, at].mean()),
            "norm": float(scores[:, at].mean()),
            "error_vs_hgb": float(against[at]),
            "seconds_median": statistics.median(place[name]["seconds"] for place in places),
            "cells": len(places),
        }
        for at, name in enumerate(names)
    }


def show(title: str, found: dict[str, dict[str, float]]) -> None:
    """Print a table of figures, the best rank first."""
    if not found:
        return
    print(f"\n{title}, {next(iter(found.values()))['cells']:.0f} cells")
    print(f"{'method':12s} {'rank':>6s} {'norm':>6s} {'vs HGB':>8s} {'CPU s':>7s}")
    for name, one in sorted(found.items(), key=lambda item: item[1]["rank"]):
        print(
            f"{name:12s} {one['rank']:6.2f} {one['norm']:6.3f} {one['error_vs_hgb']:+8.1%} {one['seconds_median']:7.1f}"
        )


def summary(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the content of the last line."""
    one, trees = found.get("ours", {}), found.get("catboost", {})
    return {
        "rank_ours": round(one.get("rank", np.nan), 3),
        "rank_catboost": round(trees.get("rank", np.nan), 3),
        "rank_best": round(min(other["rank"] for other in found.values()), 3) if found else np.nan,
        "norm_ours": round(one.get("norm", np.nan), 3),
        "error_vs_hgb": round(one.get("error_vs_hgb", np.nan), 4),
        "seconds_median": round(one.get("seconds_median", np.nan), 2),
        "cells": int(one.get("cells", 0)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    project = Path(__file__).resolve().parents[2]
    scratch = Path(tempfile.gettempdir()) / "fitserve-bench-accuracy"
    parser.add_argument("--data", type=Path, default=project.parent / "shared" / "data", help="folder of the tables")
    parser.add_argument("--results", type=Path, default=scratch / "cells.jsonl", help="file of the finished cells")
    parser.add_argument("--environments", type=Path, default=scratch / "environments", help="of LightGBM and CatBoost")
    parser.add_argument("--tables", nargs="*", help="only these")
    parser.add_argument("--methods", nargs="*", help="only these")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    cells = measure(arguments)
    development = [cell for cell in cells if cell["development"]]
    confirm = [cell for cell in cells if not cell["development"]]
    show("development", figures(development))
    show("confirm", figures(confirm))
    found = figures(cells)
    show("all", found)
    print(json.dumps({**summary(found), "confirm": summary(figures(confirm))}))


if __name__ == "__main__":
    main()
