"""Slices and fairness: planted slices are found, noise is not, and rates equal those counted directly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fitserve.dataset_facts import ColumnFacts
from fitserve.decisions.fairness import fairness
from fitserve.decisions.held_out import HeldOut, HeldOutParts
from fitserve.spec.decision import DecisionOutput
from tests.trainer.requests import RecordingReporter, facts_of, request_of
from workers.trainer.insight import analysis, slice_columns, slices
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow


def _rows(rows: int, seed: int, columns: int = 0) -> tuple[list[slice_columns.SlicedColumn], np.ndarray, pa.Table]:
    random = np.random.default_rng(seed)
    table = pa.table(
        {
            "city": random.choice(["ayr", "bern", "cork", "dole"], rows).tolist(),
            "age": random.uniform(20, 80, rows),
            "name": [f"name {row}" for row in range(rows)],
            "half": [None if row % 2 else "even" for row in range(rows)],
            **{f"x{at}": random.normal(size=rows) for at in range(columns)},
        }
    )
    facts, least = facts_of(table), slices.least_rows(rows)
    found = [slice_columns.sliced(one, table.column(one.name), least) for one in facts.columns]
    return [one for one in found if one is not None], random.exponential(0.4, rows), table


def _report(columns: Any, losses: np.ndarray, seed: int = 0, seconds: float = 60) -> dict[str, Any]:
    truth = np.arange(len(losses)) % 2
    return slices.report(
        columns, slices.RowFigures("log_loss", losses, {"accuracy": losses * 0}, truth), seconds=seconds, seed=seed
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_slice_of_a_category_and_a_range_is_found(seed: int) -> None:
    columns, losses, table = _rows(2000, seed, columns=5)
    bad = (np.array(table["city"].to_pylist()) == "cork") & (table["age"].to_numpy() >= 60)
    losses[bad] += 0.9
    report = _report(columns, losses, seed)
    (worst,) = report["worst"]
    assert {one["column"] for one in worst["conditions"]} == {"city", "age"}
    by_column = {one["column"]: one for one in worst["conditions"]}
    assert by_column["city"]["equals"] == "cork"
    assert by_column["age"]["from"] == pytest.approx(60, abs=8)
    assert by_column["age"]["to"] is None
    assert worst["p_adjusted"] < 0.01
    assert worst["interval"][0] < worst["value"] < worst["interval"][1]
    assert worst["difference"] == pytest.approx(worst["value"] - worst["rest"])
    assert 0 < worst["difference_interval"][0] < worst["difference"]
    assert worst["share"] == pytest.approx(worst["rows"] / 2000)


def test_noise_has_no_worst_slices_and_no_worse_groups() -> None:
    for seed in range(12):
        columns, losses, _ = _rows(600, seed, columns=8)
        report = _report(columns, losses, seed)
        assert report["worst"] == [], seed
        assert not any(item["worse"] for column in report["columns"] for item in column["items"]), seed
        assert "name" not in [column["column"] for column in report["columns"]]


def test_a_category_that_is_worse_as_a_whole_needs_no_second_condition() -> None:
    columns, losses, table = _rows(3000, 1, columns=5)
    city = np.array(table["city"].to_pylist())
    losses[city == "bern"] += 0.5
    report = _report(columns, losses)
    assert [one["conditions"] for one in report["worst"]] == [[{"column": "city", "equals": "bern"}]]
    first = report["columns"][0]
    assert first["column"] == "city"
    worse = [item for item in first["items"] if item["worse"]]
    assert [item["condition"]["equals"] for item in worse] == ["bern"]
    assert worse[0]["value"] == pytest.approx(losses[city == "bern"].mean(), rel=1e-5)
    assert worse[0]["rows"] == int((city == "bern").sum())


def test_groups_of_each_column_divide_the_rows() -> None:
    columns, losses, _ = _rows(500, 0, columns=2)
    for column in _report(columns, losses)["columns"]:
        assert sum(item["rows"] for item in column["items"]) == 500, column["column"]
    half = next(one for one in columns if one.name == "half")
    assert {"column": "half", "missing": True} in [group.condition for group in half.listed]


def test_few_rows_and_equal_losses_have_no_worst_slices() -> None:
    columns, losses, _ = _rows(60, 0)
    few = _report(columns, losses)
    assert (few["worst"], few["rows"] < few["fewest_searched"]) == ([], True)
    assert few["columns"]  # figures by category and range all the same
    columns, _, _ = _rows(400, 0)
    report = _report(columns, np.zeros(400))
    assert report["worst"] == []
    assert report["value"] == 0.0
    assert _report([], losses)["columns"] == []


def test_p_values_are_adjusted_as_by_benjamini_and_hochberg() -> None:
    assert slices.adjusted([0.01, 0.02, 0.03, 0.5]) == pytest.approx([0.04, 0.04, 0.04, 0.5])
    assert slices.adjusted([0.9, 0.0001]) == pytest.approx([0.9, 0.0002])
    alike, others = np.full(10, 2.0), np.array([0.0, 2.0] * 50)
    assert 1e-4 < slices.p_value_of_worse(alike, others) < 0.1  # no variance of their own


def test_days_and_numbers_are_ranges_that_json_can_hold() -> None:
    days = pa.chunked_array(
        [pa.array(np.arange("2020-01-01", "2020-12-26", dtype="datetime64[D]")).cast(pa.timestamp("us"))]
    )
    fact = ColumnFacts(name="day", kind="datetime", storage="timestamp", rows=360, distinct=360, date_only=True)
    found = slice_columns.sliced(fact, days, 20)
    assert found is not None
    assert found.listed[0].condition == {"column": "day", "from": None, "to": "2020-02-15"}
    infinite = pa.chunked_array([pa.array([float("inf"), -float("inf"), None, *np.arange(97.0)])])
    fact = ColumnFacts(name="x", kind="numeric", storage="float64", rows=100, distinct=99)
    found = slice_columns.sliced(fact, infinite, 5)
    assert found is not None
    json.dumps([group.condition for group in found.groups], allow_nan=False)


TWO = DecisionOutput("hired", "binary", ("no", "yes"))


def _held_out(rows: int, seed: int) -> HeldOutParts:
    random = np.random.default_rng(seed)
    group = random.choice(["a", "b", "c", None], rows, p=[0.5, 0.3, 0.19, 0.01])
    truth = (random.random(rows) < np.where(group == "a", 0.6, 0.3)).astype(np.int32)
    share = np.clip(0.3 + 0.4 * truth + random.normal(0, 0.2, rows), 0, 1).astype(np.float32)
    cut = rows // 3
    parts = {"validation": slice(cut, None), "test": slice(0, cut)}
    return HeldOutParts(
        {
            name: HeldOut(
                np.arange(rows)[own], {"hired": truth[own]}, {"hired": share[own, None]}, groups={"sex": group[own]}
            )
            for name, own in parts.items()
        }
    )


def test_rates_by_group_are_those_of_counting_and_differ_as_fairlearn_says(tmp_path: Path) -> None:
    held_out = _held_out(900, 0)
    held_out.write(tmp_path / "held_out.parquet")
    held_out = HeldOutParts.read((tmp_path / "held_out.parquet").read_bytes())
    decision = {"output": "hired", "asked": {}, "method": "threshold", "label": "yes", "threshold": 0.45}
    found = fairness("sex", TWO, decision, held_out)
    assert found is not None
    (label,) = found["labels"]
    truth = np.concatenate([part.truth["hired"] for part in held_out.parts.values()])
    share = np.concatenate([part.values["hired"][:, 0] for part in held_out.parts.values()]).astype(float)
    group = np.concatenate([part.groups["sex"] for part in held_out.parts.values()])
    chosen = share >= 0.45
    rates = {"selection_rate": {}, "true_positive_rate": {}, "false_positive_rate": {}}
    for entry in label["groups"]:
        own = group == entry["group"]
        assert entry["rows"] == own.sum()
        rates["selection_rate"][entry["group"]] = chosen[own].mean()
        rates["true_positive_rate"][entry["group"]] = chosen[own & (truth == 1)].mean()
        rates["false_positive_rate"][entry["group"]] = chosen[own & (truth == 0)].mean()
        assert entry["precision"] == pytest.approx((truth[own & chosen] == 1).mean())
        bins = np.minimum((share[own] * 10).astype(int), 9)
        gaps = [abs((truth[own] - share[own])[bins == at].sum()) for at in range(10)]
        assert entry["calibration_error"] == pytest.approx(sum(gaps) / own.sum())
        for name, by_group in rates.items():
            assert entry[name] == pytest.approx(by_group[entry["group"]])
            low, high = entry["intervals"][name]
            assert low <= entry[name] <= high
    assert [entry["group"] for entry in label["groups"]] == ["a", "b", "c", None]
    assert [entry["small"] for entry in label["groups"]] == [False, False, False, True]
    differences = label["differences"]
    large = {name: [by_group[key] for key in "abc"] for name, by_group in rates.items()}
    assert differences["demographic_parity_difference"]["value"] == pytest.approx(np.ptp(large["selection_rate"]))
    assert differences["demographic_parity_ratio"]["value"] == pytest.approx(
        min(large["selection_rate"]) / max(large["selection_rate"])
    )
    odds = max(np.ptp(large["true_positive_rate"]), np.ptp(large["false_positive_rate"]))
    assert differences["equalized_odds_difference"]["value"] == pytest.approx(odds)
    for one in differences.values():
        assert one["left_out"] == [None]
        assert one["interval"][0] <= one["value"] <= one["interval"][1]


def test_a_group_without_positive_rows_has_no_true_positive_rate() -> None:
    rows = 80
    group, truth = np.array(["a", "b"] * 40, object), np.zeros(rows, np.int32)
    part = HeldOut(np.arange(rows), {"hired": truth}, {"hired": np.full((rows, 1), 0.7)}, groups={"sex": group})
    found = fairness("sex", TWO, None, HeldOutParts({"test": part}))
    assert found is not None
    assert [entry["true_positive_rate"] for entry in found["labels"][0]["groups"]] == [None, None]
    assert found["labels"][0]["differences"]["equalized_odds_difference"]["value"] is None
    assert found["labels"][0]["differences"]["equalized_odds_difference"]["left_out"] == ["a", "b"]
    assert found["labels"][0]["differences"]["demographic_parity_ratio"]["value"] == 1.0
    assert fairness("age", TWO, None, HeldOutParts({"test": part})) is None


def test_a_run_has_slices_of_columns_that_are_no_features_and_fairness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    rows = 500
    x, group = random.normal(size=rows), random.choice(["a", "b"], rows, p=[0.75, 0.25])
    flipped = (group == "b") & (x > 0)
    y = np.where((x > 0) ^ flipped, "yes", "no")
    age = random.integers(18, 80, rows)
    table = pa.table(
        {"x": x, "group": group.tolist(), "age": age, "y": y.tolist(), "amount": x + random.normal(size=rows)}
    )
    spec = {
        "target": ["y", "amount"],
        "features": ["x"],
        "protected": ["group", "age"],
        "split": {"validation": 0.4, "test": 0.2},
        "network": [{"Dense": {"units": 8, "activation": "relu"}}],
        "training": {"epochs": 25, "optimizer": {"Adam": {"learning_rate": 0.02}}},
    }
    result = train(request_of(table, spec, tmp_path / "run"), RecordingReporter())
    insight = json.loads(result.files["insight"].read_text())["targets"]
    worst = insight["y"]["slices"]["worst"][0]
    assert insight["y"]["slices"]["rows"] == 300
    assert {one["column"] for one in worst["conditions"]} == {"x", "group"}, worst
    assert insight["amount"]["slices"]["metric"] == "mae"
    assert insight["amount"]["slices"]["worst"] == []
    held_out = HeldOutParts.read(result.files["held_out"].read_bytes())
    by_group = fairness("group", TWO_OF_Y, None, held_out)
    assert by_group is not None
    a, b = by_group["labels"][0]["groups"]
    assert a["accuracy"] > 0.9 > 0.7 > b["accuracy"]
    by_age = fairness("age", DecisionOutput("amount", "regression", ()), None, held_out)
    assert by_age is not None
    ranges = [entry["group"] for entry in by_age["numbers"]["groups"]]
    assert [" to < " in name for name in ranges] == [False, True, True, False]
    assert ranges[0].startswith("< ")
    assert ranges[-1].startswith("≥ ")
    assert sum(entry["rows"] for entry in by_age["numbers"]["groups"]) == 300

    def fail(*arguments: Any, **options: Any) -> Any:
        raise ZeroDivisionError("no rows")

    monkeypatch.setattr(analysis.slices, "report", fail)
    monkeypatch.setattr("workers.trainer.trained_run.with_groups", fail)
    reporter = RecordingReporter()
    failed = train(request_of(table, {**spec, "training": {"epochs": 1}}, tmp_path / "failed"), reporter)
    assert json.loads(failed.files["insight"].read_text())["targets"]["y"]["slices"] is None
    messages = [message for level, message, _ in reporter.events if level == "warn"]
    assert any("slices" in message for message in messages)
    assert any("protected" in message for message in messages)


TWO_OF_Y = DecisionOutput("y", "binary", ("no", "yes"))
