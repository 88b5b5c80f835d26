"""A trainer that starts slowly on a busy machine is awaited; one that hangs is not."""

from __future__ import annotations

import subprocess
import sys

import psutil

from tests.waiting import wait_until
from workers.trainer_process import START_SECONDS, StartWatch


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
