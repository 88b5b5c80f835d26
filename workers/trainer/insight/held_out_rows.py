"""The held-out rows of a finished run, on which decisions are chosen, and these decisions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from fitserve.conformal import Conformal
from fitserve.decisions.abstain import distances
from fitserve.decisions.choose import NotReached, choose
from fitserve.decisions.held_out import CHOSEN_ON, JUDGED_ON, HeldOut, HeldOutParts
from fitserve.encoder import Encoder
from fitserve.encoding.coercion import group_labels
from fitserve.spec.decision import Decision, DecisionOutput
from fitserve.target_encoder import FittedTarget
from workers.trainer.data.feeds import EncodedRows
from workers.trainer.data.preparation import PreparedData
from workers.trainer.insight.evaluation import sample_rows
from workers.trainer.interface import Reporter

log = logging.getLogger(__name__)

MAX_ROWS = 50_000  # rows of a part
MAX_VALUES = 4_000_000  # values of a part: its rows times the outputs' units
WARNED_ROWS = 20_000  # up to which rows are looked at for warnings

Array = np.ndarray[Any, Any]


def held_out_rows(
    prepared: PreparedData,
    encoded: Mapping[str, EncodedRows],
    served: Mapping[str, Mapping[str, Array]],
    distance: onnxruntime.InferenceSession | None,
    conformal: Conformal,
) -> HeldOutParts:
    """Return the true and predicted values of the validation and test rows, or of a sample of them."""
    parts = {}
    for part in (CHOSEN_ON, JUDGED_ON):
        if not len(getattr(prepared.parts, part)) or part not in served:
            continue
        values, targets = served[part], prepared.encoding.targets.targets
        count = len(next(iter(values.values())))
        width = sum(array.reshape(count, -1).shape[1] for array in values.values())
        rows = sample_rows(count, min(MAX_ROWS, max(1, MAX_VALUES // width)), 0)
        y, x = encoded[part].y, {name: array[rows] for name, array in encoded[part].x.items()}
        parts[part] = HeldOut(
            rows=prepared.rows_of(part)[rows],
            truth={one.name: truth_of(one, y[one.name][rows]) for one in targets},
            values={one.name: np.asarray(values[one.name], np.float32).reshape(count, -1)[rows] for one in targets},
            warned=_warned(prepared, getattr(prepared.parts, part)[rows]),
            distance=None if distance is None else distances(distance, x),
            coverage_labels=groups_of(prepared, getattr(prepared.parts, part)[rows], conformal.coverage_by),
        )
    return HeldOutParts(parts, conformal)


def groups_of(prepared: PreparedData, rows: Array, column: str | None) -> list[str | None] | None:
    """Return the labels of rows of the table in the column `coverage_by`; None without one."""
    if column is None:
        return None
    encoder: Encoder = prepared.encoding.encoder
    raw = prepared.table.column(column).take(rows).to_pylist()
    return group_labels(raw, encoder.leading[encoder.names.index(column)].format)


def truth_of(target: FittedTarget, encoded: Array) -> Array:
    """From an encoded target: places of labels (rows,), 0 and 1 for each label (rows, labels), or its own numbers."""
    if target.task == "regression":
        return np.asarray(target.inverse(encoded.astype(np.float64))).reshape(len(encoded), -1)
    if target.task == "multilabel":
        return (encoded > 0.5).astype(np.int8)
    if target.encoding == "one_hot":
        return np.asarray(encoded.argmax(-1), np.int32)
    return np.asarray(encoded.reshape(len(encoded)), np.int32)


def outputs_of_targets(targets: Sequence[FittedTarget]) -> list[DecisionOutput]:
    """Return the outputs that decisions can be made about."""
    return [
        DecisionOutput(one.name, one.task, one.columns if one.task == "multilabel" else one.labels or ())
        for one in targets
    ]


def choose_decisions(
    asked: Sequence[Decision], targets: Sequence[FittedTarget], held_out: HeldOutParts, report: Reporter
) -> list[dict[str, Any]]:
    """Return the decisions in force. If no threshold reaches a goal, report that and use the likeliest label."""
    outputs, chosen = {one.name: one for one in outputs_of_targets(targets)}, []
    for index, decision in enumerate(asked):
        pointer = "/decision" if len(asked) == 1 else f"/decision/{index}"
        try:
            chosen.append(choose(decision, outputs[str(decision.output)], held_out, pointer))
        except NotReached as error:
            message = f"{error.detail} The likeliest label is answered."
            report.event("warn", message, {"decision": decision.to_json(), "expected": error.expected})
            continue
        wanted = decision.abstain.distance if decision.abstain else None
        if wanted is not None and "distance" not in chosen[-1]["abstain"]:
            message = "The distance from the training rows is not measured for this network; no row is refused for it."
            report.event("warn", message, {"decision": decision.to_json()})
    return chosen


def _warned(prepared: PreparedData, rows: Array) -> Array | None:
    """Return which rows have a value unlike those in training; None if there are too many rows to check."""
    encoder: Encoder = prepared.encoding.encoder
    if len(rows) > WARNED_ROWS:
        return None
    try:
        _, warnings = encoder.encode_rows(prepared.table.select(list(encoder.names)).take(rows).to_pylist())
    except Exception as error:
        log.warning("rows could not be looked at for warnings", exc_info=error)
        return None
    return np.array([bool(own) for own in warnings], np.bool_)
