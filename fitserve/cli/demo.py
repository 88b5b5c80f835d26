"""`fitserve demo`: two real tables, from CSV to predictions, on a running server or on one of its own."""

from __future__ import annotations

import contextlib
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

from fitserve import server_code
from fitserve.cli import screen, server, watch
from fitserve.cli.session import Exit, Session, command
from fitserve.errors import FitserveError, Unavailable

if TYPE_CHECKING:
    from fitserve.client import Client

_START_SECONDS = 120
_NETWORK = [{"Dense": {"units": 16, "activation": "relu", "kernel_regularizer": {"L2": 0.01}}}, {"Dropout": 0.2}]
_COUNTER = re.compile(r"fitserve_\w++(?<=_total|_count)(\{[^{}]*+\})? ")
_MAX_LINES = 24


@dataclass(frozen=True)
class DemoTable:
    """One of scikit-learn's bundled tables and how to train on it."""

    name: str
    title: str
    target: str
    score: str  # name of the score on the test rows
    least: float  # least score for success
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
    DemoTable(
        "breast-cancer",
        "Wisconsin breast cancer (569 x 30): malignant or benign?",
        "diagnosis",
        "accuracy",
        0.95,
        _spec("stratified", 0.01, 15, 4),
    ),
    DemoTable(
        "diabetes",
        "Diabetes (442 x 10): how far has it progressed after a year?",
        "progression",
        "r2",
        0.40,
        _spec("stratified", 0.005, 20, 4),
    ),
)


group = typer.Typer()


@command(group, "demo", "fitserve demo", "fitserve --url http://models:8000 demo", rich_help_panel="Server")
def demo(session: Session) -> None:
    """Upload two real tables, train on both, predict, and show the telemetry that changed.

    It uses the running server and leaves links to what it made; without one, it starts one in a temporary folder,
    which on a terminal runs until Enter is pressed. The tables are scikit-learn's: breast cancer (classification) and
    diabetes (regression).
    """
    session.hint("The demo uploads two real tables, trains a network on each, and asks both for predictions.")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fitserve-demo-")))
        paths = {table.name: write_csv(table, folder) for table in TABLES}
        client, own = stack.enter_context(_running_server(session, folder))
        before = counters(client)
        results = [_train(session, client, table, paths[table.name]) for table in TABLES]
        changes = {
            name: [before.get(name, "0.0"), value]
            for name, value in counters(client).items()
            if value != before.get(name, "0.0")
        }
        _show_changes(session, changes)
        _show_links(session, client, results)
        if own and not session.json:
            _keep_until_enter(session, client, folder)
    if session.json:
        typer.echo(screen.json_text({"tables": results, "telemetry": changes}))
    missed = [item for item in results if item["test"] < item["least"]]
    for item in missed:
        session.err.print(f"[red]{item['dataset']}: {item['figure']} {item['test']:.3f} is below {item['least']}[/]")
    if missed:
        raise typer.Exit(Exit.failed)


def write_csv(table: DemoTable, folder: Path) -> Path:
    """Write scikit-learn's table as a CSV file with a header. Raises NotInstalled without scikit-learn."""
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
def _running_server(session: Session, folder: Path) -> Iterator[tuple[Client, bool]]:
    """Yield a client of the running server, or of one started here; and whether it was started here."""
    with session.client(retries=0) as client:
        from fitserve.client import Unreachable

        try:
            client.ready()
            running = True
        except Unreachable:
            running = False
            if session.url is not None:
                raise
    if running:
        with session.client() as client:
            session.hint(f"Using the server at {client.base_url}.")
            yield client, False
        return
    server.require_server()
    with _own_server(session, folder) as client:
        yield client, True


@contextmanager
def _own_server(session: Session, folder: Path) -> Iterator[Client]:
    """Run `fitserve up` in that folder on free ports until the block ends."""
    from fitserve.client import Client

    names = ("PORT", "PREDICT_PORT", "GRPC_PORT", "WORKER_METRICS_PORT", "REAPER_METRICS_PORT")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    home = folder / "home"
    environment = {"HOME": str(home), **{name: str(port) for name, port in ports.items()}}
    session.hint("No server answers; starting one for the demo ...")
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.up"],
            env=server_code.environment(**{f"FITSERVE_{name}": value for name, value in environment.items()}),
            stdout=log,
            stderr=log,
            start_new_session=True,  # so that Ctrl-C reaches only us, and we stop the server
        )
    try:
        token = _wait_until_ready(process, home, folder / "server.log")
        here = "http://127.0.0.1"
        with Client(f"{here}:{ports['PORT']}", token, predict_url=f"{here}:{ports['PREDICT_PORT']}") as client:
            session.hint(f"It is ready at {client.base_url}.")
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


def _wait_until_ready(process: subprocess.Popen[bytes], home: Path, log: Path) -> str:
    """Return the first key once the server is ready. Raises Unavailable with the end of the log."""
    deadline = time.monotonic() + _START_SECONDS
    while b"fitserve is ready" not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > deadline:
            raise Unavailable(f"The server did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)
    return (home / "first-key").read_text().strip()


def _train(session: Session, client: Client, table: DemoTable, path: Path) -> dict[str, Any]:
    """Upload, train, predict; return the results."""
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
    score = run.scores("test")[table.score]
    seconds = time.monotonic() - started
    if not session.json:
        session.out.print(f"trained {run.id} in {screen.duration(seconds)}")
        session.out.print(f"[bold]{table.score} on the test rows: {score:.3f}[/]   (at least {table.least})")
    rows = list(dataset.iter_rows(3))
    truth = [row.pop(table.target) for row in rows]
    predict = client.models.classify if table.score == "accuracy" else client.models.regress
    predictions = predict(table.name, rows)
    if not session.json:
        session.out.print(f"POST {predictions.url}")
        cells = [(index + 1, truth[index], _prediction(item)) for index, item in enumerate(predictions)]
        session.out.print(screen.table(("row", f"actual {table.target}", "predicted"), cells))
    return {
        "dataset": dataset.ref,
        "model": table.name,
        "run": run.id,
        "figure": table.score,
        "test": score,
        "least": table.least,
        "seconds": seconds,
        "predictions": list(predictions),
    }


def _prediction(value: Any) -> str:
    """Return the likeliest label with its score, or the number."""
    if isinstance(value, dict):
        label = max(value, key=value.__getitem__)
        return f"{label} ({value[label]:.1%})"
    return f"{value:.1f}"


def counters(client: Client) -> dict[str, str]:
    """Return the counters of the API and of the prediction service, by process and series."""
    values: dict[str, str] = {}
    processes: tuple[Literal["control", "predict"], ...] = ("control", "predict")
    for process in processes:
        for line in client.telemetry(process).splitlines():
            if _COUNTER.match(line):
                series, _, value = line.rpartition(" ")
                values[f"{process:8} {series}"] = value
    return values


def _keep_until_enter(session: Session, client: Client, folder: Path) -> None:
    """On a terminal, keep the demo's own server running until Enter is pressed."""
    if not (sys.stdin.isatty() and session.out.is_terminal):
        session.hint(
            "The demo's server stops now, and its folder is deleted. To keep what it makes: fitserve up first."
        )
        return
    key = (folder / "home" / "first-key").read_text().strip()
    session.out.print(f"\nThe pages, signed in: {client.base_url}/#key={key}", markup=False, soft_wrap=True)
    session.out.print("The demo's server runs until you press Enter; then its folder is deleted.", markup=False)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        input()


def _show_links(session: Session, client: Client, results: list[dict[str, Any]]) -> None:
    """Print links to the results, and what to do with them next."""
    if session.json:
        return
    session.out.rule("what it left behind", align="left", style="dim")
    for item in results:
        dataset, model = item["dataset"], item["model"]
        rows = {
            "table": f"{client.base_url}/datasets/{dataset}",
            "run": f"{client.base_url}/runs/{item['run']}",
            "model": f"{client.base_url}/models/{model}",
        }
        session.out.print(model, style="bold")
        for name, address in rows.items():
            session.out.print(f"  {name:<6} {address}", markup=False, soft_wrap=True)
    first = results[0]
    session.hint(f"What went well in the first run: fitserve runs findings {first['run']}")
    session.hint("Your own table: fitserve train TABLE.csv --target COLUMN")


def _show_changes(session: Session, changes: dict[str, list[str]]) -> None:
    if session.json:
        return
    session.out.rule("/metrics: what changed", align="left", style="dim")
    for name, (old, new) in list(changes.items())[:_MAX_LINES]:
        session.out.print(f"{name}  {float(old):g} -> {float(new):g}", markup=False, overflow="ellipsis", no_wrap=True)
    if len(changes) > _MAX_LINES:
        session.out.print(f"... and {len(changes) - _MAX_LINES} more", style="dim")
