"""`python -m workers.trainer FD PARENT`: the trainer process, which only a supervisor starts.

It has no database credentials and its own process group, and ends with its supervisor. It trains run after run until it
is killed.
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

from fitserve.crash_points import crash_point, hooks_allowed
from fitserve.process_start import permanent_objects
from fitserve.states import FailureCause
from workers.trainer.channel import Channel, ChannelClosed, ChannelReporter, Message, Sender, decoded
from workers.trainer.interface import (
    GangBroken,
    Reporter,
    TrainingFailed,
    TrainingRequest,
    TrainingResult,
    TrainingStopped,
    TrialAssignment,
)
from workers.trainer.sandbox import enter_sandbox

_PR_SET_PDEATHSIG = 1
Train = Callable[[TrainingRequest, Reporter], TrainingResult]


def main() -> None:
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the supervisor too, which decides
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = Channel(socket.socket(fileno=descriptor))
    # Before the sender's thread starts: the sandbox does not cover existing threads.
    unrestricted = sandbox_from_environment()
    sender = Sender(channel, on_closed=lambda: os._exit(0))
    train, tidy_up = load()
    limit_memory(int(os.environ.get("TRAINER_MEMORY_BYTES", "0")))
    sender.put({"type": "ready", "pid": os.getpid(), "unrestricted": unrestricted})
    try:
        serve(channel, sender, train, tidy_up)
    except ChannelClosed:
        os._exit(0)


def sandbox_from_environment() -> dict[str, str]:
    """Enter the sandbox that the supervisor asks for. Returns which restrictions failed, and why."""
    folders = json.loads(os.environ.pop("TRAINER_FOLDERS", "{}"))
    if not folders:
        return {"files": "the supervisor named no folders"}
    reads, writes = ([Path(path) for path in folders[name]] for name in ("reads", "writes"))
    return enter_sandbox(reads, writes, Path(folders["private"]), network=folders["network"])


def die_with(parent: int) -> None:
    """Have the kernel kill us when the thread that started us ends (Linux); exit if the parent has already ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def load() -> tuple[Train, Callable[[], None]]:
    """Import and warm up the training function and its cleanup function. Tests may name a module of their own."""
    other = os.environ.get("FITSERVE_TRAINER_MODULE")
    if other and hooks_allowed():
        return importlib.import_module(other).train, lambda: None
    # Keras imports these where they are installed: matplotlib searches for fonts, half a second of every start.
    sys.modules["matplotlib"] = sys.modules["pandas"] = None  # type: ignore[assignment]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with permanent_objects():  # none of TensorFlow's million objects is garbage
        from workers.trainer.engine.device import set_threads, warm_up
        from workers.trainer.engine.kept_networks import tidy_up

        train = importlib.import_module("workers.trainer.train").train
    del sys.modules["pandas"]  # an export may need it
    # Trainers that train together must not compute anything before they have connected.
    prepare = set_threads if os.environ.get("TRAINER_IN_GANG") else warm_up
    with permanent_objects():  # apart from the imports, because a warm-up has its own garbage collected
        prepare(int(os.environ.get("TRAINER_THREADS", "0")))
    return train, tidy_up


def limit_memory(limit: int) -> None:
    """Make allocations beyond `limit` bytes fail. Memory that is reserved but still untouched does not count."""
    if limit <= 0 or sys.platform != "linux":
        return
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    reserved = int(status["VmData"].split()[0]) * 1024 - int(status["RssAnon"].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit + max(0, reserved),) * 2)


def serve(channel: Channel, sender: Sender, train: Train, tidy_up: Callable[[], None]) -> None:
    """Train one request after another. Raises ChannelClosed once the supervisor has exited."""
    reporters: list[ChannelReporter] = []
    requests: list[TrainingRequest] = []
    job_arrived = threading.Semaphore(0)

    def listen() -> None:
        try:
            while True:
                message = channel.receive(3600)
                if message is None:
                    continue
                if message["type"] == "stop" and reporters:
                    reporters[-1].request_stop(message["reason"])
                elif message["type"] == "assignment" and reporters:
                    reporters[-1].receive_assignment(decoded(TrialAssignment, message["assignment"]))
                elif message["type"] == "request":
                    reporters.append(ChannelReporter(sender, on_epoch=lambda: crash_point("trainer.mid_epoch")))
                    requests.append(decoded(TrainingRequest, message["request"]))
                    job_arrived.release()
        except BaseException:
            os._exit(0)  # the supervisor has exited: nobody would take the result

    threading.Thread(target=listen, name="listener", daemon=True).start()
    while True:
        job_arrived.acquire()
        reset_peak()
        sender.put({**answer_request(train, requests.pop(), reporters[-1]), "peak": peak_bytes()})
        tidy_up()
        sender.put({"type": "idle", "resident": int(psutil.Process().memory_info().rss)})
        sender.drain()


def answer_request(train: Train, request: TrainingRequest, reporter: Reporter) -> Message:
    """Train, and return the message with the outcome. Only deterministic failures are `failed`."""
    try:
        return {"type": "done", "result": train(request, reporter)}
    except TrainingStopped as stopped:
        return {"type": "stopped", "reason": stopped.reason}
    except TrainingFailed as failed:
        return {"type": "failed", "cause": failed.cause, "message": str(failed), "data": failed.data}
    except GangBroken as broken:
        data = {"silent": broken.silent}
        return {"type": "failed", "cause": FailureCause.gang_broken, "message": str(broken), "data": data}
    except BaseException as error:
        traceback.print_exception(error)
        cause, message = FailureCause.internal_error, f"{type(error).__name__}: {error}"[:2000]
        if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
            cause, message = FailureCause.out_of_memory, "The trainer ran out of memory"
        elif isinstance(error, OSError) and error.errno == 28:
            cause, message = FailureCause.disk_full, "The trainer's disk is full"
        return {"type": "failed", "cause": cause, "message": message, "data": {}}


def peak_bytes() -> int:
    """Return the peak memory of this process since `reset_peak`, in bytes."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text()
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # the peak then counts from the start of the process


if __name__ == "__main__":
    main()
