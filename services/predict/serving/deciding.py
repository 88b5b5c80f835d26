"""Labels by the decisions in force, for protocols that answer labels. A model without decisions never comes here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fitserve.decisions.apply import Decider, shares_of
from services.predict.catalog.loaded_model import ModelOutput, Prediction

LIKELIEST: dict[str, Any] = {"method": "likeliest"}
HALF: dict[str, Any] = {"method": "thresholds"}


@dataclass(frozen=True, slots=True)
class Decided:
    """The labels of one output: a place for each row, or of a multi-label target which labels apply.

    `reasons` says of each row why it is not answered: `unlike_training`, `distance`, `prediction_set`; else None.
    """

    output: ModelOutput
    places: npt.NDArray[np.int64] | None
    applies: npt.NDArray[np.bool_] | None
    reasons: Sequence[str | None]

    def labels(self) -> list[Any]:
        """Return each row's label, or list of labels; None where it is not answered."""
        known = self.output.labels or ()
        if self.applies is not None:
            answers: list[Any] = [[label for label, own in zip(known, row, strict=True) if own] for row in self.applies]
        else:
            assert self.places is not None
            answers = [known[place] for place in self.places.tolist()]
        return [None if why is not None else answer for answer, why in zip(answers, self.reasons, strict=True)]

    def entries(self) -> list[dict[str, Any]]:
        """Return each row's decision for a JSON answer."""
        key = "labels" if self.applies is not None else "label"
        return [
            {key: answer} if why is None else {key: None, "abstained": why}
            for answer, why in zip(self.labels(), self.reasons, strict=True)
        ]


def decider_of(output: ModelOutput, deciders: Mapping[str, Decider]) -> Decider:
    """Return the decision of an output: the one in force, else the likeliest label."""
    plain = HALF if output.task == "multilabel" else LIKELIEST
    return deciders.get(output.name) or Decider(plain, output.labels or ())


def decide(
    prediction: Prediction, output: ModelOutput, decider: Decider, distances: npt.NDArray[np.float64] | None = None
) -> Decided:
    """Decide the rows of a prediction. `distances` are needed where the decision looks at them."""
    values = prediction.outputs[output.name]
    reasons: list[str | None] = [None] * len(values)
    limits = decider.abstain
    if (share := limits.get("set_share")) is not None:
        sets = (shares_of(values, len(output.labels or ())) >= share).sum(axis=1)
        reasons = ["prediction_set" if size != 1 else None for size in sets.tolist()]
    if (limit := limits.get("distance")) is not None and distances is not None:
        reasons = ["distance" if far else why for far, why in zip((distances > limit).tolist(), reasons, strict=True)]
    if limits.get("unlike_training") and prediction.warnings is not None:
        reasons = ["unlike_training" if own else why for own, why in zip(prediction.warnings, reasons, strict=True)]
    if output.task == "multilabel":
        return Decided(output, None, decider.applies(values), reasons)
    return Decided(output, decider.places(values), None, reasons)
