"""Adding an encoding is one module in fitserve/encoding/ and one Keras class: shown in a scratch copy of the tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]

MODULE = '''
"""`sign`: -1, 0 or 1."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fitserve.encoding.encoding import Indicator
from fitserve.encoding.number import NumericColumn, NumericEncoding


class SignColumn(NumericColumn):
    """Missing is 0."""

    def write_number(self, number: float, out: np.ndarray) -> None:
        out[0] = np.sign(number)

    def write_numbers(self, numbers: np.ndarray, missing: np.ndarray, out: np.ndarray) -> None:
        out[:, 0] = np.sign(np.where(missing, 0.0, numbers))


class Sign(NumericEncoding):
    """-1, 0 or 1."""

    kinds = ("numeric",)
    column_class = SignColumn

    type: Literal["sign"] = "sign"
    missing: Literal["zero", "refuse"] = "zero"
    indicator: Indicator = None
'''

KERAS_CLASS = """

class Sign(KerasEncoding, names=("sign",)):
    @classmethod
    def pieces(cls, columns: Sequence[Any], raw: Raw) -> Iterator[Piece]:
        for column in columns:
            missing = ops.isnan(raw[column.name])
            yield ops.cast(ops.sign(ops.where(missing, 0.0, raw[column.name])), "float32"), (column.offset,)
            yield from indicator_pieces([column], missing)
"""

FITTED = """
import json, sys
from pathlib import Path
import numpy as np, pyarrow as pa
import fitserve
from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.encoder import Encoder

assert Path(fitserve.__file__).is_relative_to(Path.cwd()), fitserve.__file__
table = pa.table({"x": [-3.0, 0.0, 2.5, None]})
facts = ColumnFacts(name="x", kind="numeric", storage="float64", rows=4, missing=1, distinct=3, min=-3.0, max=2.5)
facts = DatasetFacts(name="d", version=1, sha256="0" * 64, rows=4, columns=(facts,))
"""

SPEC_AND_ENCODER = (
    FITTED
    + """
from fitserve import drift, explain
from fitserve.spec.schema import json_schema
from fitserve.spec.spec import parse

spec = parse({"dataset": "d", "target": "y", "features": {"x": "sign"}})
encoder = Encoder.fit(spec.features, table, facts)
assert "Sign" in json_schema()["$defs"]
assert encoder.encode(table)["features"].tolist() == [[-1, 0], [0, 0], [1, 0], [0, 1]]
rows, warnings = encoder.encode_rows([[-3.0], [0], [2.5], {}])
assert rows["features"].tolist() == encoder.encode(table)["features"].tolist()
assert Encoder.from_json(json.loads(json.dumps(encoder.to_json()))) == encoder
assert drift.training_distribution(encoder.columns, table)["x"]["missing"] == 0.25
assert encoder.typical_row(table) == {"x": 0.0}
assert len(explain.axis_of(encoder, "x", 5).values) == 5
"""
)

KERAS_HALF = (
    FITTED
    + """
import keras
from fitserve.spec.feature import Feature
from workers.trainer.export.export import raw_values
from workers.trainer.export.keras_encoding import encoded, raw_inputs

encoder = Encoder.fit([Feature.model_validate({"x": "sign"})], table, facts)
raw = raw_inputs(encoder.columns)
model = keras.Model(raw, encoded(encoder, raw))
np.testing.assert_array_equal(model(raw_values(encoder, table))["features"], encoder.encode(table)["features"])
"""
)


def add_sign_encoding(tree: Path) -> None:
    """Add the encoding to a copy of the product."""
    (tree / "fitserve" / "encoding" / "sign.py").write_text(MODULE)
    with (tree / "workers" / "trainer" / "export" / "keras_encoding.py").open("a") as file:
        file.write(KERAS_CLASS)


def test_the_spec_the_encoder_drift_and_explanations_know_it(tmp_path: Path) -> None:
    """`test_contributing.py` runs KERAS_HALF, in the process with TensorFlow in which it tries its own encoding."""
    shutil.copytree(PROJECT / "fitserve", tmp_path / "fitserve", ignore=shutil.ignore_patterns("__pycache__", "*.tmp"))
    (tmp_path / "workers" / "trainer" / "export").mkdir(parents=True)
    add_sign_encoding(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", SPEC_AND_ENCODER]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
