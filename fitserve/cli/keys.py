"""`fitserve keys`: who may do what."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fitserve.cli import screen
from fitserve.cli.server import missing_parts
from fitserve.cli.session import Session, command
from fitserve.errors import BadInput

if TYPE_CHECKING:
    from fitserve.wire.admin import NewKey

keys = typer.Typer(no_args_is_help=True, help="API keys: make, list, revoke.")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def expiry(text: str | None) -> datetime | None:
    """A time from `90d`, `12h` or an ISO 8601 date."""
    if text is None:
        return None
    if found := re.fullmatch(r"(\d{1,5})([mhdw])", text):
        return datetime.now(UTC) + timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise BadInput("That is no time.", received=text, expected="90d, 12h, or 2027-01-31") from None


def quotas_of(said: list[str]) -> dict[str, int] | None:
    """Quotas from `name=number`. Raises BadInput."""
    found = {}
    for one in said:
        name, _, number = one.partition("=")
        if not number.isdecimal():
            raise BadInput("That is no quota.", received=one, expected="training_seconds_per_day=3600")
        found[name] = int(number)
    return found or None


@command(
    keys,
    "create",
    "fitserve keys create scoring --scope predict --model admissions --expires 90d",
    "fitserve keys create ci --scope read --scope upload --scope train --quota training_seconds_per_day=3600",
)
def create(
    session: Session,
    name: Annotated[str, typer.Argument(help="What the key is for: lower case, digits, `.`, `_`, `-`.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="read, upload, train, predict or admin; more than once. read if left out.")
    ] = None,
    owner: Annotated[str | None, typer.Option(help="Whose key it is; your own when left out.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Limit a predict key to this model; more than once.")] = None,
    expires: Annotated[str | None, typer.Option(help="90d, 12h, or a date; never when left out.")] = None,
    quota: Annotated[
        list[str] | None,
        typer.Option(
            help="requests_per_minute=100, uploads_per_hour, queued_runs, running_runs, "
            "training_seconds_per_day; more than once."
        ),
    ] = None,
) -> None:
    """Make an API key. Its token is shown this once.

    Where no server runs on this machine yet, the key is made in its database (FITSERVE_HOME, FITSERVE_DATABASE_URL):
    a server that listens to other machines needs one before it starts.
    """
    from fitserve.client import Unreachable

    until, limits = expiry(expires), quotas_of(quota or [])
    try:
        with session.client() as client:
            key = client.keys.create(
                name, scope or ["read"], owner=owner, models=model or None, expires_at=until, quotas=limits
            )
    except Unreachable:
        if session.url is not None or missing_parts():
            raise
        body = {"name": name, "scopes": scope or ["read"], "owner": owner, "models": model or None, "quotas": limits}
        key = _in_the_database({**body, "expires_at": until.isoformat() if until else None})
    session.show(key, screen.pairs({"id": key.id, "owner": key.owner, "scopes": key.scopes, "expires": key.expires_at}))
    if not session.json:
        typer.echo(key.token)
    session.say("Keep the token: it is not shown again. Use it as FITSERVE_API_KEY.")


def _in_the_database(body: dict[str, Any]) -> NewKey:
    """A key made by the server's own code, in another process. Raises BadInput with what it said."""
    from fitserve.wire.admin import NewKey

    command = [sys.executable, "-m", "services.create_key"]
    done = subprocess.run(command, input=json.dumps(body), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadInput(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "No key was made.")
    return NewKey.model_validate_json(done.stdout)


@command(keys, "list", "fitserve keys list", "fitserve keys list --json")
def list_(session: Session) -> None:
    """List API keys, without their secrets."""
    with session.client() as client:
        found = list(client.keys.list())
    rows = [
        (
            key.id,
            key.name,
            key.owner,
            key.scopes,
            key.models or "all",
            "revoked" if key.revoked_at else screen.ago(key.expires_at) or "never",
            screen.ago(key.last_used_at) or "never",
        )
        for key in found
    ]
    names = ("id", "name", "owner", "scopes", "models", "expires", "last used")
    session.show(found, screen.table(names, rows, may_go=("last used", "owner", "expires")))


@command(keys, "revoke", "fitserve keys revoke key_01kb...")
def revoke(session: Session, key_id: Annotated[str, typer.Argument(help="The key's id, from `keys list`.")]) -> None:
    """End an API key, at once."""
    with session.client() as client:
        key = client.keys.revoke(key_id)
    session.show(key, f"The key {key.name} of {key.owner} ({key.id}) is revoked.")
