"""scikit-learn estimators that train and predict on a fitserve server. Needs the extra `sklearn`."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import weakref
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    check_consistent_length,
    check_is_fitted,
    check_random_state,
    column_or_1d,
    validate_data,
)

from fitserve.client import Client
from fitserve.client.dataframes import library_of
from fitserve.client.predictions import Predictions
from fitserve.dataset_facts import Kind
from fitserve.errors import FitserveError
from fitserve.ids import new_id
from fitserve.parsing.missing import may_be_missing

ROWS_AT_ONCE = 5_000  # rows per prediction request
LARGEST_SEED = 2**31 - 1


class _FitserveEstimator(BaseEstimator):
    """Base of both estimators: parameters, the run behind `fit`, prediction requests."""

    _release: Any = None  # deletes the model of the last fit from the server; None: the model stays

    def __init__(
        self,
        network: Any = None,
        *,
        epochs: int | None = None,
        batch_size: int | str | None = None,
        optimizer: Any = None,
        early_stopping: Any = None,
        random_state: Any = None,
        spec: Mapping[str, Any] | None = None,
        model: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float | None = None,
    ) -> None:
        self.network = network
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.early_stopping = early_stopping
        self.random_state = random_state
        self.spec = spec
        self.model = model
        self.base_url = base_url
        self.api_key = api_key
        self.timeout = timeout

    def _train(self, columns: dict[str, pa.Array], target: pa.Array, kind: Kind, sample_weight: Any) -> None:
        """Upload the table, train on it, and wait until the model is served."""
        if self._release is not None:
            self._release()  # the model of an earlier fit
        table, kinds = dict(columns), _kinds(columns)
        target_name, weight_name = _free_name(table, "target"), _free_name(table, "sample_weight")
        table[target_name], kinds[target_name] = target, kind
        if sample_weight is not None:
            table[weight_name], kinds[weight_name] = pa.array(sample_weight), "numeric"
        content = _parquet(table)
        client = _client(self.base_url, self.api_key, os.getpid())
        name = f"sklearn-{hashlib.sha256(content).hexdigest()[:16]}"
        dataset = client.datasets.upload(content, name, kinds=kinds)
        spec = self._spec(target_name, None if sample_weight is None else weight_name)
        served = self.model or f"sklearn-{new_id('m').removeprefix('m_')}"
        run = client.runs.create(spec, dataset=dataset, model=served).wait(self.timeout)
        self.run_id_, self.model_, self.version_ = run.id, str(run.model), run.version
        self._release = None if self.model else weakref.finalize(self, _delete, self.base_url, self.api_key, served)

    def _spec(self, target: str, weight: str | None) -> dict[str, Any]:
        spec = dict(self.spec or {})
        training = dict(spec.get("training") or {})
        parts = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "optimizer": self.optimizer,
            "early_stopping": self.early_stopping,
            "sample_weight": weight,
        }
        training |= {name: value for name, value in parts.items() if value is not None}
        if self.random_state is not None:
            random = self.random_state
            is_seed = isinstance(random, int | np.integer)
            training["seed"] = int(random if is_seed else check_random_state(random).randint(LARGEST_SEED))
        # Users of scikit-learn hold out test rows themselves, so all of these are for training and validation.
        spec = {"split": {"test": 0.0}, **spec, "target": self._target(target)}
        if self.network is not None:
            spec["network"] = self.network
        if training:
            spec["training"] = training
        return spec

    def _target(self, column: str) -> dict[str, Any]:
        return {"column": column, "task": "regression"}

    def _ask(self, verb: str, X: Any) -> list[Predictions]:
        """Request predictions for all rows, ROWS_AT_ONCE per request."""
        check_is_fitted(self)
        columns = _columns(self, X, reset=False)
        client = _client(self.base_url, self.api_key, os.getpid())
        ask = getattr(client.models, verb)
        table = pa.table(columns)
        parts = range(0, max(table.num_rows, 1), ROWS_AT_ONCE)
        return [ask(self.model_, table.slice(start, ROWS_AT_ONCE), version=self.version_) for start in parts]

    def delete(self) -> None:
        """Delete this estimator's model from the server now. Its run and its dataset stay."""
        check_is_fitted(self)
        if self._release is not None:
            self._release()
        else:
            _delete(self.base_url, self.api_key, self.model_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True  # a missing number is replaced by its column's median
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return the state, and no longer delete the model automatically: the copy needs it too."""
        if self._release is not None:
            self._release.detach()
            self._release = None
        state: dict[str, Any] = super().__getstate__()
        return state


class FitserveClassifier(ClassifierMixin, _FitserveEstimator):
    """A classifier trained and served by a fitserve server.

    Args:
        network: layers as in a spec, or a Keras model; left out, fitserve chooses, as for all that is left out here.
        epochs, batch_size, optimizer, early_stopping: of the spec's `training`.
        random_state: the spec's seed: an int, or a RandomState that draws one; None: fitserve's own, which is fixed.
        spec: what else a spec has, as `{"ensemble": {"members": 4}, "training": {"restarts": 3}}`. The named
            arguments take precedence. Without a `split`, no rows are kept for a test.
        model: the name to serve it under, which stays. Left out, the model is deleted with this object, unless it
            was copied or pickled.
        base_url, api_key: as of `fitserve.Client`; left out, they come from the environment.
        timeout: seconds that `fit` waits for the run.

    Attributes:
        classes_: the labels, sorted.
        run_id_, model_, version_: what `fit` trained.

    Arrays hold numbers, and strings in arrays of objects. Columns of frames have the kinds that fitserve infers, and
    missing values are allowed in either.

    Example:
        >>> cross_val_score(FitserveClassifier(epochs=50), frame.drop(columns="admit"), frame["admit"])
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on these rows. Raises ValueError if they are not a table, RunEnded if the run failed."""
        columns, y, sample_weight = _checked(self, X, y, sample_weight)
        if y.dtype.kind == "f":
            assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"A classifier needs at least two classes; there is 1 class, {self.classes_[0]!r}.")
        self._labels = _label_texts(self.classes_)
        self._train(columns, pa.array([self._labels[code] for code in codes]), "categorical", sample_weight)
        return self

    def _target(self, column: str) -> dict[str, Any]:
        task = "binary" if len(self._labels) == 2 else "multiclass"
        return {"column": column, "task": task, "labels": self._labels}

    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each class, `(rows, classes)`, in the order of `classes_`."""
        return self._probabilities(self._ask("classify", X))

    def predict(self, X: Any) -> Any:
        """Return each row's label: the one chosen by the spec's decision, else the likeliest."""
        answers = self._ask("classify", X)
        codes = self._probabilities(answers).argmax(axis=1)
        position = {label: code for code, label in enumerate(self._labels)}
        decided = [label for answer in answers for label in answer.labels]
        # None: the decision abstains
        codes = [position.get(label, code) for label, code in zip(decided, codes, strict=True)]
        return self.classes_[codes]

    def _probabilities(self, answers: list[Predictions]) -> Any:
        scores = np.array([[row[label] for label in self._labels] for answer in answers for row in answer])
        return scores / scores.sum(axis=1, keepdims=True)


class FitserveRegressor(RegressorMixin, _FitserveEstimator):
    """A regressor trained and served by a fitserve server. The arguments are those of `FitserveClassifier`."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on these rows. Raises ValueError if they are not a table, RunEnded if the run failed."""
        columns, y, sample_weight = _checked(self, X, y, sample_weight)
        numbers = check_array(y, ensure_2d=False, dtype="numeric", input_name="y").astype(np.float64)
        self._train(columns, pa.array(numbers), "numeric", sample_weight)
        return self

    def predict(self, X: Any) -> Any:
        """Return a number for each row, in the units of `y`."""
        return np.concatenate([np.asarray(answer, dtype=np.float64) for answer in self._ask("regress", X)])


@functools.lru_cache(maxsize=16)
def _client(base_url: str | None, api_key: str | None, process: int) -> Client:
    """Return this process's client of a server; a forked process gets its own connections."""
    return Client(base_url, api_key)


def _delete(base_url: str | None, api_key: str | None, model: str) -> None:
    """Delete a model that nothing refers to any more. It stays if the server cannot be reached."""
    with contextlib.suppress(FitserveError):
        _client(base_url, api_key, os.getpid()).models.delete(model)


def _checked(estimator: _FitserveEstimator, X: Any, y: Any, sample_weight: Any) -> tuple[dict[str, pa.Array], Any, Any]:
    """Return the rows as columns, the targets and the weights, all of one length. Raises ValueError."""
    if y is None:
        name = type(estimator).__name__
        raise ValueError(f"This {name} estimator requires y to be passed, but the target y is None.")
    columns = _columns(estimator, X, reset=True)
    y = column_or_1d(y, warn=True)
    check_consistent_length(X, y)
    if sample_weight is not None:
        sample_weight = _check_sample_weight(sample_weight, y, dtype=np.float64, ensure_non_negative=True)
    return columns, y, sample_weight


def _columns(estimator: _FitserveEstimator, X: Any, *, reset: bool) -> dict[str, pa.Array]:
    """Return a table's columns by name: a frame's own, or `x0`, `x1` for an array. Raises ValueError, TypeError."""
    least = 2 if reset else 1
    if library_of(X) in ("pandas", "polars", "pyarrow") and getattr(X, "ndim", 2) == 2:
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        return _frame_columns(X, least)
    array = validate_data(
        estimator, X, reset=reset, dtype=None, ensure_all_finite="allow-nan", ensure_min_samples=least
    )
    if array.dtype.kind in "OUS":
        return {f"x{n}": _object_column(array[:, n]) for n in range(array.shape[1])}
    return {f"x{n}": pa.array(np.ascontiguousarray(array[:, n])) for n in range(array.shape[1])}


def _frame_columns(frame: Any, least: int) -> dict[str, pa.Array]:
    if library_of(frame) == "pandas":
        names = [str(name) for name in frame.columns]
        table = pa.Table.from_pandas(frame.set_axis(names, axis=1), preserve_index=False)
    else:
        table = frame if isinstance(frame, pa.Table) else frame.to_arrow()
    if table.num_rows < least or not table.num_columns:
        shape = (table.num_rows, table.num_columns)
        raise ValueError(f"Found a frame with {shape[0]} sample(s) (shape={shape}); at least {least} are required.")
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    return {name: _plain_categories(values) for name, values in columns.items()}


def _plain_categories(values: pa.Array) -> pa.Array:
    """Return categories, including numeric ones, as dictionary-encoded texts; anything else unchanged."""
    if not pa.types.is_dictionary(values.type):
        return values
    return values.cast(values.type.value_type).cast(pa.string()).dictionary_encode()


def _object_column(values: Any) -> pa.Array:
    """Return objects as numbers if possible, else as texts. Raises TypeError for anything else."""
    missing = [value is None or value != value for value in values]
    present = [value for value, is_missing in zip(values, missing, strict=True) if not is_missing]
    unfit = next((value for value in present if not isinstance(value, str | bytes | int | float | np.generic)), None)
    if unfit is not None:
        raise TypeError(f"argument must be a string or a number, not a {type(unfit).__name__}: {str(unfit)[:50]}")
    if any(isinstance(value, str | bytes) for value in present):
        text = [None if m else str(value) for value, m in zip(values, missing, strict=True)]
        return pa.array(text, pa.string())
    return pa.array([None if m else float(value) for value, m in zip(values, missing, strict=True)], pa.float64())


def _kinds(columns: Mapping[str, pa.Array]) -> dict[str, Kind]:
    """Return the kinds that column types imply. The server infers the kinds of texts and times."""
    kinds: dict[str, Kind] = {}
    for name, values in columns.items():
        if pa.types.is_boolean(values.type):
            kinds[name] = "boolean"
        elif pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
            kinds[name] = "numeric"
        elif pa.types.is_dictionary(values.type):
            kinds[name] = "categorical"
    return kinds


def _label_texts(classes: Any) -> list[str]:
    """Return the classes' labels on the server: their texts, or numbered labels if a table would change the texts."""
    texts = [str(label) for label in classes]
    words = {text.strip().casefold() for text in texts}
    plain = all(text == text.strip() and not may_be_missing(text) for text in texts)
    return texts if plain and len(words) == len(texts) else [f"class {n}" for n in range(len(texts))]


def _free_name(columns: Mapping[str, Any], name: str) -> str:
    """Return a name that no column has."""
    taken = {column.casefold() for column in columns}
    while name in taken:
        name += "_"
    return name


def _parquet(columns: Mapping[str, pa.Array]) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pa.table(dict(columns)), buffer)
    return buffer.getvalue()
