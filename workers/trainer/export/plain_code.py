"""A run as a script and a notebook in Keras alone, as a person would write them; they reach the run's losses."""

from __future__ import annotations

import functools
import inspect
import json
import keyword
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pyarrow as pa

from fitserve.encoder import Encoder
from fitserve.encoding.robust import BOUND, LARGE
from fitserve.target_encoder import FittedTarget

_MODULES = ("layers", "optimizers", "losses", "initializers", "regularizers", "constraints", "optimizers.schedules")
_MARK = "# %% "  # begins a cell

_HEAD = '''"""{title}

Written by fitserve from the run {run}. With the same rows it reaches the same losses: python train.py
Needs keras, tensorflow, numpy, pandas and pyarrow. DATA is the dataset {dataset} as Parquet.
"""

# %% Rows
import json
import os

import keras
import numpy as np
import pandas as pd

SEED = {seed}
data = pd.read_parquet(os.environ.get("DATA", "data.parquet"))
rows = np.load("rows.npz")  # which rows train and validate
train, validation = rows["train"], rows["validation"]

# %% Encoding
'''

_HELPERS = {
    "number": '''def number(name, center, scale, missing):
    """A number, scaled by constants of the training rows."""
    values = data[name].astype("float64").to_numpy(na_value=np.nan)
    return (np.where(np.isnan(values), missing, values)[:, None] - center) * (1 / scale)
''',
    "log": '''def log(name, center, scale, missing):
    """The logarithm of a number, with its sign."""
    values = data[name].astype("float64").to_numpy(na_value=np.nan)
    values = np.where(np.isnan(values), missing, values)[:, None]
    return (np.sign(values) * np.log1p(np.abs(values)) - center) * (1 / scale)
''',
    "robust": f'''def robust(name, center, scale, missing):
    """A number, scaled, and softly bounded by {BOUND:g}."""
    values = np.clip(number(name, center, scale, missing), -{LARGE:g}, {LARGE:g})
    return values / np.sqrt((values / {BOUND:g}) ** 2 + 1)
''',
    "bins": '''def bins(name, edges, width):
    """The share of each bin that a number has passed; zeros where it is missing."""
    values = data[name].astype("float64").to_numpy(na_value=np.nan)[:, None]
    edges = np.array(edges)
    shares = np.clip((np.nan_to_num(values) / 2 - edges[:-1] / 2) / np.diff(edges / 2), 0, 1) * ~np.isnan(values)
    return np.pad(shares, ((0, 0), (0, width - shares.shape[1])))
''',
    "one_hot": '''def one_hot(name, labels, unknown=False):
    """A column for each label, and before them one for others if there is to be one."""
    values = data[name]
    known = np.stack([(values == label).fillna(False).to_numpy(bool) for label in labels], axis=1)
    others = (~known.any(axis=1) & values.notna().to_numpy())[:, None]
    return np.hstack([others, known]) if unknown else known
''',
    "missing": '''def missing(name):
    """Whether a value is missing."""
    return data[name].isna().to_numpy()[:, None]
''',
}

_TRAINING = '''
class Shuffled(keras.utils.PyDataset):
    """The training rows in batches, in an order that follows from the seed and the epoch."""

    def __init__(self):
        super().__init__()
        self.epoch = -1
        self.order = np.arange(len(train))  # Keras looks at a batch before the first epoch

    def __len__(self):
        return -(-len(train) // BATCH)

    def __getitem__(self, batch):
        chosen = train[self.order[batch * BATCH : (batch + 1) * BATCH]]
        return {name: values[chosen] for name, values in inputs.items()}, target[chosen]

    def on_epoch_begin(self):
        self.epoch += 1
        if SHUFFLE:
            self.order = np.random.Generator(np.random.Philox([SEED, self.epoch])).permutation(len(train))

'''


def script(manifest: Mapping[str, Any], encoder: Encoder, target: FittedTarget, types: pa.Schema, rows: int) -> str:
    """Return the script. `types` are the table's columns, `rows` those for training."""
    spec = manifest["spec"]
    training = spec["training"]
    reference = spec["dataset"].get("ref") or spec["dataset"].get("sha256")
    title = f"Train {spec.get('model') or 'a network'} to predict {target.name}."
    texts = {"title": title, "run": manifest["run"], "dataset": reference}
    head = _HEAD.format(**{name: _harmless(str(text)) for name, text in texts.items()}, seed=int(training["seed"]))
    encodings = "\n".join(_inputs(encoder, types))
    used = [name for name in _HELPERS if re.search(rf"\b{name}\(", encodings)]
    used += ["number"] if "robust" in used and "number" not in used else []
    helpers = "\n\n".join(_HELPERS[name] for name in _HELPERS if name in used)
    network = "\n".join(_network(spec["network"]))
    batch = rows if training["batch_size"] == "full" else int(training["batch_size"])
    constants = f"BATCH, SHUFFLE = {batch}, {training['shuffle']}\n"
    loss = next(iter(training["loss"].values()))
    fit = "\n".join(_fit(training, loss))
    return (
        f"{head}{helpers}\n\n{encodings}\n{_target(target, types)}\n\n# %% Network\n{network}\n\n"
        f"# %% Training\n{constants}\n{_TRAINING.strip()}\n\n\n{fit}\n"
    )


def _harmless(text: str) -> str:
    """Return text that cannot end the docstring that it stands in: names are whatever a client chose."""
    return re.sub(r"[^\w .,@:/()-]", "_", " ".join(text.split()))


def notebook(text: str) -> str:
    """Return a script as a notebook: its docstring as text, a cell for each part."""
    first, *parts = re.split(f"^{_MARK}", text, flags=re.MULTILINE)
    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "metadata": {}, "source": first.strip().strip('"')}]
    for part in parts:
        title, _, code = part.partition("\n")
        cells.append({"cell_type": "markdown", "metadata": {}, "source": f"## {title}"})
        cell: dict[str, Any] = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
        cells.append({**cell, "source": code.strip()})
    for at, cell in enumerate(cells):
        cell["id"] = f"cell-{at}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return json.dumps(
        {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}, indent=1
    )


def _inputs(encoder: Encoder, types: pa.Schema) -> Iterator[str]:
    yield "inputs = {"
    for one in encoder.inputs:
        columns = sorted((c for c in encoder.columns if c.input == one.name), key=lambda column: column.offset)
        yield f"    {one.name!r}: np.hstack(["
        for column in columns:
            yield from (f"        {text}," for text in _encoded(column, types))
        yield '    ]).astype("float32"),'
    yield "}"


def _encoded(column: Any, types: pa.Schema) -> Iterator[str]:
    """Return the calls that encode a column."""
    kind, fitted, name = column.encoding.type, column.fitted, column.name
    indicator = bool(getattr(column.encoding, "indicator", False))
    own = column.width - indicator
    if kind in ("standardize", "min_max", "pass_through", "log", "robust"):
        helper = kind if kind in ("log", "robust") else "number"
        yield f"{helper}({name!r}, {fitted['center']!r}, {fitted['scale']!r}, {fitted['fill']!r})"
    elif kind == "piecewise_linear":
        yield f"bins({name!r}, {[float(2 * edge) for edge in column.halves]}, {own})"
    elif kind == "boolean":
        true = True if column.raw == "number" else fitted["true"]
        yield f"one_hot({name!r}, {[true]!r})"
    else:
        labels = [_value(label, types.field(name).type) for label in fitted["labels"]]
        unknown = ", unknown=True" if column.encoding.unknown == "bucket" else ""
        yield f"one_hot({name!r}, {labels!r}{unknown})"
        if (left := own - len(labels) - bool(unknown)) > 0:
            yield f"np.zeros((len(data), {left}))"
    if indicator:
        yield f"missing({name!r})"


def _value(label: str, type: Any) -> Any:
    """Return a label as the table has it."""
    if pa.types.is_boolean(type):
        return label.lower() == "true"
    if pa.types.is_integer(type):
        return int(float(label))
    return float(label) if pa.types.is_floating(type) else label


def _target(target: FittedTarget, types: pa.Schema) -> str:
    (column,) = target.columns
    if target.task == "regression":
        return (
            f'target = ((data[{column!r}].astype("float64") - {target.center!r}) / {target.scale!r})'
            '.to_numpy("float32")[:, None]'
        )
    labels = [_value(label, types.field(column).type) for label in target.labels or ()]
    chosen = f"labels = {labels!r}\ntarget = np.array([labels.index(value) for value in data[{column!r}].to_list()])"
    if target.encoding == "binary":
        return f'{chosen}.astype("float32")[:, None]'
    return f'np.eye(len(labels), dtype="float32")[{chosen}]' if target.encoding == "one_hot" else chosen


def _network(layers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "keras.utils.set_random_seed(SEED)"
    variables: dict[str, str] = {}
    inputs, output = [], ""
    for node in layers:
        ((kind, arguments),) = ((key, value) for key, value in node.items() if key[0].isupper())
        name = str(node["name"])
        variable = re.sub(r"\W|^(?=\d)", "_", name)
        while variable in variables.values() or variable in _TAKEN or keyword.iskeyword(variable):
            variable += "_"
        variables[name] = variable
        if kind == "Input":
            inputs.append((name, variable))
            yield f"{variable} = keras.Input({tuple(arguments['shape'])!r}, name={name!r})"
            continue
        sources = [variables[source] for source in node.get("inputs") or ()]
        source = sources[0] if len(sources) == 1 else f"[{', '.join(sources)}]"
        yield f"{variable} = {_call(kind, arguments)}({source})"
        output = variable if node.get("output") else output
    named = ", ".join(f"{name!r}: {variable}" for name, variable in inputs)
    yield f"model = keras.Model({{{named}}}, {output})"
    yield "model.summary()"


_TAKEN = {
    "keras",
    "np",
    "pd",
    "json",
    "os",
    "data",
    "rows",
    "train",
    "validation",
    "inputs",
    "target",
    "labels",
    "model",
}


def _fit(training: Mapping[str, Any], loss: Any) -> Iterator[str]:
    yield f"model.compile(optimizer={_text(training['optimizer'])}, loss={_text(loss)})"
    callbacks = [
        f"keras.callbacks.{name}({_arguments(getattr(keras.callbacks, name), training[key])})"
        for key, name in (("early_stopping", "EarlyStopping"), ("reduce_lr_on_plateau", "ReduceLROnPlateau"))
        if training.get(key)
    ]
    yield "held_out = {name: values[validation] for name, values in inputs.items()}, target[validation]"
    yield "history = model.fit("
    yield "    Shuffled(),"
    yield f"    epochs={training['epochs']},"
    yield "    shuffle=False,  # the batches come in an order of their own"
    yield "    validation_data=held_out if len(validation) else None,"
    if callbacks:
        yield f"    callbacks=[{', '.join(callbacks)}],"
    yield "    verbose=2,"
    yield ")"
    yield 'model.save("model.keras")'
    yield 'with open("history.json", "w") as file:'
    yield "    json.dump(history.history, file)"


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    """Return the call that makes a Keras object, without what is Keras's default."""
    for module in _MODULES:
        function = functools.reduce(getattr, module.split("."), keras)
        if (cls := getattr(function, name, None)) is not None:
            return f"keras.{module}.{name}({_arguments(cls, arguments)})"
    raise ValueError(f"Keras has no {name}.")


def _arguments(cls: Any, arguments: Mapping[str, Any]) -> str:
    parameters = inspect.signature(cls.__init__).parameters
    stated = {}
    for key, value in arguments.items():
        if key in parameters and not _is_default(parameters[key].default, value):
            stated[key] = _text(value)
    return ", ".join(f"{key}={text}" for key, text in stated.items())


def _is_default(default: Any, value: Any) -> bool:
    if isinstance(default, str) and isinstance(value, Mapping):
        ((name, _),) = value.items()
        return name.lower() == default.replace("_", "").lower() and _text(value).endswith("()")
    if isinstance(value, list):
        return isinstance(default, tuple | list) and list(default) == value
    return bool(default == value) or (default is None and value == "linear")


def _text(value: Any) -> str:
    if isinstance(value, Mapping) and len(value) == 1 and next(iter(value))[:1].isupper():
        ((name, arguments),) = value.items()
        return _call(name, arguments or {})
    if isinstance(value, list):
        return f"({', '.join(map(_text, value))},)"
    return repr(value)


def differences(recorded: Sequence[Mapping[str, float]], history: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Compare a history's losses with those that a run recorded, by epoch: relative to them where they exceed 1."""
    largest = 0.0
    for name in ("loss", "val_loss"):
        own = [logs[name] for logs in recorded if name in logs]
        reached = list(history.get(name, ()))
        if len(own) != len(reached):
            return {"epochs": len(recorded), "max_abs": float("inf"), "max_rel": float("inf")}
        pairs = np.abs(np.subtract(own, reached)) / np.maximum(1.0, np.abs(own)) if own else np.zeros(1)
        largest = max(largest, float(pairs.max()))
    return {"epochs": len(recorded), "max_abs": largest, "max_rel": largest}
