"""Scores of held-out rows, from which intervals and sets are made, and their coverage on the test part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitserve import conformal
from fitserve.conformal import Conformal, RowFacts, kept_scores
from fitserve.decisions.figures import wilson
from fitserve.spec.interval import Interval
from fitserve.spread import Spread
from fitserve.target_encoder import FittedTarget
from workers.trainer.calibrated_outputs import CalibratedOutputs, truth_of
from workers.trainer.calibration.fit_spread import FittedSpread, fit_spread
from workers.trainer.interface import Reporter

USUAL = 0.9  # the level at which widths are compared where a spec names none
SHOWN = (0.5, 0.8, USUAL, 0.95, 0.99)  # levels that are evaluated whether or not a spec names them
MAX_SIZES = 50  # largest set size that is counted
SCORES_OF_GROUPS = 8_000  # most scores that are stored for all groups together

Array = NDArray[Any]
Groups = Sequence[str | None]


@dataclass
class HeldOutScores:
    """The scores of a network's held-out rows. `groups` are the rows' labels in `coverage_by`, by part."""

    calibrated: CalibratedOutputs
    interval: Interval | None
    coverage_by: str | None
    groups: Mapping[str, Groups | None]
    _spreads: dict[str, FittedSpread] = field(default_factory=dict)
    _entries: dict[str, Any] | None = None

    @property
    def entries(self) -> dict[str, Any]:
        """Return the manifest's entries `conformal` and `interval`. Levels with too few held-out rows are left out."""
        asked = None
        if self.interval is not None or self.coverage_by is not None:
            adaptive = None if self.interval is None else self.interval.adaptive
            asked = {
                "levels": [level for level in self._asked if not self._lacking(level)],
                "coverage_by": self.coverage_by,
                "adaptive": None if adaptive is None else adaptive.model_dump(mode="json"),
            }
        return {"conformal": self.conformal, "interval": asked}

    @property
    def _asked(self) -> tuple[float, ...]:
        return () if self.interval is None else self.interval.level

    def _lacking(self, level: float) -> dict[str, tuple[int, int]]:
        """Return the targets with too few rows for a level, with the rows needed and the rows there are."""
        lacking = {}
        for target in self.calibrated.targets:
            if target.task in conformal.TASKS:
                needed = conformal.rows_needed(str(target.task), level)
                rows = self.conformal.get(target.name, {"rows": 0})["rows"]
                if rows < needed:
                    lacking[target.name] = (needed, rows)
        return lacking

    def warn(self, report: Reporter) -> None:
        """Warn of each requested level that has too few held-out rows."""
        for level in self._asked:
            for name, (needed, rows) in self._lacking(level).items():
                message = f"The level {level:g} needs {needed} held-out rows; {name!r} has {rows}. It is left out."
                report.event("warn", message, {"level": level, "rows": rows, "needed": needed})

    @property
    def conformal(self) -> dict[str, Any]:
        """The stored scores by target, as `fitserve.conformal` reads them."""
        if self._entries is None:
            self._entries = {}
            if self.calibrated.count("validation"):
                for target in self.calibrated.targets:
                    entry = self._entry(target) if target.task in conformal.TASKS else None
                    if entry is not None:
                        self._entries[target.name] = entry
        return self._entries

    def _entry(self, target: FittedTarget) -> dict[str, Any] | None:
        calibrated = self.calibrated
        spread = FittedSpread(None, np.empty(0, np.int64), "")
        if target.task == "regression":
            values, feeds = calibrated.before("validation")[target.name], calibrated.encoded["validation"].x
            scores = self._residuals(target, values)
            if not np.isfinite(scores).all():
                return None
            level = self._asked[0] if self._asked else USUAL
            spread = self._spreads[target.name] = fit_spread(values, feeds, scores, level, calibrated.seed)
        else:
            ranks = self._ranks(target)
            if ranks is None or not np.isfinite(ranks).all():
                return None
            scores = ranks
        by_row = None
        if spread.spread is not None:
            rows = spread.scored
            own = Spread(spread.spread).of(
                np.asarray(values[rows], np.float64), {name: array[rows] for name, array in feeds.items()}
            )
            by_row = scores[rows] / own
        source = "out_of_fold" if calibrated.folds else "validation"
        entry = {**kept_scores(scores), "source": source}
        if by_row is not None:
            entry["by_row"] = {"spread": spread.spread, **kept_scores(by_row)}
        return entry | self._of_groups(scores, by_row, spread.scored)

    def _of_groups(self, scores: Array, by_row: Array | None, scored: Array) -> dict[str, Any]:
        labels = self.groups.get("validation")
        if labels is None:
            return {}
        named = np.array(["" if label is None else label for label in labels], object)
        present = np.array([label is not None for label in labels])
        groups: dict[str, Any] = {}
        chosen = [name for name, _ in Counter(named[present]).most_common(conformal.MAX_GROUPS)]
        most = max(100, SCORES_OF_GROUPS // max(1, len(chosen)))
        for name in chosen:
            own = present & (named == name)
            groups[name] = kept_scores(scores[own], most)
            if by_row is not None and (inside := own[scored]).any():
                groups[name]["by_row"] = kept_scores(by_row[inside], most)
        return {"groups": groups}

    def _residuals(self, target: FittedTarget, predicted: Array) -> Array:
        """Return truth minus prediction; with folds, those of single networks, shrunk to the error of their mean.

        The mean squared error of an average of networks is the average of theirs minus the variance between them
        (Krogh and Vedelsby 1995). The variance is taken on rows that no member was trained on.
        """
        encoded = self.calibrated.encoded["validation"].y[target.name]
        middle = np.asarray(predicted[:, predicted.shape[1] // 2], np.float64)
        residuals = target.inverse(encoded.astype(np.float64)).reshape(len(middle), -1)[:, 0] - middle
        if not self.calibrated.folds:
            return np.asarray(residuals)
        members = self.calibrated.members(target)
        spread = float(members[:, :, members.shape[2] // 2].astype(np.float64).var(axis=0).mean())
        errors = float(np.square(residuals).mean())
        return np.asarray(residuals * np.sqrt(max(0.25, 1.0 - spread / errors)) if errors > 0 else residuals)

    def _ranks(self, target: FittedTarget) -> Array | None:
        """Return, for each row, the total probability of the labels that are likelier than the true one."""
        rows, fitted = self.calibrated.rows(target), self.calibrated.fitted.get(target.name)
        if rows is None or fitted is None:
            return None
        shares = np.asarray(rows.probabilities, np.float64)
        shares = shares if fitted.of_member is None else fitted.of_member.apply(shares)
        if rows.independent:
            shares = np.concatenate([1 - shares, shares], axis=1)
        truth = rows.truth.reshape(len(shares))
        return np.asarray(conformal.likelier(shares)[np.arange(len(shares)), truth])

    def report(self, outputs: Sequence[Mapping[str, Any]], served: Mapping[str, Array]) -> dict[str, Any]:
        """Report, by target, the sizes of intervals and sets, and their coverage of the test part's true values.

        `outputs` are the manifest's; `served` holds the served predictions of the test part.
        """
        intervals = Conformal({"outputs": outputs, **self.entries})
        shown = tuple(level for level in SHOWN if level not in intervals.levels and not self._lacking(level))
        report: dict[str, Any] = {}
        for target in self.calibrated.targets:
            if target.name not in self.conformal:
                continue
            scores, spread = self.conformal[target.name], self._spreads.get(target.name)
            entry: dict[str, Any] = {"rows": scores["rows"], "source": scores["source"]}
            if spread is not None:
                entry |= {"widths": "one" if spread.spread is None else "by_row", "why": spread.why}
                if spread.spread is not None:
                    entry["scored_rows"] = scores["by_row"]["rows"]
            entry["levels"] = [
                self._at(intervals, target, level, served, by_group=level not in shown or level == USUAL)
                for level in (*intervals.levels, *shown)
            ]
            report[target.name] = entry
        return report

    def _at(
        self, intervals: Conformal, target: FittedTarget, level: float, served: Mapping[str, Array], by_group: bool
    ) -> dict[str, Any]:
        """Return one level's figures on the test part; without a test part, only the sizes, on the held-out rows."""
        part = "test" if self.calibrated.count("test") else "validation"
        x, groups = self.calibrated.encoded[part].x, self.groups.get(part)
        values = served if part == "test" else self.calibrated.before(part)
        (bounds,) = intervals.bounds(values, level, RowFacts(groups, x), only=target.name)
        sizes = bounds.sizes()
        figures: dict[str, Any] = {"level": level, "part": part, "mean_size": float(sizes.mean())}
        if bounds.members is None:
            (one_width,) = self._one_width(intervals).bounds(values, level, RowFacts(groups), only=target.name)
            figures["one_width"] = float(one_width.sizes().mean())
        else:
            # sets of 1, 2, ... labels
            figures["sizes"] = np.bincount(sizes.astype(np.int64))[1 : MAX_SIZES + 1].tolist()
        if part != "test":
            return figures
        inside = bounds.covers(self._truth(target))
        figures |= _covered(inside)
        if groups is not None and by_group:
            own_scores, needed = self._own_scores(target), conformal.rows_needed(str(target.task), level)
            named = np.array(["" if label is None else label for label in groups], object)
            figures["groups"] = [
                {
                    "group": name,
                    "held_out_rows": rows,
                    "by_itself": rows >= needed,
                    "mean_size": float(sizes[own].mean()) if own.any() else None,
                    **_covered(inside[own]),
                }
                for name, rows in own_scores.items()
                for own in (named == name,)
            ]
        return figures

    def _own_scores(self, target: FittedTarget) -> dict[str, int]:
        """Return the number of rows with scores, by group."""
        scores = self.conformal[target.name]
        by_row = "by_row" in scores
        return {
            name: (own.get("by_row", {"rows": 0}) if by_row else own)["rows"] for name, own in scores["groups"].items()
        }

    def _one_width(self, intervals: Conformal) -> Conformal:
        """Return the same intervals with one width for all rows of a group."""

        def without(entry: Mapping[str, Any]) -> dict[str, Any]:
            groups = {name: without(own) for name, own in entry.get("groups", {}).items()}
            return {key: value for key, value in entry.items() if key != "by_row"} | {"groups": groups}

        scores = {name: without(entry) for name, entry in self.conformal.items()}
        return Conformal({"outputs": intervals.outputs, **self.entries, "conformal": scores})

    def _truth(self, target: FittedTarget) -> Array:
        encoded = self.calibrated.encoded["test"].y[target.name]
        if target.task == "regression":
            return np.asarray(target.inverse(encoded.astype(np.float64)).reshape(len(encoded), -1)[:, 0])
        return truth_of(target, encoded, target.encoding != "one_hot").reshape(len(encoded))


def _covered(inside: Array) -> dict[str, Any]:
    """Return how many true values are inside, and the 95% interval of their share."""
    rows, covered = len(inside), int(inside.sum())
    return {
        "rows": rows,
        "covered": covered,
        "share": covered / rows if rows else None,
        "interval": wilson(covered, rows),
    }
