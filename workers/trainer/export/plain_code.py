"""A run as a script and a notebook that need Keras only, readable, and with the same losses as the run."""

from __future__ import annotations

import builtins
import functools
import inspect
import json
import keyword
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pyarrow as pa

from fitserve.encoder import Encoder
from fitserve.spec.ensemble import members_of
from fitserve.spec.spec import parse
from fitserve.target_encoder import FittedTarget
from workers.trainer.engine.stacked_network import HELD_OUT_ROWS
from workers.trainer.export import plain_encoding
from workers.trainer.export import plain_templates as parts
from workers.trainer.export.plain_encoding import label, values_of

_MODULES = ("layers", "optimizers", "losses", "initializers", "regularizers", "constraints", "optimizers.schedules")
_LIBRARIES = ("keras", "numpy as np", "pandas as pd", "tensorflow as tf")
_MARK = "# %% "  # starts a cell of the notebook

FIRST_EPOCHS = 20  # epochs whose losses must equal the run's; in later ones rounding may differ
SINGLE, TOGETHER, ONE_BY_ONE = "single", "together", "one by one"  # how the networks of a run were trained


def script(
    manifest: Mapping[str, Any], encoder: Encoder, target: FittedTarget, types: pa.Schema, rows: int, kind: str = SINGLE
) -> str:
    """Return the script. `types` are the table's columns, `rows` those that a network trains on in an epoch."""
    spec = manifest["spec"]
    training = spec["training"]
    reference = spec["dataset"].get("ref") or spec["dataset"].get("sha256")
    title = f"Train {spec.get('model') or 'a network'} to predict {target.name}."
    texts = {"title": title, "run": manifest["run"], "dataset": reference}
    harmless = {name: _harmless(str(text)) for name, text in texts.items()}
    encodings = "\n".join([*plain_encoding.inputs(encoder, types), _target(target, types)])
    functions = plain_encoding.functions_for(encodings)
    network, members = network_code(spec["network"], kind), members_of(parse(spec).ensemble)
    constants, optimizer = _constants(training, kind, rows), _own_optimizer(training["optimizer"])
    fit = "\n".join(_FITS[kind](training, next(iter(training["loss"].values()))))
    batches = _batches(spec["network"], kind)
    head = parts.HEAD.format(**harmless, seed=int(training["seed"]), imports=_imports(kind), rows=_rows(members))
    return (
        f"{head}{functions}\n\n{encodings}\n\n# %% Network\n{network}\n\n"
        f"# %% Training\n{constants}\n\n\n{optimizer}{batches}\n\n\n{fit}\n"
    )


def _imports(kind: str) -> str:
    """Return the modules that the script uses."""
    own = ["itertools"] if kind != SINGLE else []
    lines = [f"import {name}" for name in sorted(["json", "os", *own])]
    return "\n".join([*lines, "", *(f"import {name}" for name in _LIBRARIES)])


def _rows(members: int) -> str:
    """Return the lines that read the training and validation row numbers; for an ensemble, of each network."""
    if members == 1:
        read = 'train, validation = rows["train"], rows["validation"]'
    else:
        read = f'train, validation = ([rows[f"{{part}}_{{number}}"] for number in range({members})] for part in PARTS)'
        read = f'PARTS = "train", "validation"\n{read}'
    return f'rows = np.load("rows.npz")  # which rows train and validate\n{read}'


def _own_optimizer(optimizer: Mapping[str, Any]) -> str:
    """Return the optimizer's class if the script must define it itself."""
    ((name, arguments),) = optimizer.items()
    if name not in _OWN_OPTIMIZERS or arguments.get("amsgrad") or arguments.get("centered"):
        return ""
    return f"{_OWN_OPTIMIZERS[name].replace('{name}', name)}\n\n"


def _optimizer(training: Mapping[str, Any]) -> str:
    optimizer, text = training["optimizer"], _text(training["optimizer"])
    return text.removeprefix("keras.optimizers.") if _own_optimizer(optimizer) else text


def _constants(training: Mapping[str, Any], kind: str, rows: int) -> str:
    batch = rows if training["batch_size"] == "full" else int(training["batch_size"])
    constants = f"BATCH, SHUFFLE = {batch}, {training['shuffle']}"
    if kind != SINGLE:
        constants += f"\nROWS = {rows}  # of an epoch"
    if kind == TOGETHER:
        loss = _text(next(iter(training["loss"].values())))
        loss = loss if loss.endswith(")") else f"keras.losses.get({loss})"
        constants += f"\nCHUNK = {HELD_OUT_ROWS}  # rows of each network that are predicted at once\nLOSS = {loss}"
    return constants


def _harmless(text: str) -> str:
    """Escape text so that it cannot end the docstring around it; names are chosen by clients."""
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
    for index, cell in enumerate(cells):
        cell["id"] = f"cell-{index}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return json.dumps(
        {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}, indent=1
    )


def _target(target: FittedTarget, types: pa.Schema) -> str:
    (column,) = target.columns
    if target.task == "regression":
        return (
            f'target = ((data[{column!r}].astype("float64") - {target.center!r}) / {target.scale!r})'
            '.to_numpy("float32")[:, None]'
        )
    kind = types.field(column).type
    labels, values = [label(text, kind) for text in target.labels or ()], values_of(column, kind)
    chosen = f"labels = {labels!r}\ntarget = np.array([labels.index(value) for value in {values}.to_list()])"
    if target.encoding == "binary":
        return f'{chosen}.astype("float32")[:, None]'
    return f'np.eye(len(labels), dtype="float32")[{chosen}]' if target.encoding == "one_hot" else chosen


def network_code(layers: Sequence[Mapping[str, Any]], kind: str = SINGLE) -> str:
    """Return the lines that make the network, or a function that makes one of several, of a resolved spec's layers."""
    return "\n".join(_network(layers, kind))


def _network(layers: Sequence[Mapping[str, Any]], kind: str) -> Iterator[str]:
    if any("Dropout" in node for node in layers):
        yield from (parts.DROPOUT, "")
    if kind == SINGLE:
        yield "keras.utils.set_random_seed(SEED)"
        yield from (*_layers(layers), "model.summary()")
        return
    yield "def build(seed):"
    yield '    """One network, whose first weights follow from the seed."""'
    yield "    keras.utils.set_random_seed(seed)"
    yield from (f"    {line}" for line in _layers(layers))
    yield "    return model"


def _layers(layers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    variables: dict[str, str] = {}
    inputs, output = [], ""
    for node in layers:
        ((kind, arguments),) = ((key, value) for key, value in node.items() if key[0].isupper())
        name = str(node["name"])
        variables[name] = variable = variable_of(name, variables.values())
        if kind == "Input":
            inputs.append((name, variable))
            dtype = "" if arguments.get("dtype", "float32") == "float32" else f", dtype={arguments['dtype']!r}"
            yield f"{variable} = keras.Input({tuple(arguments['shape'])!r}{dtype}, name={name!r})"
            continue
        sources = [variables[source] for source in node.get("inputs") or ()]
        source = sources[0] if len(sources) == 1 else f"[{', '.join(sources)}]"
        yield f"{variable} = {_call(kind, arguments)}({source})"
        output = variable if node.get("output") else output
    named = ", ".join(f"{name!r}: {variable}" for name, variable in inputs)
    yield f"model = keras.Model({{{named}}}, {output})"


def variable_of(name: str, others: Collection[str]) -> str:
    """Make a variable's name from a layer's, without shadowing any name that the script uses."""
    text = unicodedata.normalize("NFKC", name)  # Python normalises identifiers like this
    variable = "".join(character if f"_{character}".isidentifier() else "_" for character in text)
    variable = variable if variable.isidentifier() else f"_{variable}"
    while variable in others or variable in _TAKEN or keyword.iskeyword(variable):
        variable += "_"
    return variable


_TAKEN = {
    *dir(builtins),
    *("keras", "np", "pd", "tf", "json", "os", "itertools", "data", "rows", "train", "validation", "inputs", "target"),
    *("labels", "model", "seed", "SEED", "Dropout", "mixed", "GOLDEN"),
}
_OWN_OPTIMIZERS = {"Adam": parts.ADAM, "AdamW": parts.ADAM, "RMSprop": parts.RMSPROP}


def _fit_single(training: Mapping[str, Any], loss: Any) -> Iterator[str]:
    yield f"model.compile(optimizer={_optimizer(training)}, loss={_text(loss)}, jit_compile=False)"
    yield "held_out = {name: values[validation] for name, values in inputs.items()}, target[validation]"
    yield from _call_of_fit("history = model", "Shuffled()", "held_out if len(validation) else None", training)
    yield parts.SAVE.format(histories="history.history").strip()


def _fit_together(training: Mapping[str, Any], loss: Any) -> Iterator[str]:
    yield "members = [build(SEED + number) for number in range(len(train))]"
    yield "networks = SideBySide(members)"
    yield f"networks.compile(optimizer={_optimizer(training)}, jit_compile=False)"
    yield from _call_of_fit("history = networks", "Batches()", "HeldOut() if len(validation[0]) else None", training)
    yield parts.AVERAGE
    yield parts.SAVE.format(histories="history.history").strip()


def _fit_one_by_one(training: Mapping[str, Any], loss: Any) -> Iterator[str]:
    yield "members, histories = [], []"
    yield "for number in range(len(train)):"
    yield "    member = build(SEED + number)"
    yield f"    member.compile(optimizer={_optimizer(training)}, loss={_text(loss)}, jit_compile=False)"
    yield "    own = validation[number]"
    yield "    held_out = {name: values[own] for name, values in inputs.items()}, target[own]"
    call = _call_of_fit("history = member", "Batches(number)", "held_out if len(own) else None", training)
    yield from (f"    {line}" for line in call)
    yield "    members.append(member)"
    yield "    histories.append(history.history)"
    yield parts.AVERAGE
    yield parts.SAVE.format(histories="histories").strip()


def _batches(layers: Sequence[Mapping[str, Any]], kind: str) -> str:
    """Return the classes that make batches; for networks side by side, also the layers that they have."""
    used = [name for name in parts.AT_ONCE if any(name in node for node in layers)]
    return _BATCHES[kind].replace("{branches}", "".join(parts.AT_ONCE[name] for name in used)).strip()


_FITS = {SINGLE: _fit_single, TOGETHER: _fit_together, ONE_BY_ONE: _fit_one_by_one}
_BATCHES = {SINGLE: parts.SINGLE, TOGETHER: parts.TOGETHER, ONE_BY_ONE: parts.ONE_BY_ONE}


def _call_of_fit(whose: str, rows: str, held_out: str, training: Mapping[str, Any]) -> Iterator[str]:
    callbacks = [
        f"keras.callbacks.{name}({_arguments(getattr(keras.callbacks, name), training[key])})"
        for key, name in (("early_stopping", "EarlyStopping"), ("reduce_lr_on_plateau", "ReduceLROnPlateau"))
        if training.get(key)
    ]
    yield f"{whose}.fit("
    yield f"    {rows},"
    yield f"    epochs={training['epochs']},"
    yield "    shuffle=False,  # the batches come in an order of their own"
    yield f"    validation_data={held_out},"
    if callbacks:
        yield f"    callbacks=[{', '.join(callbacks)}],"
    yield "    verbose=2,"
    yield ")"


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    """Return the code that creates a Keras object, without arguments that equal Keras's defaults."""
    if name == "Dropout":
        return f"Dropout({_arguments(keras.layers.Dropout, arguments)})"
    for module in _MODULES:
        function = functools.reduce(getattr, module.split("."), keras)
        if (cls := getattr(function, name, None)) is not None:
            return f"keras.{module}.{name}({_arguments(cls, arguments)})"
    raise ValueError(f"Keras has no {name}.")


def _arguments(cls: Any, arguments: Mapping[str, Any]) -> str:
    parameters = inspect.signature(cls.__init__).parameters
    # Keras draws each initializer's seed when it is made: SimpleRNN makes its own ones later than we make them.
    written = [name for name in parameters if name.endswith("_initializer")] if cls is keras.layers.SimpleRNN else []
    stated = {}
    for key, value in arguments.items():
        if key in parameters and (key in written or not _is_default(parameters[key].default, value)):
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


def differences(
    recorded: Sequence[Sequence[Mapping[str, float]]], histories: Any, compared: int | None = None
) -> dict[str, Any]:
    """Compare histories' losses with those that a run recorded, by epoch; relative to the latter where they exceed 1.

    `recorded` is by network that was trained by itself, and so is a list of histories; one history stands alone.
    `max_rel` is that of the epochs to be compared, left out: of all, `later` that of those after them which both have:
    the last bit of a weight, where two sums were rounded differently, grows without limit in a long training.
    """
    histories = histories if isinstance(histories, list) else [histories]
    first = 0.0 if len(histories) == len(recorded) else float("inf")
    later = 0.0
    for logs, history in zip(recorded, histories, strict=False):
        for name in ("loss", "val_loss"):
            own = np.array([one[name] for one in logs if name in one])
            reached = np.array(history.get(name, ()), float)
            both = min(len(own), len(reached))
            if len(own[:compared]) != len(reached[:compared]):
                first = float("inf")
            apart = np.abs(own[:both] - reached[:both]) / np.maximum(1.0, np.abs(own[:both]))
            first = max([first, *apart[:compared]])
            later = max([later, *(apart[compared:] if compared else ())])
    epochs = max(map(len, recorded), default=0)
    return {"epochs": epochs, "max_abs": float(first), "max_rel": float(first), "later": float(later)}
