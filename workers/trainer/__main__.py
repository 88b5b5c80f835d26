"""`python -m workers.trainer FD PARENT`: the process that trains, started by a supervisor only.

It holds no database credentials, lives in its own process group, dies with its supervisor, and trains run
after run until it is told to go.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import psutil

from fitserve.crash import crash_point, hooks_allowed
from workers.trainer.channel import (
    Channel,
    ChannelClosed,
    ChannelReporter,
    Outgoing,
    job_from_message,
    result_to_message,
    turn_from_message,
)
from workers.trainer.confine import confine
from workers.trainer.job import Reporter, TrainingFailed, TrainingJob, TrainingResult, TrainingStopped

_PR_SET_PDEATHSIG = 1
Train = Callable[[TrainingJob, Reporter], TrainingResult]


def main() -> None:
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the supervisor; it decides
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = Channel(socket.socket(fileno=descriptor))
    missing = give_up()
    outgoing = Outgoing(channel, on_closed=lambda: os._exit(0))
    train, tidy = load()
    limit_memory(int(os.environ.get("TRAINER_MEMORY_BYTES", "0")))
    outgoing.put({"type": "ready", "pid": os.getpid(), "not_given_up": missing})
    try:
        serve(channel, outgoing, train, tidy)
    except ChannelClosed:
        os._exit(0)


def give_up() -> dict[str, str]:
    """Sockets and most files, as the supervisor said; what this system lets us keep, with the reason."""
    folders = json.loads(os.environ.pop("TRAINER_FOLDERS", "{}"))
    if not folders:
        return {"files": "no supervisor said which"}
    reads, writes = ([Path(path) for path in folders[name]] for name in ("reads", "writes"))
    return confine(reads, writes, Path(folders["kept_shut"]), network=folders["network"])


def die_with(parent: int) -> None:
    """SIGKILL for us when the supervisor's thread that started us ends (Linux); at once where it has gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def load() -> tuple[Train, Callable[[], None]]:
    """The function that trains, warm, and what tidies up after it. A test may name a module of its own."""
    other = os.environ.get("FITSERVE_TRAINER_MODULE")
    if other and hooks_allowed():
        return importlib.import_module(other).train, lambda: None
    # Keras imports it where it is there, and it looks for fonts: half a second of every start, for pictures of nothing.
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    from workers.trainer.engine.process_warmup import tidy_up, warm_up

    warm_up(int(os.environ.get("TRAINER_THREADS", "0")))
    module = importlib.import_module("workers.trainer.train")
    return module.train, tidy_up


def limit_memory(limit: int) -> None:
    """Allocations beyond `limit` bytes fail. What is reserved but untouched by now (thread stacks) is not counted."""
    if limit <= 0 or sys.platform != "linux":
        return
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    reserved = int(status["VmData"].split()[0]) * 1024 - int(status["RssAnon"].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit + max(0, reserved),) * 2)


def serve(channel: Channel, outgoing: Outgoing, train: Train, tidy: Callable[[], None]) -> None:
    """One run after another. Raises ChannelClosed when the supervisor has gone."""
    current: list[ChannelReporter] = []
    jobs: list[TrainingJob] = []
    arrived = threading.Semaphore(0)

    def listen() -> None:
        try:
            while True:
                message = channel.receive(3600)
                if message is None:
                    continue
                if message["type"] == "stop" and current:
                    current[-1].ask_to_stop(message["why"])
                elif message["type"] == "turn" and current:
                    current[-1].answer(turn_from_message(message))
                elif message["type"] == "job":
                    current.append(ChannelReporter(outgoing, on_epoch=lambda: crash_point("trainer.mid_epoch")))
                    jobs.append(job_from_message(message))
                    arrived.release()
        except BaseException:
            os._exit(0)  # the supervisor has gone: whatever we still do would be for nobody

    threading.Thread(target=listen, name="incoming", daemon=True).start()
    while True:
        arrived.acquire()
        run_one(train, jobs.pop(), current[-1], outgoing)
        tidy()
        outgoing.put({"type": "idle", "resident": resident_bytes(), "peak": peak_bytes()})
        outgoing.drain()


def run_one(train: Train, job: TrainingJob, reporter: ChannelReporter, outgoing: Outgoing) -> None:
    """Trains and says how it ended. Only what is deterministic is called failed."""
    forget_peak()
    try:
        answer = result_to_message(train(job, reporter))
    except TrainingStopped as stopped:
        answer = {"type": "stopped", "why": stopped.why}
    except TrainingFailed as failed:
        answer = {"type": "failed", "cause": failed.cause, "message": str(failed), "data": failed.data}
    except BaseException as error:
        answer = unexpected(error)
    outgoing.put({**answer, "peak": peak_bytes()})


def unexpected(error: BaseException) -> dict[str, object]:
    """What an exception that `train` did not foresee says to a person."""
    where = traceback.format_exception(error)
    sys.stderr.write("".join(where))
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return {"type": "failed", "cause": "out_of_memory", "message": "The trainer ran out of memory", "data": {}}
    if isinstance(error, OSError) and error.errno == 28:
        return {"type": "failed", "cause": "disk_full", "message": "The trainer's disk is full", "data": {}}
    message = f"{type(error).__name__}: {error}"[:2000]
    return {"type": "failed", "cause": "internal_error", "message": message, "data": {}}


def resident_bytes() -> int:
    """What this process holds in memory now."""
    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """The most that this process held since `forget_peak`."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text()
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # the peak then counts from the start of the process


if __name__ == "__main__":
    main()
