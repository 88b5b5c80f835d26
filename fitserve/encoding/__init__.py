"""Encodings: how a raw column becomes numbers. Each has its module, named as a spec names it.

An encoding is a subclass of `Encoding` with a `type` (its arguments, its width, what it learns from training rows)
and a subclass of `FittedColumn` (what it does with values). Related ones share those of `number`, `category` and
`text`. Every module of this package is imported here, and a class with a `type` registers itself: to add an encoding,
add a module, and a class of the same name to `workers/trainer/export/keras_encoding.py`.
"""

import importlib
import pkgutil

from fitserve.encoding.encoding import ENCODINGS, Encoding, FittedColumn, ValueWarning

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["ENCODINGS", "Encoding", "FittedColumn", "ValueWarning"]
