"""`fitserve train` on a table: how it was read, what is trained, its scores, and how to request predictions."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from fitserve.cli.train import header_of, is_spec
from fitserve.client import Client
from tests.cli.conftest import SPEC, Fitserve
from tests.client.conftest import circle
from tests.conftest import Server

FEW = ("--set", "training.epochs=2", "--set", "ensemble=1")


def written(frame: pd.DataFrame, path: Path) -> str:
    """Write a frame in the format of the file's name."""
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False)  # also compressed
    return str(path)


@pytest.mark.parametrize("name", ["circle.csv", "circle.parquet", "circle.jsonl", "circle.csv.gz"])
def test_a_table_of_each_format_ends_with_a_command_that_works(name: str, fitserve: Fitserve, tmp_path: Path) -> None:
    frame = circle().assign(id=[f"row-{number:04}" for number in range(240)])
    table = written(frame, tmp_path / name)
    shown = fitserve("train", table, "--target", "side", "--name", f"train-{name.replace('.', '-')}", *FEW)
    assert re.search(r"^x +numeric", shown.stdout, re.MULTILINE)
    assert "id is left out:" in shown.stdout
    assert "Predicting side (binary)" in shown.stdout
    assert "at most 2 epochs" in shown.stdout
    for model in ("this network", "linear model", "guessing"):
        assert re.search(rf"^{model} .*0\.\d", shown.stdout, re.MULTILINE), shown.stdout
    (command,) = re.findall(r"^  fitserve (models predict .*)$", shown.stdout, re.MULTILINE)
    answer = fitserve(*shlex.split(command)).stdout
    assert re.search(r"in +out|out +in", answer), answer
    (address,) = re.findall(r"On the pages: (\S+)", shown.stderr)
    assert re.search(r"/runs/run_[0-9a-z]{26}$", address)


def test_a_datasets_name_and_a_built_in_table(fitserve: Fitserve, uploaded: str) -> None:
    assert "beside simpler models" in fitserve("train", "cli-circle", "-t", "side", "--model", "by-name", *FEW).stdout
    shown = fitserve("train", "diabetes", "-t", "target", *FEW, code=3)
    if "has no column" in shown.stderr:  # its target has another name, which the error proposes
        (command,) = re.findall(r"fitserve (train diabetes --target \S+)", shown.stderr)
        shown = fitserve(*shlex.split(command), *FEW)
    assert re.search(r"^model +rmse +mae +r2", shown.stdout, re.MULTILINE), shown.stdout


def test_for_programs_each_line_is_a_document(fitserve: Fitserve, uploaded: str) -> None:
    shown = fitserve("train", "cli-circle", "-t", "side", "--model", "as-json", *FEW, "--json").stdout
    lines = [json.loads(line) for line in shown.splitlines()]
    assert lines[0]["dataset"]["name"] == "cli-circle"
    assert lines[-2]["run"]["state"] == "succeeded"
    assert "references" in lines[-1]["evaluation"]["test"]["side"]
    assert any(line.get("type") == "metrics" for line in lines)


def test_unwatched_it_says_how_to_come_back(fitserve: Fitserve, uploaded: str) -> None:
    shown = fitserve("train", "cli-circle", "-t", "side", "--model", "unwatched", "--no-watch", *FEW)
    assert "fitserve runs watch run_" in shown.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cli-circle",), "fitserve train cli-circle --target COLUMN"),
        (("cli-circle", "--target", "Side"), "fitserve train cli-circle --target side"),
        (("cli-circle", "--target", "nonsense"), "expected x, y, colour, side"),
        (("cli-circle", "--target", "side", "--name", "other"), "is a dataset already"),
        (("cli-circle", "--target", "side", "--set", "training.epochs=many"), "/training/epochs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_trained_names_the_command_that_can(
    words: tuple[str, ...], said: str, fitserve: Fitserve, uploaded: str
) -> None:
    result = fitserve("train", *words, code=3)
    assert said in result.stderr
    assert "fitserve " in result.stderr


def test_a_spec_is_still_a_spec_and_a_target_changes_it(fitserve: Fitserve, uploaded: str, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    shown = fitserve("train", str(spec), "--set", "training.epochs=1", "--model", "from-spec", "--json").stdout
    assert json.loads(shown)["model"] == "from-spec"
    changed = json.loads(fitserve("train", str(spec), "-t", "colour", "--set", "training.epochs=1", "--json").stdout)
    assert changed["resolved"]["target"][0]["name"] == "colour"
    assert "is a spec" in fitserve("train", str(spec), "--kind", "x=text", code=3).stderr
    shown = fitserve("train", "-", "--set", "training.epochs=1", "--json", input=SPEC).stdout
    assert json.loads(shown)["model"] == "cli-circle"


def test_specs_are_told_from_tables(tmp_path: Path) -> None:
    files = {"a.yaml": "x", "a.json": '{"dataset": "a"}', "rows.json": '[{"a": 1}]', "a.csv": "a\n1\n", "plain": "a: 1"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    path = {name: str(tmp_path / name) for name in files}
    assert [is_spec(path[name], None) for name in files] == [True, True, True, False, True]
    assert [is_spec(path[name], ["y"]) for name in files] == [True, True, False, False, False]
    for suffix in ("pq", "ipc", "csv.gzip", "parquet"):
        (table := tmp_path / f"table.{suffix}").touch()
        assert not is_spec(str(table), None), suffix
    assert not is_spec("a-dataset", None)
    assert is_spec("-", ["y"])
    (tmp_path / "semicolon.csv").write_bytes("\ufeffa b;ü;c\n1;2;3\n".encode())
    assert header_of(tmp_path / "semicolon.csv") == ["a b", "ü", "c"]
    assert header_of(tmp_path / "nothing.csv") == []
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    assert header_of(tmp_path / "binary.csv") == []


def test_python_in_one_call(server: Server, tmp_path: Path) -> None:
    frame = circle()
    frame["inside"] = (frame.side == "in").astype(int)
    with Client(server.base_url, server.token) as client:
        few = {"training": {"epochs": 30, "optimizer": {"Adam": {"learning_rate": 0.03}}}, "ensemble": 1}
        trained = client.train(frame.drop(columns="side"), target="inside", **few)
        assert (trained.dataset.name, trained.model, trained.version) == ("inside", "inside", 1)
        predicted = list(trained.predict(frame.drop(columns="side")))  # its own target is no hindrance
        assert {type(value) for value in predicted} == {int}  # the frame's own labels
        assert (pd.Series(predicted) == frame.inside).mean() > 0.85
        assert trained.predict({"x": [0.0], "y": [0.0], "colour": ["red"]})[0] == 1
        assert next(one.model for one in trained.baselines()["inside"]) == "network"
        assert "accuracy" in repr(trained)
        number = client.train(frame[["x", "y", "inside"]], target="y", name="circle-y", **few)
        assert isinstance(number.predict(frame[["x", "inside"]])[0], float)
        with pytest.raises(Exception, match="has no column 'outside'"):
            client.train(frame, target="outside")
        assert "outside" not in {dataset.name for dataset in client.datasets.list()}
