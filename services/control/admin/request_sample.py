"""What the API has answered since it started, for the history: read from the counters that Prometheus scrapes."""

from __future__ import annotations

import math
import re

from fitserve import telemetry
from fitserve.operations.samples import Reading
from services.http.instrumentation import PROBES

# Streams last as long as their run, and uploads as long as the client takes: as in deploy/prometheus.
_SLOW_BY_NATURE = re.compile(r".*/(events|uploads.*|datasets)")


def sample_requests() -> Reading:
    """Return requests, errors and durations of all routes but the probes."""
    reading = Reading(counts={"requests": 0, "refused": 0, "errors": 0})
    for family in telemetry.HTTP_REQUESTS.collect():
        for sample in family.samples:
            if sample.name.endswith("_total") and sample.labels["route"] not in PROBES:
                status = sample.labels["status"]
                reading.counts["requests"] += sample.value
                reading.counts["errors"] += sample.value if status.startswith("5") else 0
                reading.counts["refused"] += sample.value if status.startswith("4") else 0
    cumulative = dict.fromkeys([*telemetry.REQUEST, math.inf], 0.0)
    for family in telemetry.HTTP_SECONDS.collect():
        for sample in family.samples:
            route = sample.labels["route"]
            if sample.name.endswith("_bucket") and route not in PROBES and not _SLOW_BY_NATURE.fullmatch(route):
                cumulative[float(sample.labels["le"])] += sample.value
    counts, below = [], 0.0
    for value in cumulative.values():
        counts.append(int(value - below))
        below = value
    reading.buckets["requests"] = counts
    return reading
