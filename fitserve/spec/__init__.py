"""The spec: what to train, how, on what. Names and arguments are Keras's; nothing in it can name code.

parse_text(bytes) or parse(dict) -> Spec            what was written, checked by itself
resolve(Spec, DatasetFacts, Limits) -> Resolved     checked against a dataset, every default written out
"""

from fitserve.spec.problems import SpecRefused
from fitserve.spec.resolve import Resolved, resolve
from fitserve.spec.schema import json_schema
from fitserve.spec.spec import Spec, parse, target_of
from fitserve.spec.text import parse_text

__all__ = ["Resolved", "Spec", "SpecRefused", "json_schema", "parse", "parse_text", "resolve", "target_of"]
