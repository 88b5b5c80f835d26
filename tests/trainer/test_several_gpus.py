"""One network on several GPUs of one worker trains as on one. Logical devices of the processor stand for GPUs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.cluster import PROJECT
from tests.trainer.gang_process import SPECS
from tests.trainer.mirrored_process import ALONE, MORE, RESUMED, WITH_FILES
from tests.waiting import PATIENCE

pytestmark = pytest.mark.tensorflow


def train(folder: Path, devices: int, *names: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.trainer.mirrored_process", str(folder), str(devices), *names]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE * len(names) * 2)
    assert run.returncode == 0, run.stderr[-4000:]
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


def assert_alike(found: dict[str, Any]) -> None:
    alone, together = found["alone"], found["together"]
    assert len(together["epochs"]) == len(alone["epochs"]) > 1
    assert together["best_epoch"] == alone["best_epoch"]
    for one, other in zip(together["epochs"], alone["epochs"], strict=True):
        assert one.keys() == other.keys()
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-4, atol=1e-7)


def test_two_gpus_train_as_one_does(tmp_path: Path) -> None:
    """Weights, batch normalisation, dropout, an embedding; a last batch of one row; early stopping.

    A run that goes on from the middle of an epoch ends where an undisturbed one does, to the bit.
    """
    found = train(tmp_path, 2, RESUMED)
    whole, resumed = found[RESUMED]["together"], found["resumed"]
    assert_alike(found[RESUMED])
    assert whole["says"] == ["2 GPUs train the network together."]
    assert resumed["first"] == 2, "epochs counted from 1"
    assert resumed["epochs"] == whole["epochs"][1:]
    assert resumed["weights"] == whole["weights"]


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("devices", [2, 3])
def test_every_kind_of_network_trains_on_several_gpus(tmp_path: Path, devices: int) -> None:
    names = [name for name in (*SPECS, *MORE) if name not in ("lost", "adam")]
    found = train(tmp_path, devices, *names)
    for name in names:
        if name != "mixed":  # in 16 bits, a sum in another order is another sum
            assert_alike(found[name])
        (said, *_) = found[name]["together"]["says"]
        assert said.startswith(f"One of {devices} GPUs trains: " if name in ALONE else f"{devices} GPUs train")
    exported = found[WITH_FILES]["together"]
    assert exported["gpus"] == devices
    assert {"keras", "onnx"} <= set(exported["files"])
    together, alone = (found["mixed"][side]["epochs"] for side in ("together", "alone"))
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=0.01)
