"""API keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from fitserve.client.connection import Resource
from fitserve.wire.admin import KeyInfo, NewKey


class Keys(Resource):
    """`client.keys`: API keys and their scopes. Creating a key needs the scope `keys` or `admin`."""

    def create(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        owner: str | None = None,
        models: Sequence[str] | None = None,
        expires_at: datetime | None = None,
        quotas: Mapping[str, int] | None = None,
    ) -> NewKey:
        """Create a key. Its `token` is shown only once. `models` limits a predict key to these.

        `quotas` are `requests_per_minute`, `uploads_per_hour`, `queued_runs`, `running_runs` and
        `training_seconds_per_day` of this key; the server's settings apply to those left out.

        The prediction service accepts it within seconds.

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
        answer = self._connection.send("POST", "/api/v1/keys", json=body, repeatable=False)
        return NewKey.model_validate(answer.json())

    def revoke(self, key_id: str) -> KeyInfo:
        """Revoke a key at once. Raises NotFound."""
        return KeyInfo.model_validate(self._connection.send("DELETE", f"/api/v1/keys/{key_id}").json())

    def list(self) -> Iterator[KeyInfo]:
        """Yield the keys that the caller may see, newest first: an admin sees all."""
        yield from self._connection.pages("/api/v1/keys", KeyInfo.model_validate)
