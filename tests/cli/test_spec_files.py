"""Specs from files, and the changes that `--set` makes."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from fitserve.cli.models import read_rows
from fitserve.cli.spec import apply_change, read_spec
from fitserve.errors import BadInput, FitserveError


def test_changes_reach_any_depth() -> None:
    body: dict = {"network": [{"Dense": {"units": 64}}], "training": {"epochs": 10}}
    for change in (
        "training.epochs=50",
        "network.0.Dense.units=8",
        "training.optimizer={SGD: {learning_rate: 0.1}}",
        "model=mine",
        "split.test=0.2",
        "target=yes=no",
    ):
        apply_change(body, change)
    assert body == {
        "network": [{"Dense": {"units": 8}}],
        "training": {"epochs": 50, "optimizer": {"SGD": {"learning_rate": 0.1}}},
        "model": "mine",
        "split": {"test": 0.2},
        "target": "yes=no",
    }


@pytest.mark.parametrize(
    "change", ["epochs", "=3", "a..b=1", "network.9.Dense=1", "network.x=1", "model.deeper.still=1"]
)
def test_a_change_that_cannot_be_made_is_refused(change: str) -> None:
    with pytest.raises(BadInput):
        apply_change({"network": [{}], "model": "m"}, change)


def test_specs_are_read_from_yaml_json_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text("dataset: d\ntarget: t\n")
    (tmp_path / "a.json").write_text('{"dataset": "d", "target": "t"}')
    expected = {"dataset": "d", "target": "t", "model": "m"}
    assert read_spec(tmp_path / "a.yaml", ["model=m"]) == read_spec(tmp_path / "a.json", ["model=m"]) == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"dataset: d\ntarget: t\n")))
    assert read_spec(Path("-"), ["model=m"]) == expected


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "dataset: d\ndataset: e\n", "{", "!!python/object:os.system x"])
def test_an_invalid_spec_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(FitserveError):
        read_spec(path, [])
    with pytest.raises(FitserveError, match="cannot be read"):
        read_spec(tmp_path / "nowhere.yaml", [])


def test_rows_to_predict_come_from_csv_json_and_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('gre,name,zip,ok,when\n700,"a, b",01234,true,\n-1.5e2,c,5,FALSE,nan\n')
    assert read_rows(str(path)) == [
        {"gre": 700, "name": "a, b", "zip": "01234", "ok": True, "when": None},
        {"gre": -150.0, "name": "c", "zip": 5, "ok": False, "when": None},
    ]
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert read_rows(str(path)) == [{"a": 1}, {"a": 2}]
    path.write_text("[[1, 2], [3, 4]]")
    assert read_rows(str(path)) == [[1, 2], [3, 4]]
    assert read_rows('{"a": 1}') == [{"a": 1}]


@pytest.mark.parametrize("text", ["", "a,b\n", "a,b\n1\n", "a,b\n1,2,3\n", "[1,", '{"a": 1}\nno json\n'])
def test_rows_that_cannot_be_read_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows"
    path.write_text(text)
    with pytest.raises(BadInput):
        read_rows(str(path))
