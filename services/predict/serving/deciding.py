"""Labels by the decisions in force, for protocols that return labels. Models without decisions skip this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fitserve.decisions.abstain import Reason, abstentions
from fitserve.decisions.apply import Decider
from services.predict.catalog.loaded_model import ModelOutput, Prediction

LIKELIEST: dict[str, Any] = {"method": "likeliest"}
HALF: dict[str, Any] = {"method": "thresholds"}


@dataclass(frozen=True, slots=True)
class Decided:
    """The labels of one output: a place for each row, or of a multi-label target which labels apply.

    `reasons` says of each row why it is not answered; None where it is.
    """

    output: ModelOutput
    places: npt.NDArray[np.int64] | None
    applies: npt.NDArray[np.bool_] | None
    reasons: Sequence[Reason | None]

    def labels(self) -> list[Any]:
        """Return each row's label, or list of labels; None for a row without an answer."""
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
    values, limits = prediction.outputs[output.name], decider.abstain
    level = limits.get("prediction_set")
    sizes = None if level is None else prediction.bounds(level, only=output.name)[0].sizes()
    reasons = abstentions(limits, len(values), set_sizes=sizes, distances=distances, warned=prediction.warnings)
    if output.task == "multilabel":
        return Decided(output, None, decider.applies(values), reasons)
    return Decided(output, decider.places(values), None, reasons)
