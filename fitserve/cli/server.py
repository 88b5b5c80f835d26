"""`up`, `start`, `migrate`, `copy-blobs` and `doctor`: they run the server's code, which needs the extra `all`."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from fitserve import server_code
from fitserve.cli.session import Session, command
from fitserve.errors import FitserveError

_SERVER = ("alembic", "celery", "fastapi", "onnxruntime", "pyarrow", "redis", "sqlalchemy", "uvicorn")
_WORKER = ("keras", "tensorflow")


class NotInstalled(FitserveError):
    """The server is not installed here."""

    status = 422
    slug = "server-not-installed"
    title = "Server not installed"


def missing_parts(trains: bool = True) -> list[str]:
    """Return the packages that the server needs and this Python lacks; those for training only if it `trains`."""
    ours = [package for package in server_code.PACKAGES if not (server_code.folder() / package).is_dir()]
    needed = (*_SERVER, *_WORKER) if trains else _SERVER
    return [*ours, *(package for package in needed if find_spec(package) is None)]


def require_server(trains: bool = True) -> None:
    """Raise NotInstalled, naming what to install."""
    missing = missing_parts(trains)
    if not missing:
        return
    extra = "all" if trains else "server"
    if server_code.folder() == server_code.IN_WHEEL:
        fix = f"Install the server too: pip install 'fitserve[{extra}]', or its image: docker compose up."
    else:
        fix = f"In the checkout: make run, or pip install -e '.[{extra}]'."
    raise NotInstalled("The server is not installed here.", received=f"missing: {', '.join(missing)}", fix=fix)


def exec_module(module: str, *arguments: str, **environment: str) -> NoReturn:
    """Replace this process with `python -m module`, which then receives the signals and sets the exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(  # noqa: S606
        sys.executable, [sys.executable, "-m", module, *arguments], server_code.environment(**environment)
    )


class LogFormat(StrEnum):
    """What `fitserve up` prints."""

    auto = "auto"
    json = "json"


group = typer.Typer()
_PANEL = "Server"


@command(
    group,
    "up",
    "fitserve up",
    "fitserve up --home /srv/fitserve --port 9000 --workers 2",
    "fitserve up --log-format json",
    prints_json=False,
    rich_help_panel=_PANEL,
)
def up(
    session: Session,
    home: Annotated[Path | None, typer.Option(help="Folder of the database, blobs and broker.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: loopback.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API and the dashboard.")] = None,
    predict_port: Annotated[int | None, typer.Option(help="Port of the prediction service.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Worker processes.")] = None,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="json prints log lines for programs, as without a terminal.")
    ] = None,
) -> None:
    """Start everything on this machine: API, dashboard, predictions, worker, broker.

    On a terminal it shows each part as it becomes ready, then a link to the pages that signs you in once. The logs
    are in the folder's `logs`: fitserve logs. Ctrl-C, or fitserve down in another terminal, stops everything; nothing
    is lost. These options override the settings, FITSERVE_* variables. The first start creates an admin key, and
    stores it for this machine's command line.
    """
    require_server()
    options = {"HOME": home, "HOST": host, "PORT": port, "PREDICT_PORT": predict_port, "WORKERS": workers}
    options["LOG_FORMAT"] = log_format
    exec_module(
        "services.up", **{f"FITSERVE_{name}": str(value) for name, value in options.items() if value is not None}
    )


@command(
    group,
    "migrate",
    "FITSERVE_DATABASE_URL=postgresql+psycopg://db/fitserve fitserve migrate",
    prints_json=False,
    rich_help_panel=_PANEL,
)
def migrate(session: Session) -> None:
    """Upgrade the database's tables to this version.

    The database is FITSERVE_DATABASE_URL, else SQLite in FITSERVE_HOME. `fitserve up` does this itself.
    """
    require_server(trains=False)
    exec_module("services.migrate")


class ServerProcess(StrEnum):
    """What `fitserve start` starts."""

    api = "api"
    predict = "predict"
    worker = "worker"
    reaper = "reaper"


_MODULES = {
    ServerProcess.api: "services.control",
    ServerProcess.predict: "services.predict",
    ServerProcess.worker: "workers",
    ServerProcess.reaper: "workers.reaper",
}


@command(
    group,
    "start",
    "FITSERVE_HOST=0.0.0.0 fitserve start api",
    "fitserve start worker",
    prints_json=False,
    rich_help_panel=_PANEL,
)
def start(session: Session, part: Annotated[ServerProcess, typer.Argument(help="Which process.")]) -> None:
    """Start one process of a server that runs on several machines.

    The API with the pages, the prediction service, a worker, or the reaper. All of them need FITSERVE_DATABASE_URL,
    FITSERVE_REDIS_URL and FITSERVE_BLOB_URL. On one machine, `fitserve up` starts everything.
    """
    require_server(trains=part is ServerProcess.worker)
    exec_module(_MODULES[part])


@command(
    group,
    "copy-blobs",
    'fitserve copy-blobs "$FITSERVE_BLOB_URL" "file://$PWD/backup/blobs"',
    prints_json=False,
    rich_help_panel=_PANEL,
)
def copy_blobs(
    session: Session,
    source: Annotated[str, typer.Argument(help="The store to copy from, as FITSERVE_BLOB_URL names it.")],
    target: Annotated[str, typer.Argument(help="The store to copy to.")],
) -> None:
    """Copy every file of one store that another one lacks, for a backup or a move."""
    require_server(trains=False)
    exec_module("services.copy_blobs", source, target)


@command(group, "doctor", "fitserve doctor", "fitserve doctor --json", rich_help_panel=_PANEL)
def doctor(session: Session) -> None:
    """Check everything that fitserve depends on; report what is wrong and how to fix it."""
    require_server(trains=False)
    exec_module("workers.doctor", *(["--json"] if session.json else []))
