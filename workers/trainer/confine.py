"""The trainer gives up what training does not need, before anything else is imported: sockets and most files.

Linux mechanisms that need no privilege: seccomp (no new socket of any kind, nothing of other processes), Landlock
(files: read the interpreter, the libraries and the data, write the folders of runs), and a root drops its powers.
Where one of them is missing, training goes on without it, and the supervisor logs why. The memory limit is set after
the warm-up.

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

from fitserve.crash import hooks_allowed

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_ALLOW, _ERRNO, _EACCES, _ENOSYS = 0x7FFF0000, 0x00050000, 13, 38
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF opcodes
_NUMBER, _ARCH = 0, 4  # offsets in struct seccomp_data
_IO_URING_SETUP, _PIDFD_GETFD = 425, 438  # the same everywhere

# By machine: the audit architecture; socket, ptrace, process_vm_readv, process_vm_writev.
_MACHINES = {
    "x86_64": (0xC000003E, (41, 101, 310, 311)),
    "aarch64": (0xC00000B7, (198, 117, 270, 271)),
}
_X32 = 0x40000000  # a second system call table on x86_64


def without_sockets() -> str:
    """From here on this process makes no socket. Returns why not, or an empty text. The channel is open already."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return f"no filter for {sys.platform} on {platform.machine()}"
    architecture, refused = _MACHINES[platform.machine()]
    program = [(_LOAD, 0, 0, _ARCH), (_JUMP_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _ERRNO | _EACCES)]
    program += [(_LOAD, 0, 0, _NUMBER), (_JUMP_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ERRNO | _EACCES)]
    for number in (*refused, _PIDFD_GETFD):
        program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | _EACCES)]
    program += [(_JUMP_EQUAL, 0, 1, _IO_URING_SETUP), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]  # it can open sockets, too
    program += [(_RETURN, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    described = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_void_p(ctypes.addressof(described)), 0, 0
    ):
        return f"seccomp: {os.strerror(ctypes.get_errno())}"
    return ""


# Landlock
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF, _PATH_BENEATH = 444, 445, 446, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}  # what each version can watch over

_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/etc", "/opt", "/nix", "/sys", "/proc", "/run/systemd")


def with_few_files(reads: Iterable[Path], writes: Iterable[Path], kept_shut: Path) -> str:
    """From here on this process opens what training needs, and no database, no key and no secret.

    Returns why not, or an empty text. `/proc/<pid>` of processes outside stays shut by this, too.
    """
    if sys.platform != "linux":
        return f"no Landlock on {sys.platform}"
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return f"Landlock: {os.strerror(ctypes.get_errno())}"
    watched = _BY_ABI[min(version, 3)]
    ruleset = libc.syscall(_CREATE_RULESET, struct.pack("Q", watched), 8, 0)
    if ruleset < 0:
        return f"Landlock: {os.strerror(ctypes.get_errno())}"
    try:
        for path in _needed(reads, kept_shut):
            _allow(libc, ruleset, path, _READ & watched)
        for path in (*writes, Path("/dev"), Path("/proc/self")):
            _allow(libc, ruleset, path, watched)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(_RESTRICT_SELF, ruleset, 0):
            return f"Landlock: {os.strerror(ctypes.get_errno())}"
    finally:
        os.close(ruleset)
    return ""


def _needed(reads: Iterable[Path], kept_shut: Path) -> set[Path]:
    """The system's folders, the interpreter's, the libraries' and the data's; none that has `kept_shut` in it.

    Rights cannot be taken back beneath a path, so of our own project only the packages are opened.
    """
    project = Path(__file__).resolve().parent.parent.parent
    paths = {Path(path) for path in (*_SYSTEM, sys.prefix, sys.base_prefix, sys.exec_prefix)}
    paths |= {Path(path) for path in sys.path if path}
    paths |= {Path(path) for path in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if path}
    paths |= {Path(sys.executable).resolve().parent.parent, *(project / name for name in ("fitserve", "workers"))}
    if hooks_allowed():
        paths.add(project / "tests")
    return {path for path in paths if not kept_shut.is_relative_to(path.resolve())} | set(reads)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    """Rights beneath a path; one that is not there gives none."""
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


# Capabilities: a root without them
_CAPSET_VERSION, _PR_CAPBSET_DROP, _LAST_CAPABILITY, _DAC_OVERRIDE = 0x20080522, 24, 63, 1


def without_capabilities() -> str:
    """Root's powers go, but for whose a file is: Landlock says which files. Returns why not, or an empty text.

    With them a root may look into other processes (CAP_PERFMON reads their environment), Landlock or not.
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
    kept = 1 << _DAC_OVERRIDE
    less = struct.pack("=6I", held[0] & kept, held[1] & kept, 0, 0, 0, 0)
    return f"capabilities: {os.strerror(ctypes.get_errno())}" if libc.capset(header, less) else ""


def confine(reads: Iterable[Path], writes: Iterable[Path], kept_shut: Path, *, network: bool = False) -> dict[str, str]:
    """All of them; returns what could not be given up, with its reason. Call it before there is a second thread.

    `kept_shut` is the folder with database and keys: beneath it, `reads` and `writes` alone are opened.
    """
    missing = {"files": with_few_files(reads, writes, kept_shut), "powers": without_capabilities()}
    if not network:
        missing["sockets"] = without_sockets()
    return {name: why for name, why in missing.items() if why}
