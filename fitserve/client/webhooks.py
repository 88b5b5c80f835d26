"""Webhooks and events."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from typing import Any

from fitserve.client.connection import Resource
from fitserve.wire.webhooks import DeliveryInfo, NewWebhook, RecordedEvent, WebhookInfo

_PATH = "/api/v1/webhooks"


class Webhooks(Resource):
    """`client.webhooks`: where events are sent, and their deliveries."""

    def create(
        self,
        url: str | None = None,
        *,
        events: Sequence[str],
        channel: str | None = None,
        secret: str | None = None,
        description: str | None = None,
        all_owners: bool = False,
    ) -> NewWebhook:
        """Send events to an address, or to one of the operator's channels. The `secret` is shown only once.

        Args:
            events: types such as `run.failed`; all of a noun, such as `run.*`; `*` for all.
            secret: signs deliveries: `whsec_` and base64. Left out, the server generates one.
            all_owners: send events of every owner. Admins only.

        Raises BadInput (an address that is not on the public Internet), Forbidden, TooMany.
        """
        body = {
            "url": url,
            "channel": channel,
            "events": list(events),
            "secret": secret,
            "description": description,
            "all_owners": all_owners,
        }
        return NewWebhook.model_validate(self._connection.send("POST", _PATH, json=body, repeatable=False).json())

    def list(self) -> Iterator[WebhookInfo]:
        """Yield webhooks, newest first: an admin sees all."""
        yield from self._connection.pages(_PATH, WebhookInfo.model_validate)

    def get(self, id: str) -> WebhookInfo:
        """Return a webhook. Raises NotFound."""
        return WebhookInfo.model_validate(self._connection.get(f"{_PATH}/{id}"))

    def change(
        self,
        id: str,
        *,
        url: str | None = None,
        events: Sequence[str] | None = None,
        secret: str | None = None,
        description: str | None = None,
        enabled: bool | None = None,
    ) -> WebhookInfo:
        """Change a webhook; what is left out stays. A new secret signs beside the old one for 24 hours.

        Raises BadInput, NotFound.
        """
        changes: dict[str, Any] = {"url": url, "secret": secret, "description": description, "enabled": enabled}
        changes["events"] = None if events is None else builtins.list(events)
        body = {name: value for name, value in changes.items() if value is not None}
        return WebhookInfo.model_validate(self._connection.send("PATCH", f"{_PATH}/{id}", json=body).json())

    def delete(self, id: str) -> None:
        """Delete a webhook and its log. Raises NotFound."""
        self._connection.send("DELETE", f"{_PATH}/{id}")

    def test(self, id: str) -> DeliveryInfo:
        """Send a test event; its outcome is in the log. Raises Conflict (it is disabled), NotFound."""
        answer = self._connection.send("POST", f"{_PATH}/{id}/test", repeatable=False)
        return DeliveryInfo.model_validate(answer.json())

    def deliveries(self, id: str, *, state: str | None = None, limit: int | None = None) -> Iterator[DeliveryInfo]:
        """Yield a webhook's deliveries, newest first, in one `state` (pending, delivered, failed) or all."""
        query = {"state": state}
        yield from self._connection.pages(f"{_PATH}/{id}/deliveries", DeliveryInfo.model_validate, query, limit)

    def redeliver(self, id: str, delivery: str) -> DeliveryInfo:
        """Deliver an event again, at once. Raises Conflict (it is under way, or the webhook is disabled), NotFound."""
        answer = self._connection.send("POST", f"{_PATH}/{id}/deliveries/{delivery}/redeliver")
        return DeliveryInfo.model_validate(answer.json())

    def channels(self) -> builtins.list[str]:
        """Return the names of the operator's chat and mail channels."""
        return builtins.list(self._connection.get(f"{_PATH}/channels"))

    def event_types(self) -> dict[str, str]:
        """Return every type of event, with a description of its data."""
        return dict(self._connection.get("/api/v1/events/types"))

    def events(self, *, type: str | None = None, limit: int | None = None) -> Iterator[RecordedEvent]:
        """Yield events, newest first, of one type or all."""
        yield from self._connection.pages("/api/v1/events", RecordedEvent.model_validate, {"type": type}, limit)
