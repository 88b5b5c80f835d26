"""Coverage of intervals and sets, and calibration before and after, on the tables of `bench-accuracy` and five more.

    python -m benchmarks.coverage [--tables iris wine] [--seeds 3] [--rows 3000] [--epochs 60] [--plain] [--kept FOLDER]

A fifth of each table's rows is kept aside; the default recipe trains on the rest (`--plain`: the bare network of a
first course). With n rows aside and m calibration rows of which k lie within the limits, the rows covered follow a
beta-binomial distribution (n, k, m + 1 - k): a binomial one whose probability varies as the calibration rows do. A
table, seed and level (a cell) is within its bounds if this distribution is not further away in 99% of cases, so one in
a hundred is outside by chance. `below_all` and `above_all` count those outside the bounds that all cells together keep
in 99% of cases (Bonferroni). The coverage of sets may be above: their scores are tied, and none is empty.

Calibration errors are of the rows kept aside, those of all seeds of a table together. Their difference, after minus
before, has a 95% interval by a bootstrap of these rows. With `--kept`, each table and seed is written down there, and
not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from benchmarks.accuracy.tables import TABLES, Loaded, Table, load
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

MORE = (  # too wide or long for `bench-accuracy`, or another column of one of its tables
    Table("sms_spam", "type", "binary", False, (), "sms_spam.csv"),
    Table("mnist_10k", "label", "multiclass", False, (), "mnist_10k.csv.gz"),
    Table("imdb_train", "sentiment", "binary", False, (), "imdb_train.csv.gz"),
    Table("kddcup99", "label", "multiclass", False, (), "kddcup99_10pct.csv.gz"),
    Table("auto_mpg_origin", "origin", "multiclass", False, ("name",), "auto_mpg.csv"),
)
LEVELS = (0.8, 0.9, 0.95)
OUTSIDE = 0.01  # share of cells, or chance of any cell, beyond the bounds
BINS, DRAWS = 10, 1000
MAX_ASIDE = 5000  # rows


class Silent:
    """A reporter that reports nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: ""


def measure(loaded: Loaded, seed: int, rows: int, spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Train on four fifths of a table's rows, at most `rows` of them. Returns the figures of the others."""
    table, order = loaded.table, np.random.default_rng(seed).permutation(loaded.rows.num_rows)
    count = min(round(0.2 * len(order)), MAX_ASIDE)
    aside, used = loaded.rows.take(np.sort(order[:count])), loaded.rows.take(np.sort(order[count : count + rows]))
    facts = loaded.facts(used.num_rows)
    pq.write_table(used, folder / "table.parquet")
    resolved = resolve(parse({**spec, "time_budget": None}), facts).spec.to_json()
    request = TrainingRequest("run", 1, resolved, facts.model_dump(mode="json"), folder / "table.parquet", folder)
    result = train(request, Silent())
    encoder, targets = (
        Encoder.from_json(result.manifest["encoder"]),
        TargetEncoder.from_json(result.manifest["targets"]),
    )
    served = serve(onnx_session(result.files["onnx"]), encoder, aside)
    (target,) = targets.targets
    truth = targets.encode(aside)[target.name].reshape(count, -1)
    found: dict[str, Any] = {"table": table.name, "seed": seed, "rows": count}
    if table.task == "regression":
        y = target.inverse(truth.astype(np.float64))[:, 0]
    else:
        y = (truth[:, 0] if truth.shape[1] == 1 else truth.argmax(axis=1)).astype(np.int64)
    found |= covered(result.manifest, target.name, served, y, RowFacts(feeds=encoder.encode(aside)))
    if table.task != "regression":
        calibrated = _shares(served[target.name])
        entry = result.manifest["calibration"].get(target.name) or {"method": None, "why": "no held-out rows"}
        found["calibration"] = {key: entry[key] for key in ("method", "why")} | {
            "temperature": entry.get("temperature")
        }
        found["before"] = _confidence(uncalibrated(calibrated, entry), y)
        found["after"] = _confidence(calibrated, y)
    return found


def covered(manifest: Mapping[str, Any], name: str, served: Any, y: Any, facts: RowFacts) -> dict[str, Any]:
    """Return the coverage of rows by level, and the ratio of the mean width to one width for all rows."""
    kept = manifest["conformal"][name]
    promises = conformal.Conformal(manifest)
    one_width = conformal.Conformal(
        {**manifest, "conformal": {name: {key: value for key, value in kept.items() if key != "by_row"}}}
    )
    found: dict[str, Any] = {"coverage": {}}
    for level in LEVELS:
        (bounds,) = promises.bounds(served, level, facts)
        inside, is_set = bounds.covers(y), bounds.members is not None
        scored = kept.get("by_row", kept)
        if scored["rows"] < conformal.rows_needed("binary" if is_set else "regression", level):
            scored = kept  # one width for all rows
        found["coverage"][str(level)] = {
            "share": round(float(inside.mean()), 4),
            "inside": int(inside.sum()),
            "gaps": gaps_within(scored, level, is_set),
            "scored": scored["rows"],
            "is_set": is_set,
        }
        if "by_row" in kept:
            (other,) = one_width.bounds(served, level)
            ratio = float(bounds.sizes().mean() / other.sizes().mean())
            found.setdefault("width_ratio", {})[str(level)] = round(ratio, 3)
    return found


def gaps_within(scores: Mapping[str, Any], level: float, is_set: bool) -> int:
    """Return how many of the gaps between calibration scores lie within a level's limits.

    A new row's score falls into each gap equally often. A limit is rounded outwards to a score that is kept.
    """
    ranks, rows = np.asarray(scores["ranks"]), scores["rows"]
    tail = 0.0 if is_set else (1 - level) / 2
    high = np.ceil((rows + 1) * (level if is_set else 1 - tail) - 1e-9)
    high = int(ranks[np.searchsorted(ranks, min(high, rows))])
    if is_set:
        return high
    low = max(np.floor((rows + 1) * tail + 1e-9), 1)
    return high - int(ranks[np.searchsorted(ranks, low, side="right") - 1])


def outside(figures: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count the cells below and above their own bounds, and below and above the joint bounds of all cells."""
    cells = [(figure["rows"], cell) for figure in figures for cell in figure["coverage"].values()]
    counts = {"below": 0, "above": 0, "below_all": 0, "above_all": 0}
    for rows, cell in cells:
        covered_rows = stats.betabinom(rows, cell["gaps"], cell["scored"] + 1 - cell["gaps"])
        below, above = covered_rows.cdf(cell["inside"]), covered_rows.sf(cell["inside"] - 1)
        for end, share in (("", OUTSIDE / 2), ("_all", OUTSIDE / 2 / len(cells))):
            counts["below" + end] += bool(below < share)
            counts["above" + end] += bool(above < share and not cell["is_set"])
    return counts


def uncalibrated(shares: Any, entry: Mapping[str, Any]) -> Any:
    """Return probabilities as they were before temperature scaling."""
    if entry["method"] is None:
        return shares
    (temperature,) = entry["temperature"]
    powers = np.maximum(shares, 1e-30) ** temperature
    return powers / powers.sum(axis=1, keepdims=True)


def _shares(served: Any) -> Any:
    shares = np.asarray(served, np.float64)
    return np.hstack([1 - shares, shares]) if shares.shape[1] == 1 else shares / shares.sum(axis=1, keepdims=True)


def _confidence(shares: Any, y: Any) -> dict[str, list[float]]:
    """Return each row's probability of its likeliest label, whether that is right, and its log loss."""
    own = shares[np.arange(len(y)), y]
    return {
        "confidence": np.round(shares.max(axis=1), 7).tolist(),
        "right": (shares.argmax(axis=1) == y).astype(int).tolist(),
        "log_loss": np.round(-np.log(np.maximum(own, 1e-12)), 7).tolist(),
    }


def calibration_error(confidence: Any, right: Any, weights: Any) -> Any:
    """Return the expected calibration error of the likeliest label over ten bins, for each row of weights."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.where(bins[:, None] == np.arange(BINS), (right - confidence)[:, None], 0.0)
    return np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1)


def compared(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what calibration changes on a table's rows of all seeds."""
    before, after = (
        {key: np.concatenate([cell[when][key] for cell in cells]) for key in cells[0][when]}
        for when in ("before", "after")
    )
    rows, random = len(before["right"]), np.random.default_rng(0)
    draws = [np.ones(rows), *(np.bincount(random.integers(0, rows, rows), minlength=rows) for _ in range(DRAWS))]
    errors = [
        np.concatenate(
            [calibration_error(own["confidence"], own["right"], np.array(part)) for part in np.array_split(draws, 20)]
        )
        for own in (before, after)
    ]
    change = errors[1] - errors[0]
    low, high = np.quantile(change[1:], [0.025, 0.975])
    chance = [
        calibration_error(after["confidence"], random.random(rows) < after["confidence"], np.ones((1, rows)))[0]
        for _ in range(200)
    ]
    return {
        "table": cells[0]["table"],
        "rows": rows,
        "before": round(float(errors[0][0]), 4),
        "after": round(float(errors[1][0]), 4),
        "change": round(float(change[0]), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
        "by_chance_95": round(float(np.quantile(chance, 0.95)), 4),
        "log_loss": round(float((after["log_loss"] - before["log_loss"]).mean()), 5),
        "calibrated": sum(cell["calibration"]["method"] is not None for cell in cells),
    }


def main() -> None:
    """Measure, print a line for each table and seed, one for each table, and the counts as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="*", default=[table.name for table in (*TABLES, *MORE)])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--plain", action="store_true", help="preset: plain")
    parser.add_argument("--kept", type=Path, default=None, help="folder of figures, with which it goes on")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    arguments = parser.parse_args()
    figures = []
    for seed in range(arguments.seeds):
        for table in [one for one in (*TABLES, *MORE) if one.name in arguments.tables]:
            figures.append(_measured(table, seed, arguments))
            shown = {key: value for key, value in figures[-1].items() if key not in ("before", "after")}
            print(json.dumps(shown), flush=True)
    tables = [
        compared([one for one in figures if one["table"] == name])
        for name in dict.fromkeys(one["table"] for one in figures if "after" in one)
    ]
    for one in tables:
        print(json.dumps(one), flush=True)
    counts, cells = outside(figures), sum(len(figure["coverage"]) for figure in figures)
    narrower = [figure["width_ratio"]["0.9"] for figure in figures if "width_ratio" in figure]
    print(
        json.dumps(
            {
                "by_row": len(narrower),
                "width_ratio_90": round(float(np.mean(narrower)), 3) if narrower else None,
                "coverage_tables": len({figure["table"] for figure in figures}),
                "coverage_cells": cells,
                "coverage_within": cells - counts["below"] - counts["above"],
                **{f"coverage_{key}": value for key, value in counts.items()},
                "classified": len(tables),
                "ece_better": sum(one["change"] < 0 for one in tables),
                "ece_worse": sum(one["interval"][0] > 0 for one in tables),
                "ece_by_chance": sum(one["after"] <= one["by_chance_95"] for one in tables),
                "log_loss_better": sum(one["log_loss"] < 0 for one in tables),
            }
        )
    )


def _measured(table: Table, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a table and a seed, stored earlier or measured now."""
    kept = arguments.kept and arguments.kept / f"{'plain-' if arguments.plain else ''}{table.name}-{seed}.json"
    if kept and kept.exists():
        return dict(json.loads(kept.read_bytes()))
    spec = {"dataset": "data", "target": {"column": table.target, "task": table.task}}
    own = {"preset": "plain", "training": {"seed": seed}}
    spec |= own if arguments.plain else {"training": {"seed": seed, "epochs": arguments.epochs}}
    with tempfile.TemporaryDirectory() as scratch:
        loaded = load(table, arguments.data, Path(scratch) / "load")
        folder = Path(scratch) / "run"
        folder.mkdir()
        figures = measure(loaded, seed, arguments.rows, spec, folder)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.with_suffix(".new").write_text(json.dumps(figures))
        os.replace(kept.with_suffix(".new"), kept)
    return figures


if __name__ == "__main__":
    main()
