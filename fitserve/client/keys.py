"""API keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from fitserve.client.connection import Resource, ask, ask_json, pages
from fitserve.client.effects import Call, Listing, M, Operation, listing, operation
from fitserve.wire.admin import KeyInfo, NewKey


class Keys(Resource[M]):
    """`client.keys`: who may do what. Making a key needs the scope `admin`."""

    @operation
    def create(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        owner: str | None = None,
        models: Sequence[str] | None = None,
        expires_at: datetime | None = None,
        quotas: Mapping[str, int] | None = None,
    ) -> Operation[NewKey]:
        """A new key. Its `token` is shown this once. `models` limits a predict key to these.

        `quotas` are `requests_per_minute`, `uploads_per_hour`, `queued_runs`, `running_runs` and
        `training_seconds_per_day` of this key; those left out are as the server's settings say.

        The prediction service learns of it within seconds.

        Raises BadInput, Conflict (two live keys of that name), Forbidden.
        """
        body = {
            "name": name,
            "scopes": list(scopes),
            "owner": owner,
            "models": None if models is None else list(models),
            "expires_at": expires_at.astimezone().isoformat() if expires_at else None,
            "quotas": dict(quotas) if quotas else None,
        }
        call = Call.with_json("POST", "/api/v1/keys", body, repeatable=False)
        answer = yield from ask(self._connection, call)
        return NewKey.model_validate(answer.json())

    @listing
    def list(self) -> Listing[KeyInfo]:
        """The keys that the caller may see, newest first: an admin sees all."""
        yield from pages(self._connection, "/api/v1/keys", {}, KeyInfo.model_validate)

    @operation
    def revoke(self, key_id: str) -> Operation[KeyInfo]:
        """Ends a key, at once. Raises NotFound."""
        return KeyInfo.model_validate((yield from ask_json(self._connection, "DELETE", f"/api/v1/keys/{key_id}")))
