"""What a run teaches: findings, evaluation, what matters, why it says what it says."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from fitserve.client.connection import Connection, ask, ask_json
from fitserve.client.dataframes import plain
from fitserve.client.downloads import save
from fitserve.client.effects import Bound, Call, M, Operation, Query, operation
from fitserve.wire.insight import (
    Applied,
    Complexity,
    Evaluation,
    Explanation,
    FindingInfo,
    Findings,
    Hardest,
    Importance,
    LayerSeries,
    Lineage,
    SurfaceInfo,
)

S = TypeVar("S", bound=BaseModel)


class Insight(Bound[M]):
    """The methods of a run that look into it."""

    id: str

    @operation
    def findings(self) -> Operation[Sequence[FindingInfo]]:
        """What went wrong in it and what would answer that, the gravest first; also while it trains."""
        return (yield from _part(self._connection, self.id, "findings", Findings)).items

    @operation
    def apply_finding(self, n: int, *, seeds: int | None = None) -> Operation[Applied]:
        """A child run of its spec with the change that finding `n` (from 1) proposes.

        `seeds` trains parent and child under so many seeds, for `lineage` to compare. Raises BadInput where no change
        answers the finding.
        """
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        call = Call("POST", f"/api/v1/runs/{self.id}/findings/{n}/apply", {"seeds": seeds}, headers)
        return Applied.model_validate((yield from ask(self._connection, call)).json())

    @operation
    def evaluation(self) -> Operation[Evaluation]:
        """How good it is on rows that it never saw, beside trivial, linear and tree baselines, with intervals."""
        return (yield from _part(self._connection, self.id, "evaluation", Evaluation))

    @operation
    def complexity(self) -> Operation[Complexity]:
        """The model complexity graph: training and validation loss, where validation turned, the verdict."""
        return (yield from _part(self._connection, self.id, "complexity", Complexity))

    @operation
    def importance(self, target: str | None = None) -> Operation[Importance]:
        """Which columns matter: the rise of the loss when a column's values are dealt out anew."""
        return (yield from _part(self._connection, self.id, "importance", Importance, {"target": target}))

    @operation
    def hardest(self, target: str | None = None) -> Operation[Hardest]:
        """The rows that it finds hardest, and rows that are probably mislabelled."""
        return (yield from _part(self._connection, self.id, "hardest", Hardest, {"target": target}))

    @operation
    def surface(self, x: str | None = None, y: str | None = None) -> Operation[SurfaceInfo]:
        """What it says over two columns, the others at their median."""
        return (yield from _part(self._connection, self.id, "surface", SurfaceInfo, {"x": x, "y": y}))

    @operation
    def layers(self, trial: int | None = None, *, after: int = 0) -> Operation[LayerSeries]:
        """What happened in the layers, epoch by epoch: weights, gradients, updates, dead and saturated units."""
        return (yield from _part(self._connection, self.id, "layers", LayerSeries, {"trial": trial, "after": after}))

    @operation
    def draw(self, /, kind: str, path: str | PathLike[str], **query: str | int | None) -> Operation[Path]:
        """Writes a plot that the server draws: a file that ends in .png or .svg, or a folder.

        `kind` is complexity, layers, histograms, confusion, roc, pr, calibration, predicted, residuals, importance,
        surface or units; `query` is what the API takes besides, as `x` and `y` of a surface.
        """
        target = Path(path)
        if target.is_dir():
            target /= f"{self.id}-{kind}.png"
        form = target.suffix.removeprefix(".") or "png"
        call = Call("GET", f"/api/v1/runs/{self.id}/plots/{kind}.{form}", query)
        yield from save(self._connection, call, target)
        return target

    @operation
    def lineage(self) -> Operation[Lineage]:
        """The runs that it was made from and that were made from it, and which change helped."""
        return (yield from _part(self._connection, self.id, "lineage", Lineage))

    @operation
    def explain(
        self, row: Mapping[str, Any], *, target: str | None = None, label: str | None = None
    ) -> Operation[Explanation]:
        """Why it says what it says of one row: integrated gradients, which sum to the change in output."""
        body = {"row": plain(row), "target": target, "label": label}
        call = Call.with_json("POST", f"/api/v1/runs/{self.id}/explain", body)
        return Explanation.model_validate((yield from ask(self._connection, call)).json())


def _part(connection: Connection, run_id: str, part: str, shape: type[S], query: Query | None = None) -> Operation[S]:
    found = yield from ask_json(connection, "GET", f"/api/v1/runs/{run_id}/{part}", query)
    return shape.model_validate(found)
