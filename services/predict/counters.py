"""The data plane's telemetry: plain integers on the way of a request, collected when Prometheus scrapes.

One `+=` costs a tenth of a prometheus_client counter. Every change happens in the event loop's thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from fitserve import telemetry
from services.predict.models import Catalog

_BUCKETS = telemetry.FAST


class Times:
    """A histogram of seconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """`times` requests took that long."""
        self.counts[bisect_left(_BUCKETS, seconds)] += times
        self.total += seconds * times

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        sum_so_far = 0
        for bound, count in zip([*map(str, _BUCKETS), "+Inf"], self.counts, strict=True):
            sum_so_far += count
            yield bound, sum_so_far


class Counters:
    """What this process has answered."""

    def __init__(self) -> None:
        self.requests: defaultdict[tuple[str, str, str], int] = defaultdict(int)  # protocol, operation, status
        self.seconds: defaultdict[str, Times] = defaultdict(Times)  # by protocol
        self.rows: defaultdict[tuple[str, str], int] = defaultdict(int)  # model, version
        self.warnings: defaultdict[tuple[str, str], int] = defaultdict(int)  # model, code
        self.shadow: defaultdict[tuple[str, str, str], int] = defaultdict(int)  # model, label, outcome
        self.shadow_difference: dict[tuple[str, str], float] = {}  # model, label: largest seen
        self.load_failures: defaultdict[str, int] = defaultdict(int)  # model
        self.loads = self.evictions = self.shed = self.expired = 0
        self.fast_requests = self.fast_batches = 0
        self.batches = self.batched_rows = 0
        self.polls = self.poll_failures = 0
        self.in_flight = 0

    def answered(self, protocol: str, operation: str, status: int, seconds: float) -> None:
        """One request, whatever its outcome."""
        self.requests[protocol, operation, str(status)] += 1
        self.seconds[protocol].observe(seconds)


class Collector:
    """Turns the integers into metric families at a scrape. Names and help texts are telemetry's."""

    def __init__(self, counters: Counters, catalog: Catalog) -> None:
        self.counters = counters
        self.catalog = catalog

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        c = self.counters
        yield _counter("requests", c.requests)
        yield _counter("rows", c.rows)
        yield _counter("warnings", c.warnings)
        yield _counter("shadow", c.shadow)
        yield _counter("load_failures", {(model,): count for model, count in c.load_failures.items()})
        for name, value in (
            ("loads", c.loads),
            ("evictions", c.evictions),
            ("shed", c.shed),
            ("expired", c.expired),
            ("fast_requests", c.fast_requests),
            ("fast_batches", c.fast_batches),
            ("batches", c.batches),
            ("batched_rows", c.batched_rows),
            ("poll_failures", c.poll_failures),
        ):
            yield _counter(name, {(): value})
        loaded = self.catalog.loaded()
        yield _gauge("in_flight", {(): c.in_flight})
        yield _gauge("loaded", {(): len(loaded)})
        yield _gauge("bytes", {(): sum(slot.network.bytes for slot in loaded if slot.network)})
        yield _gauge("shadow_difference", c.shadow_difference)
        broken = {
            (slot.model, str(slot.version)): 1
            for entry in self.catalog.entries.values()
            for slot in entry.slots.values()
            if slot.failed
        }
        yield _gauge("broken", broken)
        declared = telemetry.PREDICT["seconds"]
        family = HistogramMetricFamily(declared.name, declared.help, labels=declared.labels)
        for protocol, times in list(c.seconds.items()):
            family.add_metric([protocol], list(times.buckets()), times.total)
        yield family


def _counter(key: str, values: dict[Any, int] | defaultdict[Any, int]) -> Metric:
    declared = telemetry.PREDICT[key]
    family = CounterMetricFamily(declared.name, declared.help, labels=declared.labels)
    for labels, value in list(values.items()):
        family.add_metric(list(labels), value)
    return family


def _gauge(key: str, values: dict[Any, Any]) -> Metric:
    declared = telemetry.PREDICT[key]
    family = GaugeMetricFamily(declared.name, declared.help, labels=declared.labels)
    for labels, value in list(values.items()):
        family.add_metric(list(labels), value)
    return family
