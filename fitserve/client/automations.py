"""Automations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fitserve.client.connection import Resource
from fitserve.wire.automations import AutomationInfo, Firing, Rehearsal

_PATH = "/api/v1/automations"


class Automations(Resource):
    """`client.automations`: policies that train, compare and promote automatically."""

    def create(
        self, name: str, policy: Mapping[str, Any] | None = None, *, enabled: bool = True, **parts: Any
    ) -> AutomationInfo:
        """Create an automation from its policy, or from its parts: `on`, `do`, `gate`, `then`, `overlap`, `budget`.

        Raises BadInput, Conflict (the name is taken), NotFound, TooMany.

        Example:
            >>> client.automations.create(
            ...     "weekly", on={"schedule": "0 3 * * 1"}, do={"champion": "admissions"}, gate={}, then="promote"
            ... )
        """
        body = {**(policy or {}), **parts, "name": name, "enabled": enabled}
        return AutomationInfo.model_validate(self._connection.send("POST", _PATH, json=body, repeatable=False).json())

    def list(self) -> Iterator[AutomationInfo]:
        """Yield automations, newest first: an admin sees all."""
        yield from self._connection.pages(_PATH, AutomationInfo.model_validate)

    def get(self, id: str) -> AutomationInfo:
        """Return an automation by id or name. Raises NotFound."""
        return AutomationInfo.model_validate(self._connection.get(f"{_PATH}/{id}"))

    def change(
        self, id: str, *, enabled: bool | None = None, policy: Mapping[str, Any] | None = None
    ) -> AutomationInfo:
        """Pause, resume or change an automation. Raises BadInput, NotFound."""
        body: dict[str, Any] = {} if enabled is None else {"enabled": enabled}
        if policy is not None:
            body["policy"] = dict(policy)
        return AutomationInfo.model_validate(self._connection.send("PATCH", f"{_PATH}/{id}", json=body).json())

    def delete(self, id: str) -> None:
        """Delete an automation and its history; its runs remain. Raises NotFound."""
        self._connection.send("DELETE", f"{_PATH}/{id}")

    def history(self, id: str, limit: int | None = None) -> Iterator[Firing]:
        """Yield an automation's history, newest first. Raises NotFound."""
        yield from self._connection.pages(f"{_PATH}/{id}/history", Firing.model_validate, limit=limit)

    def rehearse(self, automation: str | Mapping[str, Any]) -> Rehearsal:
        """Return what an automation, or a policy, would have done over the history of its model and dataset.

        Raises BadInput, NotFound.
        """
        if isinstance(automation, str):
            return Rehearsal.model_validate(self._connection.get(f"{_PATH}/{automation}/rehearsal"))
        answer = self._connection.send("POST", f"{_PATH}/rehearsal", json=dict(automation))
        return Rehearsal.model_validate(answer.json())
