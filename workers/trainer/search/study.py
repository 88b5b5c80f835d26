"""The configurations that a search tries, from Optuna's samplers through its ask-and-tell interface.

The study is a function of the search's seed and the rows of its trials. A search that resumes after a crash asks and
tells all over again, which costs milliseconds a trial and gives the same points.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from fitserve.spec.search import Choice, Point, Range, SearchSpec, drawn, every
from workers.trainer.search.gaussian_process import GaussianProcess

_REPEATS = 20  # repeated draws of configurations already tried, before an untried one is picked directly
optuna.logging.set_verbosity(optuna.logging.ERROR)


class Study:
    """Points for trials, in batches, from the results of those before."""

    def __init__(self, search: SearchSpec) -> None:
        settings = search.settings
        self._search, self._generator = search, random.Random(settings.seed)
        samplers = {
            "tpe": lambda: optuna.samplers.TPESampler(seed=settings.seed),
            "cmaes": lambda: optuna.samplers.CmaEsSampler(seed=settings.seed, warn_independent_sampling=False),
        }
        sampler = samplers.get(settings.sampler, lambda: optuna.samplers.RandomSampler(seed=settings.seed))()
        directions = optuna.study.StudyDirection
        direction = directions.MAXIMIZE if settings.direction == "max" else directions.MINIMIZE
        self._study = optuna.create_study(sampler=sampler, direction=direction)
        self._asked: list[optuna.trial.Trial] = []
        self._seen: set[Any] = set()
        self._process = GaussianProcess(search.ranges, settings.seed) if settings.sampler == "gp" else None
        self._grid = every(search.ranges) if settings.sampler == "grid" else None

    def ask(self, count: int) -> list[Point]:
        """Return points that no trial had before; fewer than asked for once there are no more."""
        points: list[Point] = []
        while len(points) < count and (point := self._next()) is not None:
            points.append(point)
        return points

    def _next(self) -> Point | None:
        if self._grid is not None:
            point = next(self._grid, None)
            if point is not None:
                self._note(point)
            return point
        for _ in range(_REPEATS):
            trial = None
            if self._process is not None:
                point = self._process.propose([dict(asked.params) for asked in self._asked])
            elif self._search.settings.sampler == "random":
                point = drawn(self._search.ranges, self._generator)
            else:
                trial = self._study.ask()
                point = _suggest(trial, self._search.ranges)
            if _key(point) not in self._seen:
                self._note(point, trial)
                return point
            if trial is not None:
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        count = self._search.configurations
        if count is None or count <= len(self._seen):
            return None
        point = next(point for point in every(self._search.ranges) if _key(point) not in self._seen)
        self._note(point)
        return point

    def _note(self, point: Point, trial: optuna.trial.Trial | None = None) -> None:
        self._seen.add(_key(point))
        if trial is None:
            self._study.enqueue_trial(dict(point))
            trial = self._study.ask()
            _suggest(trial, self._search.ranges)
        self._asked.append(trial)

    def tell(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take in the results of the trials asked for last, in their order. A trial without a value is a failure."""
        trials, self._asked = self._asked, []
        if self._process is not None:
            sign = -1.0 if self._search.settings.direction == "max" else 1.0
            for row in rows:
                value = row.get("value")
                known = row["state"] in ("succeeded", "pruned")
                self._process.tell(row["point"], sign * float(value) if known and value is not None else None)
        states = optuna.trial.TrialState
        for trial, row in zip(trials, rows, strict=False):
            value = row.get("value")
            if row["state"] == "succeeded" and value is not None:
                self._study.tell(trial, value)
            elif row["state"] == "pruned" and value is not None:
                trial.report(value, int(row["epochs"]))
                self._study.tell(trial, state=states.PRUNED)
            else:
                self._study.tell(trial, state=states.FAIL)

    def importance(self) -> dict[str, float]:
        """Return the share of the results' differences that each range explains, by pointer; empty where unknown."""
        done = self._study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        if len({trial.value for trial in done}) < 4:
            return {}
        try:
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            importances = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        except (ValueError, RuntimeError, ImportError):
            return {}
        return {pointer: float(share) for pointer, share in importances.items()}


def _suggest(trial: optuna.trial.Trial, ranges: Mapping[str, Range]) -> Point:
    point: Point = {}
    for pointer, one in ranges.items():
        if isinstance(one, Choice):
            index = int(trial.suggest_categorical(pointer, range(len(one.options))))  # type: ignore[arg-type]
            point |= {pointer: index, **_suggest(trial, one.inside[index])}
        elif one.log and one.whole:
            point[pointer] = trial.suggest_int(pointer, int(one.low), int(one.high), log=True)
        elif one.log:
            point[pointer] = trial.suggest_float(pointer, one.low, one.high, log=True)
        elif (count := one.count()) is not None:
            step = one.step or 1
            last = one.value(count - 1)
            if one.whole:
                point[pointer] = trial.suggest_int(pointer, int(one.low), int(last), step=int(step))
            else:
                point[pointer] = float(f"{trial.suggest_float(pointer, one.low, last, step=step):.12g}")
        else:
            point[pointer] = trial.suggest_float(pointer, one.low, one.high)
    return point


def _key(point: Point) -> Any:
    return tuple(sorted(point.items()))
