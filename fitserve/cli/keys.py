"""`fitserve keys`: create, list, revoke."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fitserve import server_code
from fitserve.cli import screen
from fitserve.cli.server import missing_parts
from fitserve.cli.session import Session, command
from fitserve.errors import BadInput

if TYPE_CHECKING:
    from fitserve.wire.admin import NewKey

group = typer.Typer(name="keys", no_args_is_help=True, help="API keys: create, list, revoke.")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def expiry(text: str | None) -> datetime | None:
    """Return the time of `90d`, `12h` or an ISO 8601 date. Raises BadInput."""
    if text is None:
        return None
    if match := re.fullmatch(r"(\d{1,5})([mhdw])", text):
        return datetime.now(UTC) + timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise BadInput("This is not a time.", received=text, expected="90d, 12h, or 2027-01-31") from None


def parse_quotas(texts: list[str]) -> dict[str, int] | None:
    """Return quotas from `name=number`. Raises BadInput."""
    quotas = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not number.isdecimal():
            raise BadInput("This is not a quota.", received=text, expected="training_seconds_per_day=3600")
        quotas[name] = int(number)
    return quotas or None


@command(
    group,
    "create",
    "fitserve keys create scoring --scope predict --model admissions --expires 90d",
    "fitserve keys create ci --scope read --scope upload --scope train --quota training_seconds_per_day=3600",
)
def create(
    session: Session,
    name: Annotated[str, typer.Argument(help="What the key is for: lower case, digits, `.`, `_`, `-`.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="read, upload, train, predict, keys or admin. Repeatable. Default: read.")
    ] = None,
    owner: Annotated[str | None, typer.Option(help="The key's owner. Default: you.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Limit a predict key to this model. Repeatable.")] = None,
    expires: Annotated[str | None, typer.Option(help="90d, 12h, or a date. Default: never.")] = None,
    quota: Annotated[
        list[str] | None,
        typer.Option(
            help="requests_per_minute=100, uploads_per_hour, queued_runs, running_runs, "
            "training_seconds_per_day. Repeatable."
        ),
    ] = None,
) -> None:
    """Create an API key. Its token is shown only once.

    If no server runs on this machine yet, the key is created in its database (FITSERVE_HOME, FITSERVE_DATABASE_URL):
    a server that listens to other machines needs one before it starts.
    """
    from fitserve.client import Unreachable

    until, limits = expiry(expires), parse_quotas(quota or [])
    try:
        with session.client() as client:
            key = client.keys.create(
                name, scope or ["read"], owner=owner, models=model or None, expires_at=until, quotas=limits
            )
    except Unreachable:
        if session.url is not None or missing_parts(trains=False):
            raise
        body = {"name": name, "scopes": scope or ["read"], "owner": owner, "models": model or None, "quotas": limits}
        key = _create_in_database({**body, "expires_at": until.isoformat() if until else None})
    session.show(key, screen.pairs({"id": key.id, "owner": key.owner, "scopes": key.scopes, "expires": key.expires_at}))
    if not session.json:
        typer.echo(key.token)
    session.hint("Store the token: it is not shown again. Use it as FITSERVE_API_KEY.")


def _create_in_database(body: dict[str, Any]) -> NewKey:
    """Create a key with the server's own code, in another process. Raises BadInput with its message."""
    from fitserve.wire.admin import NewKey

    command = [sys.executable, "-m", "services.create_key"]
    done = subprocess.run(
        command, env=server_code.environment(), input=json.dumps(body), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BadInput(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "The key was not created.")
    return NewKey.model_validate_json(done.stdout)


@command(group, "list", "fitserve keys list", "fitserve keys list --json")
def list_(session: Session) -> None:
    """List API keys, without their secrets."""
    with session.client() as client:
        keys = list(client.keys.list())
    rows = [
        (
            key.id,
            key.name,
            key.owner,
            key.scopes,
            key.models or "all",
            "revoked" if key.revoked_at else screen.age(key.expires_at) or "never",
            screen.age(key.last_used_at) or "never",
        )
        for key in keys
    ]
    names = ("id", "name", "owner", "scopes", "models", "expires", "last used")
    session.show(keys, screen.table(names, rows, droppable=("last used", "owner", "expires")))


@command(group, "revoke", "fitserve keys revoke key_01kb...")
def revoke(session: Session, key_id: Annotated[str, typer.Argument(help="The key's id, from `keys list`.")]) -> None:
    """Revoke an API key at once."""
    with session.client() as client:
        key = client.keys.revoke(key_id)
    session.show(key, f"The key {key.name} of {key.owner} ({key.id}) is revoked.")
