"""Probabilities are calibrated on held-out rows, inside the exported model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from keras import layers as L
from scipy.special import expit, softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from tests.trainer.requests import RecordingReporter, request_of
from workers.trainer.calibration import fit
from workers.trainer.calibration.calibrator import (
    Calibrator,
    Knots,
    fit_knots,
    fit_temperature,
    log_odds,
    matching_temperature,
)
from workers.trainer.calibration.fit import CalibrationRows
from workers.trainer.export.calibrated_graph import calibrated_network, write_calibration
from workers.trainer.export.onnx_graph import OutputForm
from workers.trainer.export.serving_graph import write
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow
RANDOM = np.random.default_rng(7)


def rows_of(labels: int, rows: int = 3000, sharpness: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are too sure by `sharpness`, and labels drawn from the right ones."""
    scores = RANDOM.normal(0, 1.5, (rows, labels))
    truth = np.array([RANDOM.choice(labels, p=row) for row in softmax(scores, axis=1)])
    return softmax(scores * sharpness, axis=1), truth


@pytest.mark.parametrize("labels", [2, 4])
def test_the_temperature_is_scikit_learns(labels: int) -> None:
    x = RANDOM.normal(size=(600, 3))
    truth = (x @ RANDOM.normal(size=(3, labels)) + RANDOM.normal(size=(600, labels))).argmax(1)
    model = LogisticRegression(C=100).fit(x[:60], truth[:60])
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature").fit(x[60:], truth[60:])
    ours = fit.fit(CalibrationRows(model.predict_proba(x[60:]), truth[60:], False, "validation"), "temperature")
    assert ours.calibrator is not None
    np.testing.assert_allclose(
        ours.calibrator.apply(model.predict_proba(x[:60])), theirs.predict_proba(x[:60]), atol=2e-3
    )


def test_an_isotonic_map_of_separate_scores_is_scikit_learns() -> None:
    scores = np.repeat(np.linspace(-4, 4, 20), 40)
    hits = RANDOM.random(len(scores)) < expit(scores / 2)
    knots = fit_knots(scores, hits)
    wanted = IsotonicRegression().fit_transform(scores, hits.astype(float))[::40]
    np.testing.assert_allclose(np.interp(scores[::40], knots.log_odds, knots.probabilities), wanted, atol=0.05)


def test_it_is_left_out_where_the_rows_do_not_show_that_it_helps() -> None:
    right, truth = rows_of(3, sharpness=1.0)
    sure, drawn = rows_of(3, sharpness=3.0)
    assert fit.fit(CalibrationRows(right, truth, False, "validation"), "auto").calibrator is None
    found = fit.fit(CalibrationRows(sure, drawn, False, "validation"), "auto").calibrator
    assert found is not None
    assert found.temperatures[0] == pytest.approx(3.0, rel=0.1)
    few = fit.fit(CalibrationRows(sure[:49], drawn[:49], False, "validation"), "auto")
    assert (few.calibrator, "49 held-out rows are too few" in few.why) == (None, True)


def test_an_ensembles_temperature_follows_from_its_members_without_labels() -> None:
    z = RANDOM.normal(0, 2, 6000)
    truth = (RANDOM.random(6000) < expit(z)).astype(int)
    members = expit(z + RANDOM.normal(0, 1.5, (8, 6000)))[:, :, None]
    one = fit_temperature(members[0], truth, True)[0]
    own = fit_temperature(members.mean(axis=0), truth, True)[0]
    assert one > 1.5
    assert matching_temperature(members, one, True) == pytest.approx(own, rel=0.1)
    assert matching_temperature(np.full((3, 60, 1), 0.5), 1.0, True) == 1.0  # no temperature changes anything


def test_a_temperature_is_believed_as_far_as_the_rows_show_it() -> None:
    sure, truth = rows_of(3, rows=100)
    asked, believed = (
        fit.fit(CalibrationRows(sure, truth, False, "validation"), method).calibrator
        for method in ("temperature", "auto")
    )
    assert asked is not None
    assert believed is not None
    assert 1 < believed.temperatures[0] < asked.temperatures[0] - 0.005
    right, its_truth = sure[sure.max(axis=1) > 0.9], sure[sure.max(axis=1) > 0.9].argmax(axis=1)
    assert fit_temperature(right, its_truth, False)[0] == 1.0  # all right: no proof of certainty
    assert fit.shrunk(1.2, 0.2) == 1.0
    assert fit.shrunk(0.5, 0.01) == pytest.approx(0.5, rel=1e-3)


def test_the_mean_of_networks_that_hold_by_themselves_is_made_surer() -> None:
    """Each network is right as often as it says, of other things; their mean is right more often than that."""
    clues = RANDOM.normal(size=(6, 4000))
    truth = (RANDOM.random(4000) < expit(1.5 * clues.sum(axis=0))).astype(int)
    members = np.stack(
        [
            LogisticRegression().fit(clue[:2000, None], truth[:2000]).predict_proba(clue[2000:, None])[:, 1:]
            for clue in clues
        ]
    )
    rows = CalibrationRows(members[0], truth[2000:, None], True, "out_of_fold", members)
    found = fit.fit(rows, "auto").calibrator
    assert found is not None
    assert found.temperatures[0] < 0.95
    mean, truth = members.mean(axis=0), truth[2000:]
    assert log_loss(truth, found.apply(mean)[:, 0]) < log_loss(truth, mean[:, 0])


KNOTS = Knots((-9.0, -1.0, 0.5, 8.0), (0.01, 0.2, 0.7, 0.95))
CALIBRATORS = {
    "cold": Calibrator("temperature", True, (0.2,)),
    "hot": Calibrator("temperature", True, (6.0,)),
    "isotonic": Calibrator("isotonic", True, knots=(KNOTS,)),
}


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("which", list(CALIBRATORS))
@pytest.mark.parametrize("end", ["dense", "activation", "rescaled"])
def test_the_graph_and_keras_agree_at_every_certainty(units: int, members: int, which: str, end: str) -> None:
    """Also where a probability is nearer to 0 or 1 than single precision can say."""
    function = "sigmoid" if units == 1 else "softmax"
    x = keras.Input((4,), name="x")
    ends = [L.Dense(units, None if end == "activation" else function)(x) for _ in range(members)]
    if end == "activation":
        ends = [L.Activation(function)(one) for one in ends]
    y = ends[0] if members == 1 else L.Average()(ends)
    if end == "rescaled":  # no sigmoid or softmax to start from
        y = L.Rescaling(0.5, 0.5 / units)(y)
    network = keras.Model({"x": x}, {"y": y})
    calibrator = CALIBRATORS[which]
    if units > 1:
        knots = tuple(Knots(KNOTS.log_odds, tuple(p * s for p in KNOTS.probabilities)) for s in (1.0, 0.5, 0.9))
        calibrator = Calibrator(calibrator.method, False, calibrator.temperatures, knots if calibrator.knots else ())
    form = OutputForm("y", calibrate=lambda *given: write_calibration(*given, calibrator=calibrator))
    session = onnxruntime.InferenceSession(write(network, {"y": form}).SerializeToString())
    given = np.concatenate([RANDOM.normal(size=(40, 4)) * size for size in (0.3, 3, 12)]).astype("float32")
    (served,) = session.run(None, {"x": given})
    expected = calibrated_network(network, {"y": calibrator})({"x": given})["y"].numpy()
    before = network({"x": given})["y"].numpy().astype(np.float64)
    # Without a sigmoid or softmax to start from, float32 has lost what it takes near 0 and 1.
    sure = np.abs(log_odds(before)).max(axis=1) < (5 if end == "rescaled" else np.inf)
    np.testing.assert_allclose(served[sure], expected[sure], rtol=0, atol=1e-5)
    sure = np.abs(log_odds(before)).max(axis=1) < 5
    np.testing.assert_allclose(served[sure], calibrator.apply(before)[sure], rtol=0, atol=1e-4)


def data(rows: int = 500) -> pa.Table:
    x = np.random.default_rng(0).normal(size=(rows, 4))
    z, random = 2 * x[:, 0] + x[:, 1], np.random.default_rng(1)
    return pa.table(
        {
            **{f"x{at}": x[:, at] for at in range(4)},
            "sold": np.where(random.random(rows) < expit(z), "yes", "no"),
            "tier": np.array(["a", "b", "c"])[np.digitize(z + random.normal(size=rows), [-1, 1])],
            "price": z,
        }
    )


def finish(folder: Path, **spec: Any) -> Any:
    features = [f"x{at}" for at in range(4)]
    return train(request_of(data(), {"features": features, **spec}, folder), RecordingReporter())


def test_a_run_says_what_calibration_changed(tmp_path: Path) -> None:
    result = finish(
        tmp_path,
        target=["sold", {"column": "tier", "task": "multiclass"}, "price"],
        preset="plain",
        training={"epochs": 60, "keep_epochs": [5]},
        calibrate="temperature",
    )
    assert set(result.manifest["calibration"]) == set(result.result["calibration"]) == {"sold", "tier"}
    for name, found in result.result["calibration"].items():
        assert (found["method"], found["source"], found["part"], found["rows"]) == (
            "temperature",
            "validation",
            "test",
            50,
        )
        for figure in ("log_loss", "brier", "calibration_error"):
            assert found["after"]["intervals"][figure][0] <= found["after"][figure] <= 1.5
        assert found["change"]["log_loss"]["interval"][0] < 0
        served = result.result["figures"][name]["test"]
        assert served["log_loss"] == pytest.approx(found["after"]["log_loss"], abs=1e-5)
        assert served["calibration_error"] == pytest.approx(found["after"]["calibration_error"], abs=1e-5)
    kept = result.kept_epochs[5].manifest["calibration"]
    assert kept["sold"]["temperature"] != result.manifest["calibration"]["sold"]["temperature"]


@pytest.mark.parametrize("method", ["isotonic", "none"])
def test_folds_are_calibrated_out_of_fold(tmp_path: Path, method: str) -> None:
    result = finish(tmp_path, target="sold", calibrate=method, ensemble=3, split={"test": 0}, training={"epochs": 20})
    found = result.result["calibration"]["sold"]
    assert (found["source"], found["fitted_rows"]) == ("out_of_fold", 500)
    if method == "isotonic":
        assert found["part"] == "validation"
        before = log_loss(data()["sold"].to_numpy() == "yes", np.full(500, 0.5))
        assert found["after"]["log_loss"] < before
    else:
        assert found["method"] is None
