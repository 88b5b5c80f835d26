"""A served model as it is asked: drift, traffic, and how true its predictions turned out to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from fitserve.client.connection import ask, ask_json
from fitserve.client.dataframes import plain
from fitserve.client.effects import Bound, Call, M, Operation, operation
from fitserve.wire.models import DriftReport, FeedbackAnswer, Traffic


class Live(Bound[M]):
    """The methods of `client.models` that look at what is asked."""

    @operation
    def drift(self, model: str, *, version: int | None = None, label: str | None = None) -> Operation[DriftReport]:
        """How far what is asked has moved from the training rows, over a sliding window. Raises NotFound."""
        query = {"version": version, "label": label}
        return DriftReport.model_validate((yield from ask_json(self._connection, "GET", _path(model, "drift"), query)))

    @operation
    def traffic(self, model: str) -> Operation[Traffic]:
        """What each version was asked and how fast it answered; ask twice for a rate."""
        return Traffic.model_validate((yield from ask_json(self._connection, "GET", _path(model, "traffic"))))

    @operation
    def feedback(self, model: str, items: Sequence[Mapping[str, Any]]) -> Operation[FeedbackAnswer]:
        """Tells what was true, so that `drift` knows how good a version is now.

        Each item has an `id` (the `X-Prediction-ID` that its row was asked under, or one of yours), the `truth`,
        and for an id of yours what was `predicted` by which `version`. Posted twice, an item counts once.
        """
        call = Call.with_json("POST", _path(model, "feedback"), {"items": [plain(item) for item in items]})
        return FeedbackAnswer.model_validate((yield from ask(self._connection, call)).json())


def _path(model: str, part: str) -> str:
    return f"/api/v1/models/{quote(model, safe='')}/{part}"
