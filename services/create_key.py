"""`python -m services.create_key`: create an API key directly in the database, without a running API.

`fitserve keys create` runs this on a machine that has the server's settings: a server that listens to other machines
needs its first key before it starts. The request is JSON on standard input, as for `POST /api/v1/keys`; the new key
with its token is printed as JSON.
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


def create_key(settings: Settings, request: KeyRequest) -> NewKey:
    """Create a key, owned by `admin` unless the request names an owner; upgrade the schema first.

    Raises BadInput, Conflict.
    """
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    migrations.upgrade(settings.resolved_database_url)
    engine = db.make_engine(settings.resolved_database_url)
    try:
        with db.transaction(engine) as session:
            return api_keys.create_requested(session, request, api_keys.LOCAL_ADMIN)
    finally:
        engine.dispose()


def main() -> int:
    try:
        key = create_key(Settings(), KeyRequest.model_validate_json(sys.stdin.read()))
    except ValidationError as error:
        print(problems_from(error.errors(), KeyRequest)[0].detail, file=sys.stderr)
        return 3
    except FitserveError as error:
        print(f"{error.detail} {error.fix or ''}".strip(), file=sys.stderr)
        return 3
    print(key.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
