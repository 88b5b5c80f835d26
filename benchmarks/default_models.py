"""The default network of a real table, trained in this process, as for users who name only a table and a column."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from tests.predict.toy_registry import ToyModel

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def default_model(file: Path, target: str, **written: Any) -> tuple[ToyModel, dict[str, Any]]:
    """Train a table's default network. Returns its artifact, and a row of the table as a client would send it.

    `written` are further keys of the spec.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import pyarrow.parquet as pq

    from benchmarks.accuracy.tables import Table, load
    from fitserve.encoder import Encoder
    from fitserve.spec.resolve import resolve
    from fitserve.spec.spec import parse
    from tests.trainer.requests import RecordingReporter
    from workers.trainer.interface import TrainingRequest
    from workers.trainer.train import train

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loaded = load(Table(file.stem, target, "", False, file=file.name), file.parent, folder / "table")
        facts = loaded.facts(loaded.rows.num_rows)
        spec = resolve(parse({"dataset": "data", "target": target, "training": {"seed": 0}, **written}), facts).spec
        pq.write_table(loaded.rows, folder / "rows.parquet")
        request = TrainingRequest(
            "run", 1, spec.to_json(), facts.model_dump(mode="json"), folder / "rows.parquet", folder
        )
        trained = train(request, RecordingReporter())
        manifest = dict(trained.manifest)
        encoder, outputs = Encoder.from_json(manifest.pop("encoder")), manifest.pop("outputs")
        kept = {name: manifest[name] for name in ("targets", "table_columns", "conformal") if name in manifest}
        columns = loaded.rows.select(list(encoder.names)).slice(4, 40).to_pylist()
        row = next(row for row in columns if None not in row.values())
        return ToyModel(encoder, trained.files["onnx"].read_bytes(), outputs, kept), row
