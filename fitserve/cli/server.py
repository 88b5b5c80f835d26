"""`up`, `migrate` and `doctor`: the server's own part, which a checkout or the image brings and the wheel does not."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fitserve.cli.session import Session, command
from fitserve.errors import FitserveError

_SERVER = ("alembic", "celery", "fastapi", "onnxruntime", "pyarrow", "redis", "sqlalchemy", "uvicorn")
_WORKER = ("keras", "tensorflow")


class NotInstalled(FitserveError):
    """The server's part is not installed here."""

    status = 422
    slug = "server-not-installed"
    title = "Server not installed"


def missing_parts() -> list[str]:
    """What the server needs and this Python does not have."""
    parts = ["services", "workers", "migrations", *_SERVER, *_WORKER]
    return [part for part in parts if find_spec(part) is None]


def require_server() -> None:
    """Raises NotInstalled, saying what to install."""
    missing = missing_parts()
    if not missing:
        return
    if "services" in missing:
        fix = (
            "`pip install fitserve` brings the client and this command line. Run the server from its image "
            "(docker compose up) or from a checkout of the project (make run)."
        )
    else:
        fix = "In the checkout: make run, or pip install -e '.[server,worker,embedded]'."
    raise NotInstalled("The server's part is not installed here.", received=f"missing: {', '.join(missing)}", fix=fix)


def become(module: str, *arguments: str, **environment: str) -> NoReturn:
    """This process goes on as `python -m module`: its signals and its exit code are that one's own."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(  # noqa: S606
        sys.executable, [sys.executable, "-m", module, *arguments], {**os.environ, **environment}
    )


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    panel: Any = {"rich_help_panel": "Server"}
    examples = ("fitserve up", "fitserve up --home /srv/fitserve --port 9000 --workers 2")
    command(app, "up", *examples, prints_json=False, **panel)(up)
    example = "FITSERVE_DATABASE_URL=postgresql+psycopg://db/fitserve fitserve migrate"
    command(app, "migrate", example, prints_json=False, **panel)(migrate)
    command(app, "doctor", "fitserve doctor", "fitserve doctor --json", **panel)(doctor)


def up(
    session: Session,
    home: Annotated[Path | None, typer.Option(help="Folder of the database, blobs and broker.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; loopback unless said.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API and the dashboard.")] = None,
    predict_port: Annotated[int | None, typer.Option(help="Port of the prediction service.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Worker processes.")] = None,
) -> None:
    """Start everything on this machine: API, dashboard, predictions, worker, broker.

    One process group and one log; Ctrl-C stops all of it. Settings are FITSERVE_* variables, which these options
    overrule. The first start makes an admin key, shows it once, and keeps it for this machine's command line.
    """
    require_server()
    given = {"HOME": home, "HOST": host, "PORT": port, "PREDICT_PORT": predict_port, "WORKERS": workers}
    become("services.up", **{f"FITSERVE_{name}": str(value) for name, value in given.items() if value is not None})


def migrate(session: Session) -> None:
    """Bring the database's tables up to this version.

    The database is FITSERVE_DATABASE_URL, else SQLite under FITSERVE_HOME. `fitserve up` does this by itself.
    """
    require_server()
    become("services.migrate")


def doctor(session: Session) -> None:
    """Look at everything that fitserve rests on, and say what is wrong and how to mend it."""
    require_server()
    become("workers.doctor", *(["--json"] if session.json else []))
