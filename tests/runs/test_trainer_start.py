"""A trainer that starts slowly on a busy machine is awaited; one that hangs is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fitserve.process_start import cores
from fitserve.settings import Settings
from tests.waiting import wait_until
from workers.trainer_process import START_SECONDS, StartWatch, clean_environment, gpus_of


@pytest.mark.parametrize(
    ("trainers", "shares"),
    [(1, [None]), (2, ["0,2", "1,3"]), (3, ["0,3", "1", "2"]), (4, ["0", "1", "2", "3"]), (5, [*"0123", "0"])],
)
def test_trainers_share_the_gpus_of_a_worker(
    trainers: int, shares: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert [gpus_of(Settings(trainers=trainers), number) for number in range(trainers)] == shares


def test_a_slow_start_is_awaited_while_it_works() -> None:
    now = 0.0
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            starting, watch = psutil.Process(process.pid), StartWatch(process.pid, lambda: now)
            used = 0.0
            for _ in range(3):
                wait_until(lambda used=used: starting.cpu_times().user > used, "processor time", process=process)
                now, used = now + 0.9 * START_SECONDS, starting.cpu_times().user
                assert not watch.is_hung()
            starting.suspend()
            wait_until(lambda: starting.status() == psutil.STATUS_STOPPED, "its stop", process=process)
            watch.is_hung()
            now += 1.1 * START_SECONDS
            assert watch.is_hung()
        finally:
            process.kill()
    assert not watch.is_hung()  # it has exited


def test_scikit_learn_in_a_trainer_starts_no_program_to_count_cores(tmp_path: Path) -> None:
    """As on machines without lscpu: it would warn, and use one thread for each core that it is told of."""
    environment = clean_environment(Settings(home=tmp_path), tmp_path) | {"PATH": str(tmp_path)}
    count = "from sklearn.utils._openmp_helpers import _openmp_effective_n_threads as threads; print(threads())"
    counted = subprocess.check_output([sys.executable, "-W", "error", "-c", count], env=environment, text=True)
    assert int(counted) == cores()
