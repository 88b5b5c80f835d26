"""`make fresh`: `make run` and `make test` on bare machines, as an ordinary user whose home has a blank in its name.

Each machine is a Debian from debootstrap with python3, python3-venv, make and git, entered by chroot in namespaces of
its own (mounts, processes; the network is this machine's). The last commit is cloned there, without changes since.
Needs Linux, root and debootstrap; without them it is skipped with the reason. Uses no package but Python's own.

FRESH_COMMANDS   what to run: `run`, `test`, or other targets of the Makefile. Default: run test.
FRESH_MACHINES   Default: bookworm trixie (Debian 12, Python 3.11; Debian 13, Python 3.13).
FRESH_USER       `root` instead of the ordinary user.
FRESH_FOLDER     where the bare machines are kept. Default: fitserve-fresh in the user's cache.
FRESH_MIRROR     Debian's mirror. Default: debootstrap's.

Variables that tell pip, uv and npm how to reach their indexes are passed on, and the files of certificates that they
name are copied.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
PACKAGES = "python3,python3-venv,make,git,ca-certificates"
HOME = "/home/ada lovelace"
FOLDER = "fit serve"  # the clone's name in the home
PASSED_ON = ("PIP_", "UV_", "NPM_CONFIG_", "npm_config_")
PASSED_ON_NAMES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
PORTS = ("PORT", "PREDICT_PORT", "GRPC_PORT", "WORKER_METRICS_PORT", "REAPER_METRICS_PORT")
CHROOT = shutil.which("chroot", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
READY_SECONDS = 900  # installing TensorFlow and building the pages, on a slow line
TEST_SECONDS = 7200


class Failed(Exception):
    """A command failed on a machine."""


@dataclass(frozen=True)
class Machine:
    """A bare machine's copy, to be used once."""

    suite: str
    root: Path
    user: str

    def command(self, script: str) -> list[str]:
        """Return the command that runs a shell script there, as the user, in the clone."""
        mounts = (
            f"mount -t proc proc '{self.root}/proc' && mount --rbind /dev '{self.root}/dev' && "
            f"mount -t tmpfs -o mode=1777 tmpfs '{self.root}/dev/shm' && "
            f"exec '{CHROOT}' --userspec={self.user}:{self.user} '{self.root}' "
            f"""sh -c 'cd "{HOME}/{FOLDER}" && {script}'"""
        )
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", mounts]

    def environment(self, **more: str) -> dict[str, str]:
        """Return an environment as after a login, with the settings of this machine's package managers."""
        passed = {name: value for name, value in os.environ.items() if passed_on(name)}
        login = {"HOME": HOME, "USER": self.user, "LANG": "C", "TZ": "Asia/Taipei", "SHELL": "/bin/sh"}
        return {**passed, **login, "PATH": "/usr/local/bin:/usr/bin:/bin", **more}


def passed_on(name: str) -> bool:
    return name.startswith(PASSED_ON) or name in PASSED_ON_NAMES or name.lower().endswith("_proxy")


def main() -> int:
    if reason := why_not():
        print(f"fresh: SKIPPED: {reason}")
        return 0
    failed = 0
    for suite in os.environ.get("FRESH_MACHINES", "bookworm trixie").split():
        try:
            base = bare_machine(suite)
        except subprocess.CalledProcessError as error:
            print(f"fresh: {suite}: SKIPPED: debootstrap failed ({error.returncode}); is Debian's mirror reachable?")
            continue
        for command in os.environ.get("FRESH_COMMANDS", "run test").split():
            with copy_of(suite, base) as machine:
                failed += not attempt(machine, command)
    return 1 if failed else 0


def why_not() -> str | None:
    """Return why the machines cannot be made here, or None."""
    if sys.platform != "linux":
        return "it needs Linux"
    if os.geteuid() != 0:
        return "debootstrap and chroot need root: sudo make fresh"
    if CHROOT is None:
        return "chroot is not installed (Debian: apt install coreutils)"
    for program, package in {"debootstrap": "debootstrap", "unshare": "util-linux", "git": "git"}.items():
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: apt install {package})"
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        return "namespaces cannot be made here (in a container: run it privileged)"
    return None


def bare_machine(suite: str) -> Path:
    """Return the folder of a bare machine, which is made the first time."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    kept = Path(os.environ.get("FRESH_FOLDER") or Path(cache) / "fitserve-fresh")
    base = kept / suite
    if not base.is_dir():
        kept.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{suite}-", dir=kept))
        mirror = [value for value in [os.environ.get("FRESH_MIRROR")] if value]
        started = time.monotonic()
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(partial), *mirror]
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        except subprocess.CalledProcessError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.chmod(0o755)
        partial.rename(base)
        print(f"fresh: {suite}: made in {time.monotonic() - started:.0f} s", flush=True)
    return base


@contextlib.contextmanager
def copy_of(suite: str, base: Path) -> Iterator[Machine]:
    """A copy of a bare machine with the user, the network's configuration and the clone."""
    with tempfile.TemporaryDirectory(prefix=f"{suite}-", dir=base.parent, ignore_cleanup_errors=True) as folder:
        root = Path(folder) / "root"
        subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(root)], check=True)
        user = os.environ.get("FRESH_USER", "ada")
        if user != "root":
            subprocess.run(["chroot", str(root), "useradd", "--create-home", "--home-dir", HOME, user], check=True)
        home = root / HOME.lstrip("/")
        home.mkdir(exist_ok=True)
        for path in ("/etc/resolv.conf", "/etc/hosts", *named_files()):
            target = root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copyfile(path, target)
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(PROJECT), str(home / FOLDER)], check=True)
        owner = (
            "0:0"
            if user == "root"
            else subprocess.check_output(
                ["chroot", str(root), "sh", "-c", f"echo $(id -u {user}):$(id -g {user})"], text=True
            ).strip()
        )
        subprocess.run(["chown", "-R", owner, str(home)], check=True)
        yield Machine(suite, root, user)


def named_files() -> list[str]:
    """Return the certificate files that passed on variables name."""
    values = {value for name, value in os.environ.items() if passed_on(name)}
    return sorted(value for value in values if value.startswith("/") and Path(value).is_file())


def attempt(machine: Machine, command: str) -> bool:
    """Run `make run` until it is ready, or another target to its end. Whether that works; prints seconds."""
    name = f"fresh: {machine.suite}, {machine.user}: make {command}"
    try:
        told = until_ready(machine) if command == "run" else to_the_end(machine, command)
    except Failed as failure:
        print(f"{name}: FAILED: {failure}", flush=True)
        return False
    print(f"{name}: {told}", flush=True)
    return True


def until_ready(machine: Machine) -> str:
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    settings = {f"FITSERVE_{name}": str(port) for name, port in ports.items()}
    log = machine.root.parent / "run.log"
    started = time.monotonic()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            machine.command("exec make run"),
            env=machine.environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    clone = machine.root / HOME.lstrip("/") / FOLDER
    installed = 0.0
    try:
        waiting = [f"http://127.0.0.1:{ports[name]}/readyz" for name in PORTS if name != "GRPC_PORT"]
        while waiting:
            if process.poll() is not None or time.monotonic() - started > READY_SECONDS:
                raise Failed(f"not ready: {waiting}\n{end_of(log)}")
            if not installed and (clone / "fitserve-data").exists():
                installed = time.monotonic() - started
            waiting = [url for url in waiting if not is_ready(url)]
            time.sleep(0.1)
        ready = time.monotonic() - started
    finally:
        stop(process)
    if "fitserve has stopped" not in log.read_text(errors="replace"):
        raise Failed(f"it did not stop in order\n{end_of(log)}")
    return f"ready: {installed:.0f} s of installing, {ready - installed:.0f} s of starting"


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop what runs there as Ctrl-C does, or kill it after a minute."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def to_the_end(machine: Machine, command: str) -> str:
    log = machine.root.parent / f"{command}.log"
    started = time.monotonic()
    with log.open("wb") as sink:
        try:
            done = subprocess.run(
                machine.command(f"exec make {command}"),
                env=machine.environment(),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                timeout=TEST_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"not done after {TEST_SECONDS} s\n{end_of(log)}") from None
    if done.returncode:
        raise Failed(f"exit code {done.returncode}\n{end_of(log)}")
    return f"{time.monotonic() - started:.0f} s: {end_of(log, 1).strip()}"


def end_of(log: Path, lines: int = 60) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


if __name__ == "__main__":
    sys.exit(main())
