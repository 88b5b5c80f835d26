"""Coverage of intervals and sets, and calibration before and after, on the tables of `bench-accuracy`.

    python -m benchmarks.coverage [--tables iris wine] [--seeds 3] [--rows 3000] [--epochs 60]

A fifth of each table's rows is kept aside; the default recipe trains on the rest. A coverage is within its bounds where
a binomial distribution of so many rows is not further away in 99% of cases; that of sets may be above. The calibration
rows are a sample as well, so their number widens the bounds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.accuracy.tables import TABLES, Loaded, load
from fitserve import conformal
from fitserve.artifacts import onnx_session
from fitserve.conformal import RowFacts
from fitserve.encoder import Encoder
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import parse
from fitserve.target_encoder import TargetEncoder
from workers.trainer.export.export import serve
from workers.trainer.interface import TrainingRequest
from workers.trainer.train import train

LEVELS = (0.8, 0.9, 0.95)
BOUND = 2.576  # standard errors


class Silent:
    """A reporter that reports nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: ""


def measure(loaded: Loaded, seed: int, rows: int, epochs: int, folder: Path) -> dict[str, Any]:
    """Train on four fifths of a table's rows, at most `rows` of them. Returns the figures of the others."""
    table, order = loaded.table, np.random.default_rng(seed).permutation(loaded.rows.num_rows)
    count = round(0.2 * len(order))
    kept_rows, used = loaded.rows.take(np.sort(order[:count])), loaded.rows.take(np.sort(order[count : count + rows]))
    training = {"seed": seed, "epochs": epochs}
    spec = {"dataset": "data", "target": {"column": table.target, "task": table.task}, "training": training}
    facts = loaded.facts(used.num_rows)
    pq.write_table(used, folder / "table.parquet")
    resolved = resolve(parse({**spec, "time_budget": None}), facts).spec.to_json()
    request = TrainingRequest("run", 1, resolved, facts.model_dump(mode="json"), folder / "table.parquet", folder)
    result = train(request, Silent())
    encoder, targets = (
        Encoder.from_json(result.manifest["encoder"]),
        TargetEncoder.from_json(result.manifest["targets"]),
    )
    served = serve(onnx_session(result.files["onnx"]), encoder, kept_rows)
    (target,) = targets.targets
    truth = targets.encode(kept_rows)[target.name]
    found: dict[str, Any] = {"table": table.name, "seed": seed, "rows": count, "coverage": {}}
    kept = result.manifest["conformal"][target.name]
    facts_of_rows = RowFacts(feeds=encoder.encode(kept_rows))
    promises = conformal.Conformal(result.manifest)
    one_width = conformal.Conformal(
        {**result.manifest, "conformal": {target.name: {k: v for k, v in kept.items() if k != "by_row"}}}
    )
    y = target.inverse(truth.astype(np.float64)).reshape(count) if table.task == "regression" else truth.reshape(count)
    for level in LEVELS:
        (bounds,) = promises.bounds(served, level, facts_of_rows)
        inside = bounds.covers(y)
        scored = kept.get("by_row", kept)["rows"]
        error = np.sqrt(level * (1 - level) * (1 / count + 1 / scored))
        share, is_set = float(inside.mean()), bounds.members is not None
        within = level - BOUND * error <= share and (is_set or share <= level + BOUND * error + 2 / scored)
        found["coverage"][str(level)] = {"share": round(share, 4), "within": bool(within)}
        if "by_row" in kept:
            (other,) = one_width.bounds(served, level)
            found.setdefault("width_ratio", {})[str(level)] = round(
                float(bounds.sizes().mean() / other.sizes().mean()), 3
            )
    if table.task != "regression":
        found["ece"] = calibration_error(served[target.name], y.astype(int))
    calibration = result.result["calibration"].get(target.name)
    if calibration is not None:
        found["calibration"] = {"method": calibration["method"], "why": calibration["why"]}
        if calibration["method"] is not None:
            change = calibration["change"]["calibration_error"]
            ends = {when: round(calibration[when]["calibration_error"], 4) for when in ("before", "after")}
            interval = change["interval"] or [0.0, 0.0]
            found["calibration"] |= {**ends, "worse": interval[0] > 0, "better": change["difference"] < 0}
    return found


def calibration_error(served: Any, truth: Any) -> dict[str, Any]:
    """Return the expected calibration error, and how large it is by chance where probabilities hold exactly."""
    shares = np.asarray(served, np.float64)
    shares = np.hstack([1 - shares, shares]) if shares.shape[1] == 1 else shares / shares.sum(axis=1, keepdims=True)
    confidence, likeliest = shares.max(axis=1), shares.argmax(axis=1)
    bins = np.minimum((confidence * 10).astype(int), 9)

    def error(right: Any) -> float:
        return float(np.abs(np.bincount(bins, confidence - right, minlength=10)).sum() / len(right))

    random = np.random.default_rng(0)
    chance = [error(random.random(len(truth)) < confidence) for _ in range(500)]
    own = error(likeliest == truth)
    return {
        "served": round(own, 4),
        "by_chance_95": round(float(np.quantile(chance, 0.95)), 4),
        "holds": bool(own <= np.quantile(chance, 0.95)),
    }


def main() -> None:
    """Measure, print a line for each table and seed, and the counts as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="*", default=[table.name for table in TABLES])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    arguments = parser.parse_args()
    figures = []
    for seed in range(arguments.seeds):
        for table in [one for one in TABLES if one.name in arguments.tables]:
            with tempfile.TemporaryDirectory() as scratch:
                loaded = load(table, arguments.data, Path(scratch) / "load")
                folder = Path(scratch) / "run"
                folder.mkdir()
                figures.append(measure(loaded, seed, arguments.rows, arguments.epochs, folder))
            print(json.dumps(figures[-1]), flush=True)
    cells = [one for figure in figures for one in figure["coverage"].values()]
    calibrated = [one for figure in figures if (one := figure.get("calibration")) and one["method"]]
    narrower = [figure["width_ratio"]["0.9"] for figure in figures if "width_ratio" in figure]
    print(
        json.dumps(
            {
                "by_row": len(narrower),
                "width_ratio_90": round(float(np.mean(narrower)), 3) if narrower else None,
                "coverage_cells": len(cells),
                "coverage_within": sum(one["within"] for one in cells),
                "classified": len([figure for figure in figures if "ece" in figure]),
                "probabilities_hold": sum(figure["ece"]["holds"] for figure in figures if "ece" in figure),
                "calibrated": len(calibrated),
                "ece_better": sum(one["better"] for one in calibrated),
                "ece_worse": sum(one["worse"] for one in calibrated),
            }
        )
    )


if __name__ == "__main__":
    main()
