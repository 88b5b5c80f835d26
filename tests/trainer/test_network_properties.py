"""Every generated spec is refused, or builds with the counted parameters, trains a step and exports."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, event, given, settings

from fitserve.encoder import Encoder
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import Spec, SpecRefused, parse
from fitserve.target_encoder import TargetEncoder
from tests.spec.strategies import specs
from tests.spec.table import WIDTH, facts, resolved
from tests.trainer.specs import arrays, compiled
from workers.trainer.engine.network import build_network, serving_network
from workers.trainer.export.export import export

pytestmark = pytest.mark.tensorflow

EXAMPLES = 12
MANY_EXAMPLES = 200
QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much]


class SilentReporter:
    """A reporter that ignores events."""

    def event(self, level: str, message: str, data: dict[str, Any] | None = None) -> None:
        """Nothing."""


def table(rows: int = 48) -> pa.Table:
    """Rows as `tests.spec.table.facts` describes them."""
    random = np.random.default_rng(0)
    columns: dict[str, Any] = {f"x{index}": random.normal(size=rows) for index in range(WIDTH)}
    columns["words"] = [" ".join(random.choice(["a", "b", "c"], 4)) for _ in range(rows)]
    columns["yes"] = random.choice(["no", "yes"], rows)
    columns["colour"] = random.choice(["blue", "green", "red"], rows)
    columns["tag_a"], columns["tag_b"] = random.integers(0, 2, (2, rows)).astype(bool)
    columns["price"], columns["count"] = random.uniform(0.1, 1, rows), random.uniform(0, 9, rows)
    return pa.table(columns)


def export_entries(network: keras.Model, spec: Spec) -> dict[str, Any]:
    """Export on real rows; the parity gate compares the serving graph with Keras. The manifest's entries."""
    rows = table()
    encoder = Encoder.fit(list(spec.features or ()), rows, facts())
    targets = TargetEncoder.fit(list(spec.target), rows, facts())
    with tempfile.TemporaryDirectory() as folder:
        return export(serving_network(network, spec), encoder, targets, rows, Path(folder), SilentReporter()).entries  # type: ignore[arg-type]


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Keras warns of a softmax over one number, as the spec does
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=QUIET)
@given(specs())
def test_a_spec_that_is_not_refused_builds_trains_and_exports(body: dict[str, Any]) -> None:
    _check_spec(body)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=MANY_EXAMPLES, deadline=None, suppress_health_check=QUIET)
@given(specs())
def test_many_specs_that_are_not_refused_build_train_and_export(body: dict[str, Any]) -> None:
    _check_spec(body)


def _check_spec(body: dict[str, Any]) -> None:
    try:
        run = resolve(parse(body), facts())
    except SpecRefused:
        assume(False)
    keras.utils.set_random_seed(run.spec.training.seed)
    network = compiled(run.spec)
    assert network.count_params() == run.estimates.parameters
    assert sum(int(np.prod(w.shape)) for w in network.trainable_weights) == run.estimates.trainable_parameters
    logs = network.train_on_batch(*arrays(run.spec), return_dict=True)
    assert "loss" in logs
    finite = all(np.isfinite(weight).all() for weight in network.get_weights())
    event("finite" if finite else "diverged")
    if finite:
        entries = export_entries(network, run.spec)
        assert [output["name"] for output in entries["outputs"]] == [target.name for target in run.spec.target]


def probabilities(spec: Spec) -> np.ndarray:
    network = serving_network(build_network(spec), spec)
    return np.asarray(network(arrays(spec)[0])[spec.target[0].name])


@pytest.mark.parametrize("loss", [{"BinaryCrossentropy": {"from_logits": True}}, "Hinge"])
def test_binary_scores_are_served_as_probabilities(loss: Any) -> None:
    spec = resolved([{"Dense": 4}], "yes", loss=loss).spec
    answer = probabilities(spec)
    assert answer.shape == (24, 1)
    assert ((answer > 0) & (answer < 1)).all()


@pytest.mark.parametrize("loss", [{"SparseCategoricalCrossentropy": {"from_logits": True}}, "CategoricalHinge"])
def test_scores_of_labels_are_served_as_probabilities(loss: Any) -> None:
    answer = probabilities(resolved([{"Dense": 4}], "colour", loss=loss).spec)
    np.testing.assert_allclose(answer.sum(axis=1), 1, rtol=1e-5)


def test_what_is_final_already_is_served_as_it_is() -> None:
    spec = resolved([{"Dense": 4}], "yes").spec
    network = build_network(spec)
    assert serving_network(network, spec) is network
