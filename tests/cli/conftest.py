"""The command line against the real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fitserve.cli import app
from fitserve.client import Client
from tests.client.conftest import circle
from tests.conftest import Server

Fitserve = Callable[..., Result]

SPEC = """\
dataset: cli-circle
target: side
split: {method: stratified, validation: 0.2, test: 0.2}
network:
  - Dense: {units: 12, activation: tanh}
training:
  optimizer: {Adam: {learning_rate: 0.03}}
  epochs: 20
  batch_size: 16
model: cli-circle
"""


@pytest.fixture
def fitserve(server: Server, monkeypatch: pytest.MonkeyPatch) -> Fitserve:
    """Run the command line in this process, as in a pipe."""
    monkeypatch.setenv("FITSERVE_URL", server.base_url)
    monkeypatch.setenv("FITSERVE_API_KEY", server.token)
    monkeypatch.setenv("COLUMNS", "200")  # a table's cells are cut to the terminal's width
    runner = CliRunner()

    def run(*words: str, code: int = 0, **options: Any) -> Result:
        result = runner.invoke(app, list(words), prog_name="fitserve", **options)
        assert result.exit_code == code, f"{words}\n{result.output}\n{result.exception!r}"
        return result

    return run


@pytest.fixture
def fitserve_json(fitserve: Fitserve) -> Callable[..., Any]:
    """Run the command line with --json and parse its output."""

    def run(*words: str, **options: Any) -> Any:
        return json.loads(fitserve(*words, "--json", **options).stdout)

    return run


@pytest.fixture(scope="session")
def uploaded(server: Server) -> Iterator[str]:
    """The dataset `cli-circle`."""
    with Client(server.base_url, server.token) as client:
        yield client.datasets.upload(circle(), "cli-circle").ref
