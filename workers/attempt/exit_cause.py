"""Why a trainer process died, from what can be seen of it."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NEAR = 0.8  # of the memory limit: a crash above this is put down to memory
_CGROUP_EVENTS = Path("/sys/fs/cgroup/memory.events")


@dataclass(frozen=True, slots=True)
class Death:
    """A cause, a sentence, evidence. `final`: training again would end the same way."""

    cause: str
    message: str
    data: dict[str, Any]
    final: bool


def cause_of_death(code: int, peak: int, limit: int, kernel_kills: int = 0) -> Death:
    """`code` as `Popen.returncode`; `peak` and `limit` in bytes; `kernel_kills`: out-of-memory kills of late."""
    mb = 1024 * 1024
    name = signal.Signals(-code).name if code < 0 and -code in set(signal.Signals) else f"exit code {code}"
    data: dict[str, Any] = {"exit": name, "peak_bytes": peak, "limit_bytes": limit}
    crashed = code in (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)
    if (code == -signal.SIGKILL and kernel_kills > 0) or (crashed and peak >= _NEAR * limit):
        by = "the kernel killed it" if kernel_kills else f"it ended with {name}"
        data["fix"] = "Use a smaller batch_size or network, or give the worker more memory."
        message = f"The trainer ran out of memory at {peak // mb} MB of {limit // mb} MB: {by}"
        return Death("out_of_memory", message, data, final=True)
    return Death("killed", f"The trainer was killed ({name})", data, final=False)


def out_of_memory(peak: int, limit: int) -> tuple[str, dict[str, Any]]:
    """The sentence and the evidence for a trainer that reached `peak` of `limit` bytes."""
    mb = 1024 * 1024
    text = f"The trainer ran out of memory: it reached {peak // mb} MB of {limit // mb} MB"
    fix = "Use a smaller batch_size or network, or raise FITSERVE_TRAINER_MEMORY_BYTES."
    return text, {"limit_bytes": limit, "peak_bytes": peak, "fix": fix}


def kernel_memory_kills() -> int:
    """How often the kernel has killed for memory in our control group; 0 where that cannot be seen."""
    try:
        lines = _CGROUP_EVENTS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
