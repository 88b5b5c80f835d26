"""`fitserve status`, `down` and `logs`: the server that runs from a folder of this machine, from another terminal."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from fitserve import local_server, log_lines
from fitserve.cli import screen
from fitserve.cli.session import Exit, Session, command
from fitserve.errors import BadInput, FitserveError, NotFound, Unavailable
from fitserve.local_server import LocalServer

group = typer.Typer()
_PANEL = "Server"
_KILLED_SECONDS = 120.0  # a server that takes longer to stop counts as hanging
_POLL = 0.2
Home = Annotated[Path | None, typer.Option(help="Folder of the server. Default: FITSERVE_HOME, else ./fitserve-data.")]


def _folder(home: Path | None) -> Path:
    return home or local_server.home_here()


def _no_server(home: Path) -> NotFound:
    return NotFound(
        f"No server runs from {home}.",
        fix="Start one: fitserve up    If it runs from another folder: --home FOLDER, or FITSERVE_HOME",
    )


# --- status ---


@command(group, "status", "fitserve status", "fitserve status --json", rich_help_panel=_PANEL)
def status(session: Session, home: Home = None) -> None:
    """Show the server of this folder: its address, its parts, what it does. With --url: whether that server is ready.

    The exit code is 0 where everything is ready, 6 where something is not, 4 where no server runs.
    """
    if home is None and session.url is not None:  # --url, or FITSERVE_URL
        _remote_status(session)
        return
    folder = _folder(home)
    server = local_server.find(folder)
    if server is None:
        if local_server.is_locked(folder):
            raise Unavailable(f"The server of {folder} is starting.", fix="Ask again in a moment: fitserve status")
        raise _no_server(folder)
    rows = [(part.name, _state(server, part), str(part.pid or "")) for part in server.parts]
    state = "stopping" if server.stopping else "ready" if server.ready else "starting"
    values = {
        "fitserve": f"{state}, version {server.version}",
        "pages": server.address,
        "predictions": server.predict_url,
        "folder": server.home,
        "logs": server.log,
        "running for": screen.duration(max(0.0, time.time() - server.started_at)),
        "process": str(server.pid),
        "waits for": server.waits_for,
    }
    session.show(
        {**asdict(server), "state": state, "started_at": datetime.fromtimestamp(server.started_at, UTC)},
        screen.pairs(values),
        "",
        screen.table(("part", "state", "process"), rows),
    )
    if server.ready:
        session.hint("Sign in on the pages with the key in first-key. Stop it: fitserve down    Logs: fitserve logs -f")
    raise typer.Exit(Exit.done if all(part.ready for part in server.parts) and server.ready else Exit.try_again)


def _state(server: LocalServer, part: local_server.ServerPart) -> Text:
    if server.stopping:
        return Text("stopping", "yellow")
    return Text("ready", "green") if part.ready else Text("not ready", "yellow")


def _remote_status(session: Session) -> None:
    """Show what a server at an address reports of itself."""
    with session.client(retries=0) as client:
        from fitserve.client import Unreachable

        try:
            answer = client.ready()
        except Unreachable:
            raise
        except Unavailable as error:
            answer = {"status": "not ready", "checks": error.extra.get("checks") or error.detail}
        checks = answer.get("checks")
        parts = checks if isinstance(checks, dict) else {"": checks}
        session.show(
            {"url": client.base_url, **answer},
            screen.pairs({"server": client.base_url, "state": answer["status"]} | parts),
        )
    if answer["status"] != "ready":
        raise typer.Exit(Exit.try_again)


# --- down ---


@command(group, "down", "fitserve down", "fitserve down --now", rich_help_panel=_PANEL)
def down(
    session: Session,
    home: Home = None,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for the end of an epoch: runs resume from their last checkpoint.")
    ] = False,
) -> None:
    """Stop the server of this folder, as Ctrl-C does in its own terminal. Nothing is lost.

    A run that trains finishes its epoch first, and continues at the next start.
    """
    folder = _folder(home)
    server = _settled(folder)
    if server is None:
        session.show(
            {"home": str(folder), "was_running": False}, Text(f"Nothing to stop: no server runs from {folder}.")
        )
        return
    _ask_to_stop(server)
    if now:
        time.sleep(1.0)  # the server treats two requests within half a second as one
        _ask_to_stop(server)
    try:
        _wait_for_end(session, folder)
    except KeyboardInterrupt:
        session.err.print("It is still stopping. Do not wait for runs: fitserve down --now", markup=False)
        raise typer.Exit(Exit.interrupted) from None
    session.show({"home": str(folder), "was_running": True}, Text("fitserve has stopped."))


def _settled(folder: Path) -> LocalServer | None:
    """Return the server; wait for one that is starting and has not yet written its file."""
    for _ in range(10):
        server = local_server.find(folder)
        if server is not None or not local_server.is_locked(folder):
            return server
        time.sleep(_POLL)
    raise Unavailable(f"The server of {folder} has not said which process it is.", fix="Stop it in its own terminal.")


def _ask_to_stop(server: LocalServer) -> None:
    if not server.is_this_process():
        raise FitserveError(
            f"The server of {server.home} runs in another container or on another machine.",
            received=f"process {server.pid}",
            fix="Run fitserve down there.",
        )
    try:
        os.kill(server.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise FitserveError(
            f"The server, process {server.pid}, belongs to another user.", fix="Run fitserve down as that user."
        ) from None


def _wait_for_end(session: Session, folder: Path) -> None:
    deadline = time.monotonic() + _KILLED_SECONDS
    shown: str | None = None
    while local_server.is_locked(folder):
        if time.monotonic() > deadline:
            raise Unavailable(
                f"The server of {folder} has not stopped within {_KILLED_SECONDS:.0f} s.", fix="fitserve down --now"
            )
        server = local_server.find(folder)
        if server is not None and server.waits_for and server.waits_for != shown:
            first, shown = shown is None, server.waits_for
            if first:
                session.hint(f"Waiting for {shown}.")
                session.hint("Nothing is lost: it continues at the next start.")
        time.sleep(_POLL)


# --- logs ---


@dataclass
class LogFile:
    """The log of one part, read from its end."""

    part: str
    path: Path
    position: int = 0
    rest: bytes = b""

    def last(self, count: int) -> list[str]:
        """Return the last lines, continuing into older files if the newest has fewer."""
        lines: list[bytes] = []
        data = self._read()
        self.position = len(data)
        whole, _, self.rest = data.rpartition(b"\n")
        lines = whole.split(b"\n") if whole else []
        number = 1
        while len(lines) < count and (older := Path(f"{self.path}.{number}")).exists():
            lines = older.read_bytes().splitlines() + lines
            number += 1
        return [line.decode(errors="replace") for line in lines[-count:]] if count else []

    def new(self) -> Iterator[str]:
        """Yield the lines since the last call."""
        try:
            size = self.path.stat().st_size
        except OSError:
            return
        if size < self.position:  # the file was rotated and starts again
            self.position, self.rest = 0, b""
        if size == self.position:
            return
        data = self._read(self.position)
        self.position += len(data)
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")

    def _read(self, start: int = 0) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read()
        except OSError:
            return b""


@command(
    group,
    "logs",
    "fitserve logs",
    "fitserve logs -f worker",
    "fitserve logs api --lines 200 --json",
    rich_help_panel=_PANEL,
)
def logs(
    session: Session,
    part: Annotated[
        str | None, typer.Argument(help="api, predictions, worker, reaper, broker or up. Default: all.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print what comes, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Print so many of the last lines.")] = 50,
    home: Home = None,
) -> None:
    """Print the logs of this folder's server in readable lines; with --json, each as an object."""
    folder = _folder(home)
    files = _chosen(folder, part)
    entries = [entry for file in files for entry in _entries(file, file.last(lines))]
    for entry in sorted(entries, key=lambda entry: entry.time)[-lines:] if lines else ():
        _print(session, entry)
    known = {file.path for file in files}
    while follow:
        time.sleep(_POLL)
        for file in _chosen(folder, part) if part is None else ():
            if file.path not in known:
                known.add(file.path)
                files.append(file)
        fresh = [entry for file in files for entry in _entries(file, file.new())]
        for entry in sorted(fresh, key=lambda entry: entry.time):
            _print(session, entry)


def _chosen(folder: Path, part: str | None) -> list[LogFile]:
    paths = {path.stem: path for path in sorted((folder / local_server.LOGS).glob("*.log"))}
    broker = folder / "redis" / "redis.log"
    if broker.exists():
        paths["broker"] = broker
    if not paths:
        raise NotFound(
            f"There are no logs in {folder / local_server.LOGS}.",
            fix="Start a server here: fitserve up    If it runs from another folder: --home FOLDER",
        )
    if part is not None:
        wanted = part.lower().replace(" ", "-")
        # `predictions` names predict.log, `worker` every worker's file.
        paths = {name: path for name, path in paths.items() if name.startswith(wanted) or wanted.startswith(name)}
        if not paths or not wanted:
            every = ", ".join(sorted({file.part for file in _chosen(folder, None)}))
            raise BadInput(f"There is no part {part}.", received=part, expected=every, fix="fitserve logs PART")
    return [LogFile(name, path) for name, path in paths.items()]


@dataclass(frozen=True)
class _Entry:
    time: float
    part: str
    raw: str
    line: log_lines.LogLine | None


def _entries(file: LogFile, lines: Any) -> Iterator[_Entry]:
    """Yield lines with their times; a line without a time gets the previous line's."""
    at = 0.0
    for raw in lines:
        if not raw.strip():
            continue
        line = log_lines.parse(raw)
        at = line.time if line else at or time.time()
        yield _Entry(at, file.part, raw, line)


_STYLES = {"WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red", "DEBUG": "dim"}


def _print(session: Session, entry: _Entry) -> None:
    if session.json:
        typer.echo(entry.raw if entry.raw.startswith("{") else _as_json(entry))
        return
    head = Text.assemble((log_lines.clock(entry.time), "dim"), f" {entry.part:<9} ")
    if entry.line is None:
        text = Text.assemble(head, f"{'':<7} ", log_lines.printable(entry.raw))
    else:
        text = Text.assemble(head, (f"{entry.line.level:<7}", _STYLES.get(entry.line.level, "")), " ", entry.line.text)
    session.out.print(text, soft_wrap=True)


def _as_json(entry: _Entry) -> str:
    """Return a plain-text line from a library or the broker in the JSON form of our own lines."""
    at = datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="milliseconds")
    level = entry.line.level if entry.line else "INFO"
    return json.dumps({"time": at, "level": level, "process": entry.part, "message": entry.raw})
