"""From a table to a trained network in one call: `client.train(table, target=...).predict(rows)`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitserve.client.connection import Resource, local
from fitserve.client.dataframes import library_of, rows_of
from fitserve.client.datasets import Dataset
from fitserve.client.history import card
from fitserve.client.models import Models
from fitserve.client.predictions import Predictions
from fitserve.client.runs import Run
from fitserve.client.upload_body import TABLE_SUFFIXES, dataset_name
from fitserve.errors import BadInput, FitserveError, NotFound
from fitserve.wire.insight import Evaluation

if TYPE_CHECKING:
    from fitserve.client.datasets import Datasets

ROWS_AT_ONCE = 5_000  # rows in one request
# The figures to show first, and titles of the simpler models.
FIGURES = ("accuracy", "balanced_accuracy", "roc_auc", "log_loss", "rmse", "mae", "r2")
MODELS = {"network": "this network", "trees": "boosted trees", "linear": "linear model", "baseline": "guessing"}


@dataclass(frozen=True)
class Standing:
    """One model's figures on the rows by which the network is judged."""

    model: str  # network, trees, linear, baseline
    figures: Mapping[str, float]

    @property
    def title(self) -> str:
        """Its name for people."""
        return MODELS.get(self.model, self.model)


def standings_of(evaluation: Evaluation) -> dict[str, list[Standing]]:
    """Return the network's figures and those of simpler models on the same rows, by target."""
    by_target = (evaluation.test if evaluation.part == "test" else evaluation.validation) or {}
    return {target: list(_standings(figures)) for target, figures in by_target.items()}


def _standings(figures: Mapping[str, Any]) -> Iterator[Standing]:
    names = [name for name in FIGURES if isinstance(figures.get(name), float | int)]
    others: Mapping[str, Any] = figures.get("references") or {}
    for model, own in {"network": figures, **{name: others[name] for name in MODELS if name in others}}.items():
        yield Standing(model, {name: own[name] for name in names if isinstance(own.get(name), float | int)})


class Trained(Resource):
    """A network that `client.train` trained: its dataset, its run, and calls for predictions."""

    def __init__(self, dataset: Dataset, run: Run, labels: Mapping[str, Any]) -> None:
        super().__init__(run._connection)
        self.dataset = dataset
        self.run = run
        self._labels = labels

    @property
    def model(self) -> str:
        """The name that it is served under."""
        return str(self.run.model)

    @property
    def version(self) -> int | None:
        """Its version of the model."""
        return self.run.version

    @local
    def scores(self, part: str = "test") -> dict[str, float]:
        """Return its scores on the `train`, `validation` or `test` rows."""
        return self.run.scores(part)

    def baselines(self) -> dict[str, list[Standing]]:
        """Return its figures beside those of simpler models on the same rows, by target."""
        return standings_of(self.run.evaluation())

    def predict(self, data: Any) -> Predictions:
        """Return the likeliest label or the number for each row; with several targets, the outputs by name.

        Args:
            data: a frame; a list of mappings; a mapping of columns to lists. Columns of the table that the network does
                not use, such as the target itself, are left out.

        Raises BadInput naming row and column.
        """
        if not self._task:
            return self._ask(Models(self._connection).predict, data)
        answers = self.classify(data) if self._classifies else self._ask(Models(self._connection).regress, data)
        if not self._classifies:
            return answers
        return replace(answers, items=[self._labels.get(label, label) for label in answers.labels])

    def classify(self, data: Any) -> Predictions:
        """Return each label's score, for each row. Raises BadInput if the target is a number."""
        return self._ask(Models(self._connection).classify, data)

    @property
    def _task(self) -> str:
        """The task of its only target; empty where there are several, or several columns."""
        targets = self.run.resolved.get("target") or []
        return str(targets[0].get("task", "")) if len(targets) == 1 else ""

    @property
    def _classifies(self) -> bool:
        return self._task in ("binary", "multiclass")

    def _ask(self, ask: Any, data: Any) -> Predictions:
        rows = self._without_unused(rows_of(data))
        parts: list[Predictions] = [
            ask(self.model, rows[start : start + ROWS_AT_ONCE], version=self.version)
            for start in range(0, max(1, len(rows)), ROWS_AT_ONCE)
        ]
        items = [item for part in parts for item in part.items]
        warnings = [
            {**warning, "row": warning["row"] + ROWS_AT_ONCE * number} if "row" in warning else warning
            for number, part in enumerate(parts)
            for warning in part.warnings
        ]
        return replace(parts[0], items=items, warnings=warnings)

    def _without_unused(self, rows: Sequence[Any]) -> list[Any]:
        used = {name for one in self.run.resolved.get("features", ()) for name in _columns_of(one)}
        unused = {column.name for column in self.dataset.columns} - used
        return [
            {name: value for name, value in row.items() if name not in unused} if isinstance(row, dict) else row
            for row in rows
        ]

    def __repr__(self) -> str:
        return f"<Trained {self.model} version {self.version}: {self._score()}>"

    def _repr_html_(self) -> str:
        values = {"model": self.model, "version": self.version, "dataset": self.dataset.ref, "score": self._score()}
        return card(f"Trained {self.model}", values)

    def _score(self) -> str:
        for part in ("test", "validation", "train"):
            for name, value in self.run.scores(part).items():
                return f"{name} {value:.4g} on the {part} rows"
        return str(self.run.state)


def _columns_of(feature: Mapping[str, Any]) -> Iterable[str]:
    return [feature["column"]] if "column" in feature else feature.get("columns", ())


def looks_like_file(text: str) -> bool:
    """Return whether a text names a file rather than a dataset."""
    return Path(text).exists() or "/" in text or "\\" in text or text.lower().endswith(TABLE_SUFFIXES)


def dataset_of(datasets: Datasets, data: Any, name: str | None, **options: Any) -> Dataset:
    """Return the dataset that `data` is or names, with its columns; upload it if it is a table.

    Raises BadInput, NotFound naming the datasets that exist.
    """
    if isinstance(data, Dataset):
        return data if data.columns else data.refresh()
    if isinstance(data, str | PathLike) and not looks_like_file(str(data)):
        return _named(datasets, str(data))
    dataset = datasets.upload(data, name, **options)
    return dataset if dataset.columns else dataset.refresh()


def _named(datasets: Datasets, ref: str) -> Dataset:
    try:
        return datasets.get(ref)
    except NotFound:
        pass
    samples = {sample.sample: sample for sample in datasets.samples()}
    if ref in samples:
        return datasets.sample(ref).refresh()
    names = list(dict.fromkeys(dataset.name for dataset in datasets.list(100)))
    raise NotFound(
        f"There is no file {ref}, and no dataset of that name.",
        received=ref,
        expected=f"a table's file, or one of: {', '.join(names[:20])}" if names else "a table's file",
        fix="List the datasets: fitserve datasets list    Built-in ones: fitserve datasets sample",
    )


def check_target(dataset: Dataset, target: str | Sequence[str]) -> None:
    """Raise BadInput, naming the columns, if a target is not among them."""
    _check_names(dataset.ref, [column.name for column in dataset.columns], target)


def check_columns(data: Any, target: str | Sequence[str]) -> None:
    """Raise BadInput before the upload if a frame has no column named like the target."""
    if library_of(data) in ("pandas", "polars") and hasattr(data, "columns"):
        _check_names("The frame", [str(name) for name in data.columns], target)


def _check_names(owner: str, names: Sequence[str], target: str | Sequence[str]) -> None:
    for one in [target] if isinstance(target, str) else target:
        if one not in names:
            shown = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
            raise BadInput(f"{owner} has no column {one!r}.", received=one, expected=shown)


def default_name(data: Any, name: str | None, target: str | Sequence[str]) -> str | None:
    """Return a dataset's name: the one given, or a frame's target; None for a file, which names itself."""
    if name is not None or isinstance(data, str | PathLike | Dataset) or isinstance(getattr(data, "name", None), str):
        return name
    return dataset_name(target if isinstance(target, str) else target[0])


def labels_in(data: Any, target: str | Sequence[str]) -> dict[str, Any]:
    """Return a frame's own values of the target by the labels that the server makes of them."""
    if library_of(data) not in ("pandas", "polars") or not isinstance(target, str):
        return {}
    labels: dict[str, Any] = {}
    try:
        values = data[target].unique()
    except (KeyError, TypeError, ValueError, FitserveError):
        return {}
    for value in values.tolist() if hasattr(values, "tolist") else list(values):
        whole = isinstance(value, float) and value.is_integer()
        for text in (str(value), str(value).lower(), str(int(value)) if whole else str(value).strip()):
            labels.setdefault(text, value)
    return labels
