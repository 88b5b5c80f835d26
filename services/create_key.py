"""`python -m services.create_key`: makes an API key in the database itself, where no API answers yet.

`fitserve keys create` becomes this on a machine that has the server's settings: the first key of a server that shall
listen to other machines is made before it starts. The request is JSON on standard input, as for `POST /api/v1/keys`;
the answer is the new key with its token.
"""

from __future__ import annotations

import sys

from pydantic import ValidationError

import migrations
from fitserve import api_keys, db
from fitserve.errors import FitserveError
from fitserve.settings import Settings
from fitserve.validation import problems_from
from fitserve.wire.admin import KeyRequest, NewKey


def make(settings: Settings, request: KeyRequest) -> NewKey:
    """A key of that owner, or of `admin`; the tables are made where they are missing. Raises BadInput, Conflict."""
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    migrations.upgrade(settings.resolved_database_url)
    engine = db.make_engine(settings.resolved_database_url)
    try:
        with db.transaction(engine) as session:
            key, token = api_keys.create(
                session,
                owner=request.owner or "admin",
                name=request.name,
                scopes=request.scopes,
                models=request.models,
                expires_at=request.expires_at,
                quotas=request.quotas,
            )
            return NewKey(**api_keys.describe(key), token=token)
    finally:
        engine.dispose()


def main() -> int:
    try:
        made = make(Settings(), KeyRequest.model_validate_json(sys.stdin.read()))
    except ValidationError as error:
        print(problems_from(error.errors(), KeyRequest)[0].detail, file=sys.stderr)
        return 3
    except FitserveError as error:
        print(f"{error.detail} {error.fix or ''}".strip(), file=sys.stderr)
        return 3
    print(made.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
