"""The population stability index: about zero for the training rows themselves, large for shifted ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitserve import drift

RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(10, 3, 20_000)
EDGES = np.quantile(NUMBERS, np.linspace(0, 1, 11))
NUMERIC = {
    "kind": "numeric",
    "edges": EDGES.tolist(),
    "shares": (np.histogram(NUMBERS, EDGES)[0] / len(NUMBERS)).tolist(),
    "missing": 0.0,
}
CATEGORICAL = {"kind": "categorical", "frequencies": {"a": 0.7, "b": 0.2, "3": 0.05}, "other": 0.0, "missing": 0.05}


def test_the_training_distribution_has_no_drift() -> None:
    sample = RNG.choice(NUMBERS, 2_000)
    assert drift.psi(NUMERIC, drift.count(NUMERIC, sample)) < 0.1
    labels = RNG.choice(np.array(["a", "b", 3, None], dtype=object), 2_000, p=[0.7, 0.2, 0.05, 0.05])
    assert drift.psi(CATEGORICAL, drift.count(CATEGORICAL, labels)) < 0.1


@pytest.mark.parametrize("shifted", [NUMBERS + 3, NUMBERS * 0.2, np.full(5_000, np.nan)])
def test_shifted_numbers_drift(shifted: np.ndarray) -> None:
    assert drift.psi(NUMERIC, drift.count(NUMERIC, shifted[:5_000])) > drift.LARGE


@pytest.mark.parametrize("labels", [["b"] * 500, ["new"] * 500, [None] * 500, [""] * 500])
def test_other_labels_drift(labels: list[str | None]) -> None:
    assert drift.psi(CATEGORICAL, drift.count(CATEGORICAL, labels)) > drift.LARGE


@pytest.mark.parametrize("rows", [30, 100, 500])
def test_models_of_few_rows_raise_no_false_alarm_and_find_what_has_moved(rows: int) -> None:
    """The worst of ten columns, as it is looked at."""
    random = np.random.default_rng(1)
    worst = []
    for _ in range(40):
        known = [drift.numeric_distribution(random.normal(size=rows)) for _ in range(10)]
        same = [drift.psi(one, drift.count(one, random.normal(size=300))) for one in known]
        worst.append(max(index for index in same if index is not None))
        moved = drift.psi(known[0], drift.count(known[0], random.normal(2.0, 1.0, 300)))
        assert moved is not None
        assert moved > drift.LARGE
    assert sum(index > drift.LARGE for index in worst) <= 2


def test_few_rows_have_no_index() -> None:
    counts = drift.count(NUMERIC, NUMBERS[:100])
    assert drift.psi(NUMERIC, counts) is None
    assert drift.report(NUMERIC, counts)["verdict"] == "too few rows"


@given(
    st.lists(st.floats(), max_size=50),
    st.lists(st.one_of(st.none(), st.floats(), st.integers(-100, 100), st.text(max_size=3)), max_size=50),
)
def test_every_value_is_in_one_bin_and_windows_add_up(numbers: list[float], labels: list[object]) -> None:
    for distribution, values in ((NUMERIC, numbers), (CATEGORICAL, labels), ({**NUMERIC, "kind": "text"}, labels)):
        counts = drift.count(distribution, values)
        assert sum(counts) == len(values)
        assert len(counts) == len(drift.bin_names(distribution)) == len(drift.training_shares(distribution))
        assert drift.add_counts(counts, counts) == [2 * one for one in counts]


def test_the_report_names_bins_and_shares() -> None:
    report = drift.report(CATEGORICAL, drift.count(CATEGORICAL, ["a"] * 300 + [None] * 100))
    assert report["bins"][0] == {"bin": "a", "training": 0.7, "asked": 0.75}
    assert (report["training_missing"], report["missing"]) == (0.05, 0.25)
