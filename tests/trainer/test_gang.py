"""Several processes train one network as a single one does, with TensorFlow's own collectives on loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fitserve.settings import MB
from tests.faults.cluster import PROJECT
from tests.hosts.network import Host, Network, missing
from tests.ports import free_port
from tests.trainer.gang_process import SPECS, logs_alone
from tests.trainer.requests import request_of
from tests.waiting import PATIENCE
from workers.trainer.engine.checkpoint import Checkpoint

pytestmark = pytest.mark.tensorflow


def start(
    folder: Path, rank: int, addresses: list[str], *names: str, within: Sequence[str] = ()
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.trainer.gang_process", str(folder), str(rank), ",".join(addresses), *names]
    return subprocess.Popen([*within, *command], cwd=PROJECT, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def train_together(
    folder: Path, size: int, *names: str, files: bool = True, hosts: Sequence[Host] = ()
) -> dict[str, Any]:
    """Train specs in a group of processes, on loopback or on `hosts`.

    Returns the leader's logs by epoch of each, and its artifact's kinds; without `files` the leader makes none, which
    takes longer than to train.
    """
    names = names if files else ("--no-files", *names)
    addresses = [f"{host.address}:18600" for host in hosts] or [f"127.0.0.1:{free_port()}" for _ in range(size)]
    within = [["ip", "netns", "exec", host.namespace] for host in hosts] or [[]] * size
    processes = [start(folder, rank, addresses, *names, within=within[rank]) for rank in range(size)]
    for process in processes:
        _, errors = process.communicate(timeout=2 * PATIENCE)
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
    """Weights, batch normalisation, dropout, an embedding; a last batch of one row; early stopping.

    One of them is slow, which is said. Two that go on from the middle of an epoch end where two undisturbed ones do, to
    the bit.
    """
    together = train_together(tmp_path, 2, "everything", "everything@3", files=False)
    assert_as_alone(tmp_path, together, "everything")
    whole, resumed = together["everything"], together["everything@3"]
    (warning,) = whole["warnings"]
    assert "is slower than the others, which wait for it" in warning
    assert resumed["first"] == 2, "epochs counted from 1"
    assert resumed["epochs"] == whole["epochs"][1:]
    assert resumed["weights"] == whole["weights"]


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("size", [2, 3])
def test_every_kind_of_network_trains_together(tmp_path: Path, size: int) -> None:
    """On hosts that are really apart, where network namespaces can be made."""
    names = [name for name in SPECS if name not in ("lost", "adam")]
    if missing():
        together = train_together(tmp_path, size, *names, "lost")
    else:
        with Network(tuple(f"worker{rank}" for rank in range(size))) as network:
            together = train_together(tmp_path, size, *names, "lost", hosts=list(network.hosts.values()))
    assert_as_alone(tmp_path, together, *names)
    assert all({"keras", "onnx"} <= set(together[name]["files"]) for name in names)
    assert together["lost"] == "GangBroken"  # the last process was lost in the middle of an epoch


@pytest.mark.long
@pytest.mark.timeout(0)
def test_a_streamed_table_takes_as_little_memory_on_two_as_on_one(tmp_path: Path) -> None:
    """Four times the rows, encoded 148 MB more, cost each process what they cost one alone: some numbers of rows.

    The losses are the same too.
    """
    few, many = (stream(tmp_path / str(rows), rows) for rows in (300_000, 1_200_000))
    print(json.dumps({"few": few, "many": many}))
    for found in (few, many):
        np.testing.assert_allclose(found["together"][0]["losses"], found["alone"]["losses"], rtol=1e-4)
    alone = many["alone"]["grown"] - few["alone"]["grown"]
    for before, after in zip(few["together"], many["together"], strict=True):
        assert after["grown"] - before["grown"] < alone + 32 * MB


_MEET = """
import json, sys
from workers.trainer.engine import collectives
from workers.trainer.interface import GangBroken
collectives.START_SECONDS = 1
try:
    collectives.Collectives(sys.argv[1].split(","), 0).connect()
except GangBroken as broken:
    print(json.dumps([str(broken), broken.silent]))
"""


@pytest.mark.long
@pytest.mark.timeout(0)
def test_the_address_at_which_nothing_answers_is_named() -> None:
    own, other = (f"127.0.0.1:{free_port()}" for _ in range(2))
    command = [sys.executable, "-c", _MEET, f"{own},{other}"]
    found = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert json.loads(found.stdout.splitlines()[-1]) == [f"nothing answers at {other}", [other]]


def stream(folder: Path, rows: int) -> dict[str, Any]:
    """Train on a streamed table, alone and by two. Returns what each process has printed."""
    rng = np.random.default_rng(0)
    table = pa.table({**{f"x{at}": rng.integers(0, 50, rows) for at in range(40)}, "y": rng.integers(0, 2, rows)})
    spec = {
        "target": "y",
        "network": [{"Dense": 8}],
        "training": {"epochs": 2, "batch_size": 5_000, "early_stopping": None},
    }
    request = request_of(table, spec, folder)
    (folder / "request.json").write_text(json.dumps({"spec": request.spec, "facts": request.facts}))
    found = []
    for size in (1, 2):
        addresses = ",".join(f"127.0.0.1:{free_port()}" for _ in range(size))
        command = [sys.executable, "-m", "tests.trainer.gang_memory", str(folder)]
        processes = [
            subprocess.Popen([*command, str(rank), addresses], cwd=PROJECT, text=True, stdout=subprocess.PIPE)
            for rank in range(size)
        ]
        for process in processes:
            output, _ = process.communicate()
            assert process.returncode == 0
            found.append(json.loads(output.splitlines()[-1]))
    shutil.rmtree(folder)
    return {"alone": found[0], "together": found[1:]}


@pytest.mark.long
@pytest.mark.timeout(0)
def test_fewer_workers_go_on_as_after_a_rounding(tmp_path: Path) -> None:
    """Adam divides by small numbers, which makes a rounding grow.

    One process that goes on where two were differs from one that trained alone by what one of its own differs by if the
    last bit of a single weight is another.
    """
    together = train_together(tmp_path, 2, "adam", files=False)["adam"]["epochs"]
    alone = logs_alone("adam", tmp_path / "alone")
    gang = tmp_path / "0-adam"
    fewer = together[:20] + logs_alone("adam", tmp_path / "fewer", gang / "epoch20.npz")
    rounded = []
    for seed in range(4):
        nudge_a_weight(gang / "epoch1.npz", tmp_path / f"rounded{seed}.npz", seed)
        rounded.append(logs_alone("adam", tmp_path / f"rounded{seed}", tmp_path / f"rounded{seed}.npz"))
    found, allowed = worst(fewer, alone), max(worst(one, alone[-len(one) :]) for one in rounded)
    print(json.dumps({"two_then_one": found, "last_bit_of_a_weight": allowed}))
    assert 0 < found < 10 * allowed


def nudge_a_weight(source: Path, target: Path, seed: int) -> None:
    """Copy a checkpoint with the last bit of one weight changed."""
    found = Checkpoint.read(source)
    kernels = [name for name, array in found.arrays.items() if name.startswith("model/") and array.ndim == 2]
    kernel = found.arrays[kernels[seed % len(kernels)]]
    at = np.random.default_rng(seed).integers(kernel.size)
    kernel.flat[at] = np.nextafter(kernel.flat[at], np.float32(np.inf))
    found.write(target)


def worst(logs: list[dict[str, float]], others: list[dict[str, float]]) -> float:
    return max(abs(one["loss"] / other["loss"] - 1) for one, other in zip(logs, others, strict=True))
