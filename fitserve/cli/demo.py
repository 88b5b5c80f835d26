"""`fitserve demo`: two real tables, from CSV to predictions, on a server that runs or on one of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from fitserve.cli import screen, server, watch
from fitserve.cli.exit_codes import Exit
from fitserve.cli.session import Session, command
from fitserve.errors import FitserveError, Unavailable

if TYPE_CHECKING:
    from fitserve.client import Client

_START_SECONDS = 120
_NETWORK = [{"Dense": {"units": 16, "activation": "relu", "kernel_regularizer": {"L2": 0.01}}}, {"Dropout": 0.2}]
_MOVED = re.compile(r"fitserve_\w+_(total|count)(\{[^}]*\})? ")
_MOST_LINES = 24


@dataclass(frozen=True)
class Table:
    """One of scikit-learn's bundled tables and how to train on it."""

    name: str
    title: str
    target: str
    test: str  # the figure of the held-out rows, and what it must reach
    least: float
    spec: dict[str, Any]


def _spec(method: str, learning_rate: float, patience: int, restarts: int) -> dict[str, Any]:
    return {
        "split": {"method": method, "validation": 0.2, "test": 0.2},
        "network": _NETWORK,
        "training": {
            "optimizer": {"Adam": {"learning_rate": learning_rate}},
            "batch_size": 32,
            "epochs": 200,
            "early_stopping": {"monitor": "val_loss", "patience": patience, "restore_best_weights": True},
            "restarts": restarts,
            "seed": 5,
        },
    }


TABLES = (
    Table(
        "breast-cancer",
        "Wisconsin breast cancer (569 x 30): malignant or benign?",
        "diagnosis",
        "accuracy",
        0.95,
        _spec("stratified", 0.01, 15, 4),
    ),
    Table(
        "diabetes",
        "Diabetes (442 x 10): how far has it progressed after a year?",
        "progression",
        "r2",
        0.40,
        _spec("stratified", 0.005, 20, 4),
    ),
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "demo", "fitserve demo", "fitserve --url http://models:8000 demo", rich_help_panel="Server")(demo)


def demo(session: Session) -> None:
    """Upload two real tables, train on both, predict, and show the telemetry that moved.

    Uses the server that runs; where none does, it starts one in a temporary folder and stops it at the end.
    scikit-learn's bundled tables are used: breast cancer (classification) and diabetes (regression).
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fitserve-demo-")))
        paths = {table.name: write_csv(table, folder) for table in TABLES}
        client = stack.enter_context(_server(session, folder))
        before = lines_of(client)
        found = [_train(session, client, table, paths[table.name]) for table in TABLES]
        moved = changed(before, lines_of(client))
        _show_moved(session, moved)
    if session.json:
        typer.echo(screen.json_text({"tables": found, "telemetry": moved}))
    missed = [item for item in found if item["test"] < item["least"]]
    for item in missed:
        session.err.print(f"[red]{item['dataset']}: {item['figure']} {item['test']:.3f} is below {item['least']}[/]")
    if missed:
        raise typer.Exit(Exit.failed)


def write_csv(table: Table, folder: Path) -> Path:
    """scikit-learn's table as a CSV file with a header. Raises NotInstalled where scikit-learn is not there."""
    try:
        from sklearn import datasets
    except ImportError:
        raise server.NotInstalled(
            "The demo's tables come with scikit-learn.", fix="Install it: pip install scikit-learn"
        ) from None
    if table.name == "breast-cancer":
        data = datasets.load_breast_cancer()
        targets = [str(data.target_names[index]) for index in data.target]
    else:
        data = datasets.load_diabetes(scaled=False)
        targets = [f"{value:g}" for value in data.target]
    names = [str(name).replace(" ", "_") for name in data.feature_names]
    lines = [",".join([*names, table.target])]
    lines += [",".join([*(f"{value:.10g}" for value in row), y]) for row, y in zip(data.data, targets, strict=True)]
    path = folder / f"{table.name}.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@contextmanager
def _server(session: Session, folder: Path) -> Iterator[Client]:
    """A client of the server that runs, or of one started here."""
    with session.client(retries=0) as client:
        from fitserve.client import Unreachable

        try:
            client.ready()
            session.say(f"Using the server at {client.base_url}.")
            running = True
        except Unreachable:
            running = False
            if session.url is not None:
                raise
    if running:
        with session.client() as client:
            yield client
        return
    server.require_server()
    with _started(session, folder) as client:
        yield client


@contextmanager
def _started(session: Session, folder: Path) -> Iterator[Client]:
    """`fitserve up` in that folder on free ports, until the block ends."""
    from fitserve.client import Client

    names = ("PORT", "PREDICT_PORT", "GRPC_PORT", "WORKER_METRICS_PORT", "REAPER_METRICS_PORT")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    home = folder / "home"
    environment = {"HOME": str(home), **{name: str(port) for name, port in ports.items()}}
    session.say("No server answers; starting one for the demo ...")
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.up"],
            env={**os.environ, **{f"FITSERVE_{name}": value for name, value in environment.items()}},
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is ours; we stop it then
        )
    try:
        token = _wait(process, home, folder / "server.log")
        here = "http://127.0.0.1"
        with Client(f"{here}:{ports['PORT']}", token, predict_url=f"{here}:{ports['PREDICT_PORT']}") as client:
            session.say(f"It is ready at {client.base_url}.")
            yield client
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _wait(process: subprocess.Popen[bytes], home: Path, log: Path) -> str:
    """The first key, once the server says that it is ready. Raises Unavailable with the log's end."""
    deadline = time.monotonic() + _START_SECONDS
    while b"fitserve is ready" not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > deadline:
            raise Unavailable(f"The server did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)
    return (home / "first-key").read_text().strip()


def _train(session: Session, client: Client, table: Table, path: Path) -> dict[str, Any]:
    """Upload, train, predict; what came of it."""
    if not session.json:
        session.out.rule(table.title, align="left", style="dim")
    dataset = client.datasets.upload(path, table.name)
    if not session.json:
        session.out.print(f"uploaded {dataset.ref}: {dataset.rows} rows, {screen.size(dataset.bytes)}")
    started = time.monotonic()
    run = client.runs.create({"dataset": dataset.ref, "target": table.target, "model": table.name, **table.spec})
    if session.json:
        run.wait(check=False)
    else:
        watch.follow(session, run)
    if run.state != "succeeded":
        raise FitserveError(f"The run {run.id} ended as {run.state}.", fix=str((run.error or {}).get("detail", "")))
    figure = run.scores("test")[table.test]
    seconds = time.monotonic() - started
    if not session.json:
        session.out.print(f"trained {run.id} in {screen.duration(seconds)}")
        session.out.print(f"[bold]{table.test} on the test rows: {figure:.3f}[/]   (at least {table.least})")
    rows = list(dataset.iter_rows(3))
    truth = [row.pop(table.target) for row in rows]
    ask = client.models.classify if table.test == "accuracy" else client.models.regress
    answers = ask(table.name, rows)
    _show_predictions(session, table, truth, answers)
    return {
        "dataset": dataset.ref,
        "run": run.id,
        "figure": table.test,
        "test": figure,
        "least": table.least,
        "seconds": seconds,
        "predictions": list(answers),
    }


def _show_predictions(session: Session, table: Table, truth: list[Any], answers: Any) -> None:
    if session.json:
        return
    session.out.print(f"POST {answers.url}")
    rows = [(index, real, _answer(said)) for index, (real, said) in enumerate(zip(truth, answers, strict=True), 1)]
    session.out.print(screen.table(("row", f"real {table.target}", "predicted"), rows))


def _answer(said: Any) -> str:
    """The likeliest label with its score, or the number."""
    if isinstance(said, dict):
        label = max(said, key=said.__getitem__)
        return f"{label} ({said[label]:.1%})"
    return f"{said:.1f}"


def lines_of(client: Client) -> dict[str, str]:
    """The telemetry of the API and of the prediction service, by series."""
    found: dict[str, str] = {}
    processes: tuple[Literal["control", "predict"], ...] = ("control", "predict")
    for process in processes:
        for line in client.telemetry(process).splitlines():
            if _MOVED.match(line):
                series, _, value = line.rpartition(" ")
                found[f"{process:8} {series}"] = value
    return found


def changed(before: dict[str, str], after: dict[str, str]) -> dict[str, list[str]]:
    """The series that moved, with both values."""
    return {name: [before.get(name, "0.0"), value] for name, value in after.items() if before.get(name, "0.0") != value}


def _show_moved(session: Session, moved: dict[str, list[str]]) -> None:
    if session.json:
        return
    session.out.rule("/metrics: what moved", align="left", style="dim")
    for name, (old, new) in list(moved.items())[:_MOST_LINES]:
        session.out.print(f"{name}  {float(old):g} -> {float(new):g}", markup=False, overflow="ellipsis", no_wrap=True)
    if len(moved) > _MOST_LINES:
        session.out.print(f"... and {len(moved) - _MOST_LINES} more", style="dim")
