"""A run that checks its spec: its result is the findings of the checks, and its network is discarded."""

from __future__ import annotations

import time
from typing import Any

from fitserve.dataset_facts import DatasetFacts
from fitserve.spec.ablation import without
from fitserve.spec.spec import Spec, parse
from fitserve.strictjson import finite_json
from workers.trainer.checks.quick_network import QuickNetwork, with_plain_rate
from workers.trainer.checks.range_test import range_test
from workers.trainer.checks.sanity import sanity
from workers.trainer.interface import Reporter, TrainingRequest, TrainingResult
from workers.trainer.ready_run import make_ready, prepare_data

# Parts of a spec that keep a network from fitting its rows exactly, or that change what its loss measures.
_SOFTENING = ("dropout", "regularizers", "label_smoothing", "class_weight")


def run_checks(request: TrainingRequest, spec: Spec, facts: DatasetFacts, report: Reporter) -> TrainingResult:
    """Run the checks that the spec names. Raises TrainingStopped, TrainingFailed."""
    began_at = time.perf_counter()
    assert spec.check is not None
    result: dict[str, Any] = {"metrics": {}}
    if spec.check.range_test is not None:
        network = _network(request, with_plain_rate(spec), facts, report)
        result["range_test"] = curve = range_test(network, spec.check.range_test)
        report.event("info", curve["says"], {"range_test": {**curve, "curve": []}})
    if spec.check.sanity:
        plain = _plain(spec)
        result["sanity"] = sanity(_network(request, plain, facts, report), plain)
        for one in result["sanity"]:
            report.event("info" if one["passed"] is not False else "warn", one["says"], {"sanity": one})
    result["seconds"] = {"train": time.perf_counter() - began_at}
    return TrainingResult({}, {}, finite_json(result))


def _network(request: TrainingRequest, spec: Spec, facts: DatasetFacts, report: Reporter) -> QuickNetwork:
    ready = make_ready(request, spec, facts, report, prepare_data(request, spec, facts, report))
    return QuickNetwork(ready, report)


def _plain(spec: Spec) -> Spec:
    body = spec.to_json()
    inputs = [entry for entry in body["network"] if "Input" in entry]
    for part in _SOFTENING:
        body = without(part, body)
    body["network"] = inputs + body["network"]
    return with_plain_rate(parse(body))
