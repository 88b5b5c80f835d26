"""Several processes train one network together as one does: TensorFlow's own collectives, on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.cluster import PROJECT, free_port
from tests.trainer.gang_process import SPECS, logs_alone

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("tensorflow")]


def start(folder: Path, rank: int, addresses: list[str], *names: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.trainer.gang_process", str(folder), str(rank), ",".join(addresses), *names]
    return subprocess.Popen(command, cwd=PROJECT, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def train_together(folder: Path, size: int, *names: str, files: bool = True) -> dict[str, Any]:
    """Train specs in a group of processes. Returns the leader's logs by epoch of each, and its artifact's kinds.

    Without `files` the leader makes none, which takes longer than to train.
    """
    names = names if files else ("--no-files", *names)
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(size)]
    processes = [start(folder, rank, addresses, *names) for rank in range(size)]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-4000:]
    written: dict[str, Any] = json.loads((folder / "leader.json").read_text())
    return written


def assert_as_alone(folder: Path, together: dict[str, Any], *names: str) -> None:
    for name in names:
        alone = logs_alone(name, folder / name)
        assert len(together[name]["epochs"]) == len(alone) > 1
        for one, other in zip(together[name]["epochs"], alone, strict=True):
            assert one.keys() == other.keys()
            np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-4, atol=1e-7, err_msg=name)


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """Weights, batch normalisation, dropout, an embedding; a last batch of one row; early stopping."""
    assert_as_alone(tmp_path, train_together(tmp_path, 2, "everything", files=False), "everything")


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("size", [2, 3])
def test_every_kind_of_network_trains_together(tmp_path: Path, size: int) -> None:
    names = [name for name in SPECS if name != "lost"]
    together = train_together(tmp_path, size, *names, "lost")
    assert_as_alone(tmp_path, together, *names)
    assert all({"keras", "onnx"} <= set(together[name]["files"]) for name in names)
    assert together["lost"] == "GangBroken"  # the last process was lost in the middle of an epoch
