"""The trainer's sandbox: no sockets, no signals, only the files that training needs. Entered before other imports.

Linux mechanisms that need no privilege: seccomp (no new socket, no access and no signal to other processes), Landlock
(read the interpreter, the libraries and the data; write the folders of runs), and root drops its capabilities. Where
one of them is missing, training continues without it and the supervisor logs why. The memory limit is set after the
warm-up.

Sources: seccomp(2), Linux `Documentation/userspace-api/landlock.rst`, `include/uapi/linux/landlock.h`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import fitserve
from fitserve.crash_points import hooks_allowed

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_ALLOW, _ERRNO, _EACCES, _ENOSYS = 0x7FFF0000, 0x00050000, 13, 38
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF opcodes
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; the lower half of a 64-bit argument
_IO_URING_SETUP, _PIDFD_GETFD, _PIDFD_SEND_SIGNAL = 425, 438, 424  # the same on every architecture


class _Machine(NamedTuple):
    """An architecture's constants for seccomp: its audit number, and its system call numbers."""

    audit: int
    sockets: tuple[int, ...]  # socket
    processes: tuple[int, ...]  # ptrace, process_vm_readv, process_vm_writev, tkill
    signals: tuple[int, ...]  # kill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo: the first argument is a process


_MACHINES = {
    "x86_64": _Machine(0xC000003E, (41,), (101, 310, 311, 200), (62, 234, 129, 297)),
    "aarch64": _Machine(0xC00000B7, (198,), (117, 270, 271, 130), (129, 131, 138, 240)),
}
_X32 = 0x40000000  # bit of a second system call table on x86_64


def refuse_calls(*, sockets: bool = True) -> str:
    """Refuse access and signals to other processes, and new sockets: the channel is open already.

    Returns why not, or "".
    """
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return f"no filter for {sys.platform} on {platform.machine()}"
    machine = _MACHINES[platform.machine()]
    program = [(_LOAD, 0, 0, _ARCH), (_JUMP_EQUAL, 1, 0, machine.audit), (_RETURN, 0, 0, _ERRNO | _EACCES)]
    program += [(_LOAD, 0, 0, _NUMBER), (_JUMP_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ERRNO | _EACCES)]
    for number in (*(machine.sockets if sockets else ()), *machine.processes, _PIDFD_GETFD, _PIDFD_SEND_SIGNAL):
        program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | _EACCES)]
    for number in machine.signals:  # allowed to itself only: an abort sends such a signal
        program += [(_JUMP_EQUAL, 0, 4, number), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_JUMP_EQUAL, 0, 1, os.getpid())]
        program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | _EACCES)]
    if sockets:  # io_uring can open sockets too
        program += [(_JUMP_EQUAL, 0, 1, _IO_URING_SETUP), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    program += [(_RETURN, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    program_header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_void_p(ctypes.addressof(program_header)), 0, 0
    ):
        return f"seccomp: {os.strerror(ctypes.get_errno())}"
    return ""


# Landlock
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF, _PATH_BENEATH = 444, 445, 446, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}  # rights that each version can control

_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/opt", "/nix", "/sys", "/proc")
# Files in /etc that libraries read; the rest has password hashes, host keys and other programs' secrets.
_CONFIGURATION = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "timezone", "locale.alias"),
    *("passwd", "group", "nsswitch.conf", "hosts", "resolv.conf", "gai.conf", "mime.types", "os-release"),
    *("ssl/certs", "ssl/openssl.cnf", "OpenCL", "vulkan", "fonts"),
)


def restrict_files(reads: Iterable[Path], writes: Iterable[Path], private: Path) -> str:
    """Restrict this process to the files that training needs: no database, key or secret. Returns why not, or "".

    `/proc/<pid>` of processes outside the sandbox becomes unreadable too.
    """
    if sys.platform != "linux":
        return f"no Landlock on {sys.platform}"
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return f"Landlock: {os.strerror(ctypes.get_errno())}"
    handled = _BY_ABI[min(version, 3)]
    ruleset = libc.syscall(_CREATE_RULESET, struct.pack("Q", handled), 8, 0)
    if ruleset < 0:
        return f"Landlock: {os.strerror(ctypes.get_errno())}"
    try:
        for path in _readable(reads, private):
            _allow(libc, ruleset, path, _READ & handled)
        for path in (*writes, Path("/dev"), Path("/proc/self")):
            _allow(libc, ruleset, path, handled)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(_RESTRICT_SELF, ruleset, 0):
            return f"Landlock: {os.strerror(ctypes.get_errno())}"
    finally:
        os.close(ruleset)
    return ""


def _readable(reads: Iterable[Path], private: Path) -> set[Path]:
    """Return folders of the system, the interpreter, the libraries and the data; none that contains `private`.

    Landlock cannot revoke rights beneath a path, so of our own project only the packages are listed.
    """
    workers = Path(__file__).resolve().parent.parent
    paths = {Path(path) for path in (*_SYSTEM, sys.prefix, sys.base_prefix, sys.exec_prefix)}
    paths |= {Path("/etc") / name for name in _CONFIGURATION}
    paths |= {Path(path) for path in sys.path if path}
    paths |= {Path(path) for path in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if path}
    paths |= {Path(sys.executable).resolve().parent.parent, workers, Path(fitserve.__file__).resolve().parent}
    if hooks_allowed():
        paths.add(workers.parent / "tests")
    return {path for path in paths if not private.is_relative_to(path.resolve())} | set(reads)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    """Allow rights beneath a path; a missing path is skipped."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not path.is_dir():
            rights &= _OF_FILES
        libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


# Capabilities
_CAPSET_VERSION, _PR_CAPBSET_DROP, _LAST_CAPABILITY, _DAC_OVERRIDE = 0x20080522, 24, 63, 1


def drop_capabilities() -> str:
    """Drop all capabilities except file ownership (CAP_DAC_OVERRIDE; Landlock restricts files). Returns why not, or "".

    With capabilities root can look into other processes despite Landlock: CAP_PERFMON reads their environment.
    """
    if sys.platform != "linux":
        return f"no capabilities on {sys.platform}"
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_LAST_CAPABILITY + 1):
        if capability != _DAC_OVERRIDE:
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails where there is nothing to drop
    header, data = struct.pack("=Ii", _CAPSET_VERSION, 0), ctypes.create_string_buffer(24)
    if libc.capget(header, data):
        return f"capabilities: {os.strerror(ctypes.get_errno())}"
    held = struct.unpack("=6I", data.raw)  # effective, permitted, inheritable; then those above 31
    retained = 1 << _DAC_OVERRIDE
    reduced = struct.pack("=6I", held[0] & retained, held[1] & retained, 0, 0, 0, 0)
    return f"capabilities: {os.strerror(ctypes.get_errno())}" if libc.capset(header, reduced) else ""


def enter_sandbox(
    reads: Iterable[Path], writes: Iterable[Path], private: Path, *, network: bool = False
) -> dict[str, str]:
    """Restrict this process. Call it before there is a second thread, which would stay outside.

    Args:
        reads, writes: folders for data and for results.
        private: the folder with database and keys; beneath it only `reads` and `writes` stay accessible.
        network: leave sockets alone.

    Returns what could not be restricted, with the reason.
    """
    failures = {"files": restrict_files(reads, writes, private), "capabilities": drop_capabilities()}
    failures["sockets and processes"] = refuse_calls(sockets=not network)
    return {name: reason for name, reason in failures.items() if reason}
