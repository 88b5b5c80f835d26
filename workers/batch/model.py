"""A stored model that predicts whole tables: an artifact's encoder and serving graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fitserve import artifacts
from fitserve.blobs import BlobStore
from fitserve.conformal import Bounds, Conformal, RowFacts
from fitserve.decisions.abstain import DISTANCE_BLOB, abstentions, distances
from fitserve.decisions.apply import Decider
from fitserve.encoder import Encoder
from fitserve.encoding.coercion import group_labels
from fitserve.live_coverage import moved_levels
from workers.trainer.export.prediction_columns import prediction_columns


class ArtifactModel:
    """A stored model that predicts whole tables, from several threads if need be.

    `interval` is the level of its intervals and sets, 0 for none; by default the level of its spec. Labels follow
    `decisions`, by default those of its manifest.
    """

    def __init__(
        self,
        blobs: BlobStore,
        artifact: str,
        interval: float | None = None,
        decisions: Sequence[Mapping[str, Any]] | None = None,
        error_rates: Mapping[str, float] | None = None,
    ) -> None:
        self.manifest = manifest = artifacts.read(blobs, artifact).manifest
        self.conformal = Conformal(manifest)
        level = self.conformal.level if interval is None else interval
        self.levels = {one["name"]: level for one in self.conformal.outputs} if level else {}
        if interval is None:  # the level may have been adjusted to ground truth
            self.levels |= moved_levels(self.conformal, error_rates or {})
        self.decisions = {
            one["output"]: one for one in (manifest.get("decisions") if decisions is None else decisions) or ()
        }
        far = any((one.get("abstain") or {}).get("distance") is not None for one in self.decisions.values())
        self.distance = artifacts.onnx_session(blobs.read(manifest[DISTANCE_BLOB]["sha256"])) if far else None
        self.encoder = Encoder.from_json(manifest["encoder"])
        self.outputs = manifest["outputs"]
        self.session = artifacts.onnx_session(blobs.read(manifest["onnx"]["sha256"]))

    def predict(self, table: pa.Table) -> pa.Table:
        """Predict a table's rows: a column for each unit, and the label of a classification."""
        names, feeds = [output["name"] for output in self.outputs], self.encoder.encode(table)
        columns: dict[str, Any] = {}
        results = self.session.run(names, feeds)
        predicted = {
            name: np.asarray(one).reshape(table.num_rows, -1) for name, one in zip(names, results, strict=True)
        }
        for output in self.outputs:
            values = predicted[output["name"]]
            columns |= prediction_columns(output, values)
            if (decision := self.decisions.get(output["name"])) is not None:
                columns |= self._decided_columns(output, predicted, decision, feeds, table)
        if self.levels:
            for one in self._bounds(predicted, self._facts(feeds, table)):
                for name, listed in one.listed().items():
                    texts = one.members is not None
                    columns[f"predicted_{name}"] = ["; ".join(own) for own in listed] if texts else listed
        return pa.table(columns)

    def _bounds(self, predicted: Mapping[str, np.ndarray], facts: RowFacts) -> list[Bounds]:
        levels = set(self.levels.values())
        if len(levels) == 1:
            return self.conformal.bounds(predicted, levels.pop(), facts)
        own = self.levels.items()
        return [one for name, level in own for one in self.conformal.bounds(predicted, level, facts, only=name)]

    def _facts(self, feeds: Any, table: pa.Table) -> RowFacts:
        """Return the inputs that intervals and sets depend on, besides the outputs."""
        if (name := self.conformal.coverage_by) is None:
            return RowFacts(feeds=feeds)
        column = self.encoder.leading[self.encoder.names.index(name)]
        return RowFacts(group_labels(table.column(name).to_pylist(), column.format), feeds)

    def _decided_columns(
        self,
        output: dict[str, Any],
        predicted: Mapping[str, np.ndarray],
        decision: Mapping[str, Any],
        feeds: Any,
        table: pa.Table,
    ) -> dict[str, Any]:
        """Return each row's decided label or labels, missing where none is answered, and a column that says why."""
        name, labels = f"predicted_{output['name']}", [str(label) for label in output["labels"]]
        decider, limits = Decider(decision, labels), decision.get("abstain") or {}
        values, sizes, far, warnings = predicted[output["name"]], None, None, None
        if (level := limits.get("prediction_set")) is not None:
            facts = self._facts(feeds, table)
            sizes = self.conformal.bounds(predicted, level, facts, only=output["name"])[0].sizes()
        if limits.get("distance") is not None and self.distance is not None:
            far = distances(self.distance, feeds)
        if limits.get("unlike_training"):
            _, warnings = self.encoder.encode_rows(table.select(list(self.encoder.names)).to_pylist())
        reasons = abstentions(limits, len(values), set_sizes=sizes, distances=far, warned=warnings)
        if output["task"] == "multilabel":
            answers = [
                "; ".join(one for one, own in zip(labels, row, strict=True) if own) for row in decider.applies(values)
            ]
        else:
            answers = [labels[place] for place in decider.places(values)]
        columns = {
            name: pa.array([None if why else answer for answer, why in zip(answers, reasons, strict=True)], pa.string())
        }
        return columns | ({f"{name}_abstained": pa.array(reasons, pa.string())} if limits else {})
