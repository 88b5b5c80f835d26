"""What this process has answered since it started, for the history: read from the counters, off the event loop."""

from __future__ import annotations

from collections.abc import Mapping

from fitserve import telemetry
from fitserve.operations.samples import Reading, VersionCounts
from services.predict.catalog.catalog import Catalog
from services.predict.serving.counters import Counters, outcome_of


def read(counters: Counters, catalog: Catalog) -> Reading:
    """Return counts, durations, and those of each version."""
    reading = Reading(faults=list(counters.faults.copy().values()))
    traffic = _traffic(counters)
    reading.traffic = traffic
    durations = [0] * (len(telemetry.FAST) + 1)
    for histogram in [one.durations for one in list(counters.versions.values())] + list(counters.durations.values()):
        durations = [a + b for a, b in zip(durations, histogram.counts, strict=True)]
    reading.buckets["predictions"] = durations
    fast = sum(one.requests for one in list(counters.versions.values()))
    reading.counts = {"requests": fast, "refused": 0, "errors": 0, "rows": sum(one.rows for one in traffic.values())}
    for (_, _, status), count in counters.requests.copy().items():
        reading.counts["requests"] += count
        if (outcome := outcome_of(status)) is not None:
            reading.counts[outcome] += count
    reading.counts |= {
        "loads": counters.loads,
        "load_failures": sum(counters.load_failures.copy().values()),
        "evictions": counters.evictions,
        "shed": counters.shed,
        "expired": counters.expired,
    }
    loaded = catalog.loaded_models()
    reading.gauges = {"loaded": len(loaded), "loaded_bytes": sum(model.bytes for model in loaded)}
    reading.broken = [
        f"{servable.model}/{servable.version}"
        for entry in list(catalog.entries.values())
        for servable in list(entry.servables.values())
        if servable.failed
    ]
    return reading


def _traffic(counters: Counters) -> dict[tuple[str, int], VersionCounts]:
    counts: dict[tuple[str, int], VersionCounts] = {}
    for (_, model, version), answered in list(counters.versions.items()):
        one = counts.setdefault((model, int(version)), VersionCounts())
        one.requests += sum(answered.durations.counts)
        one.rows += answered.rows
        one.seconds += answered.durations.total
        one.buckets = [a + b for a, b in zip(one.buckets, answered.durations.counts, strict=True)]
    rows: Mapping[tuple[str, str], int] = counters.rows.copy()
    for (model, version), count in rows.items():
        counts.setdefault((model, int(version)), VersionCounts()).rows += count
    for (model, number, outcome), count in counters.failures.copy().items():
        one = counts.setdefault((model, number), VersionCounts())
        setattr(one, outcome, getattr(one, outcome) + count)
        if number == 0:  # no version's durations hold them
            one.requests += count
    return counts
