"""Responses about models: metadata, configuration, statistics, the repository index.

Sources: kserve/open-inference-protocol inference_rest.md; triton protocol extension_model_configuration.md,
extension_statistics.md and extension_model_repository.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fitserve import __version__
from fitserve.errors import Forbidden, Malformed
from services.predict.catalog.catalog import CatalogEntry, Selector
from services.predict.catalog.loaded_model import LoadedModel, ModelOutput
from services.predict.serving.counters import Counters
from services.predict.serving.protocol_request import ProtocolRequest

PLATFORM = "onnxruntime_onnx"
SERVER_METADATA: dict[str, Any] = {
    "name": "fitserve",
    "version": __version__,
    "extensions": ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"],
}


def selector_of(model: str, version: str | None) -> Selector:
    """Return a request's selector. The protocol's versions are strings: a number or a label."""
    if not version:
        return Selector(model)
    if version.isascii() and version.isdecimal() and len(version) <= 18:
        return Selector(model, int(version))
    return Selector(model, label=version)


def model_metadata(entry: CatalogEntry, model: LoadedModel) -> dict[str, Any]:
    """Return name, versions and tensors: one of shape [-1, 1] for each column."""
    columns = model.columns
    outputs = [{"name": o.name, "datatype": o.datatype, "shape": [-1, o.units]} for o in model.outputs]
    labels = [{"name": name, "datatype": "BYTES", "shape": [-1, 1]} for name in label_outputs(model) if model.deciders]
    bounds = [{"name": name, "datatype": kind, "shape": [-1, width]} for name, kind, width in model.bound_outputs]
    return {
        "name": model.name,
        "versions": [str(number) for number in sorted(entry.versions)],
        "platform": PLATFORM,
        "properties": {"task": str(model.manifest.get("task") or ""), "label": model.label or ""},
        "inputs": [{"name": c.name, "datatype": c.datatype, "shape": [-1, 1]} for c in columns.fitted],
        "outputs": outputs + labels + bounds,
    }


def model_config(model: LoadedModel) -> dict[str, Any]:
    """Return a model's configuration in the fields of Triton's `ModelConfig` that it has."""
    columns = model.columns.fitted
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "max_batch_size": 0,  # shapes include the batch dimension
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [{"name": c.name, "data_type": _config_type(c.datatype), "dims": [-1, 1]} for c in columns],
        "output": [
            {"name": o.name, "data_type": _config_type(o.datatype), "dims": [-1, o.units]} for o in model.outputs
        ],
    }


def _config_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def statistics(request: ProtocolRequest, entries: Iterable[CatalogEntry], selector: Selector) -> list[dict[str, Any]]:
    """Return Triton's `ModelStatistics` of this process for each version that has answered; counters count requests.

    Raises NotFound for a version that does not exist.
    """
    counters, model_stats = request.service.counters, []
    for entry in entries:
        name, wanted = entry.facts.name, None
        if selector.version is not None or selector.label is not None:
            wanted = str(request.service.find_pointer(entry, selector).target.version)
        versions = map(str, sorted(entry.versions))
        model_stats += [_version_statistics(counters, name, one) for one in versions if wanted in (None, one)]
    return model_stats


def _version_statistics(counters: Counters, name: str, version: str) -> dict[str, Any]:
    own = [one for (_, model, of), one in counters.answered().items() if (model, of) == (name, version)]
    answered = sum(sum(one.durations.counts) for one in own)
    seconds = sum(one.durations.total for one in own)
    failed, failed_seconds = sum(one.failed for one in own), sum(one.failed_seconds for one in own)
    rows = sum(one.rows for one in own) + counters.rows.get((name, version), 0)
    sizes = counters.batch_sizes().get((name, version))
    calls = sum(sizes.counts) if sizes else 0
    success = {"count": answered - failed, "ns": round((seconds - failed_seconds) * 1e9)}
    return {
        "name": name,
        "version": version,
        "inference_count": rows,
        "execution_count": calls,
        "inference_stats": {"success": success, "fail": {"count": failed, "ns": round(failed_seconds * 1e9)}},
    }


def label_outputs(model: LoadedModel) -> dict[str, ModelOutput]:
    """Return the outputs that answer labels, by name: `admit_label` of a classification `admit`."""
    return {
        f"{one.name}_label": one
        for one in model.outputs
        if one.labels and f"{one.name}_label" not in model.output_names
    }


def repository_index(request: ProtocolRequest, ready_only: bool) -> list[dict[str, str]]:
    """Return every version of every model that the caller can see."""
    versions = []
    for entry in request.service.visible_entries(request.identify()):
        for number, pointer in sorted(entry.versions.items()):
            ready = entry.facts.wanted and not pointer.target.failed
            if ready or not ready_only:
                reason = pointer.target.error or ("" if entry.facts.wanted else "unloaded")
                state = "READY" if ready else "UNAVAILABLE"
                versions.append({"name": entry.facts.name, "version": str(number), "state": state, "reason": reason})
    return versions


def refuse_overrides(parameters: Iterable[str]) -> None:
    """Raise Malformed if a load request contains a configuration or files: models come from runs only."""
    if own := [name for name in parameters if name == "config" or name.startswith("file:")]:
        raise Malformed(
            "A model cannot be loaded with a configuration or files of the request.",
            received=own[0][:80],
            fix="Load it without parameters; train a run to change it.",
        )


async def set_loaded(request: ProtocolRequest, model: str, loaded: bool) -> None:
    """Load or unload a model in every process. Raises NotFound, Forbidden, Unavailable."""
    identity, facts = request.identify(), request.find_entry(model).facts
    if not (identity.may("train") and identity.owns(facts)):
        raise Forbidden("This key may not load or unload this model.", expected="its owner's key with the scope train")
    await request.service.set_loaded(model, loaded)
