"""The data plane's telemetry: plain integers on the way of a request, collected when Prometheus scrapes.

One `+=` costs a tenth of a prometheus_client counter. Every change happens in the event loop's thread.
"""

from __future__ import annotations

import itertools
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from fitserve import telemetry
from fitserve.errors import FitserveError
from services.predict.catalog.catalog import Catalog
from services.predict.catalog.loaded_model import Network
from services.predict.serving.drift import SHOWN_CLASSES, Watched
from services.predict.serving.timing import Timing

_BUCKETS = telemetry.FAST
FEW = 65  # rows, and more
_PREDICTING = frozenset({"predict", "classify", "regress", "infer", "explain"})


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


class Sizes:
    """A histogram of numbers of rows, by powers of two. `few` counts small ones as they are: one `+=`."""

    __slots__ = ("counts", "few", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(telemetry.SIZES) + 1)
        self.few = [0] * FEW
        self.sum = 0

    def observe(self, rows: int) -> None:
        """One inference call had so many rows."""
        self.counts[_size(rows)] += 1
        self.sum += rows

    @property
    def total(self) -> int:
        return self.sum + sum(rows * calls for rows, calls in enumerate(self.few))

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        counts = list(self.counts)
        for rows, calls in enumerate(self.few):
            counts[_size(rows)] += calls
        yield from zip([*map(str, telemetry.SIZES), "+Inf"], itertools.accumulate(counts), strict=True)


def _size(rows: int) -> int:
    return min(max(0, rows - 1).bit_length(), len(telemetry.SIZES))


class Tally:
    """What one version has answered over one protocol: times of both ways, the rest of the fast lane alone."""

    __slots__ = ("fast", "rows", "sizes", "times", "turns")

    def __init__(self, sizes: Sizes) -> None:
        self.fast = self.rows = self.turns = 0
        self.times = Times()
        self.sizes = sizes  # of the version's inference calls, whatever the protocol


class Counters:
    """What this process has answered."""

    def __init__(self) -> None:
        self.tallies: dict[tuple[str, str, str], Tally] = {}  # protocol, model, version
        self.sizes: defaultdict[tuple[str, str], Sizes] = defaultdict(Sizes)  # model, version
        self.phases: defaultdict[tuple[str, str], Times] = defaultdict(Times)  # lane, phase
        self.refused: defaultdict[str, int] = defaultdict(int)  # reason: rows
        self.swaps: defaultdict[str, int] = defaultdict(int)  # model
        self.requests: defaultdict[tuple[str, str, str], int] = defaultdict(int)  # protocol, operation, status
        self.seconds: defaultdict[str, Times] = defaultdict(Times)  # by protocol: what no version answered
        self.rows: defaultdict[tuple[str, str], int] = defaultdict(int)  # model, version: of the ordinary way
        self.warnings: defaultdict[tuple[str, str], int] = defaultdict(int)  # model, code
        self.shadow: defaultdict[tuple[str, str, str], int] = defaultdict(int)  # model, label, outcome
        self.shadow_difference: dict[tuple[str, str], float] = {}  # model, label: largest seen
        self.load_failures: defaultdict[str, int] = defaultdict(int)  # model
        self.loads = self.evictions = self.shed = self.expired = 0
        self.batches = self.batched_rows = 0
        self.polls = self.poll_failures = 0
        self.in_flight = 0

    def tally(self, network: Network, protocol: str) -> Tally:
        """Where a version's answers over a protocol are counted."""
        found = network.tallies.get(protocol)
        if found is None:
            key = (protocol, network.model, network.version_text)
            if key not in self.tallies:
                self.tallies[key] = Tally(self.sizes[network.model, network.version_text])
            found = network.tallies[protocol] = self.tallies[key]
        return found

    def answered(self, protocol: str, operation: str, status: int | str, seconds: float, timing: Timing) -> None:
        """One request of the ordinary way, whatever its outcome."""
        self.requests[protocol, operation, str(status)] += 1
        if timing.network is None:
            self.seconds[protocol].observe(seconds)
            return
        self.tally(timing.network, protocol).times.observe(seconds)
        for phase, taken in timing.phases(time.perf_counter()):
            self.phases["ordinary", phase].observe(taken)

    def refuse(self, operation: str, error: FitserveError) -> None:
        """A prediction was refused: the rows at fault, or one where none is named."""
        if operation in _PREDICTING:
            rows = {problem.row for problem in error.problems if problem.row is not None}
            self.refused[error.slug] += len(rows) or 1


class Collector:
    """Turns the integers into metric families at a scrape. Names and help texts are telemetry's."""

    def __init__(self, counters: Counters, catalog: Catalog, watched: Callable[[], Iterable[Watched]]) -> None:
        self.counters = counters
        self.catalog = catalog
        self.watched = watched

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        c = self.counters
        tallies = list(c.tallies.values())
        yield from self._predictions()
        yield from self._answers()
        yield _counter("refused", {(reason,): rows for reason, rows in c.refused.items()})
        yield _counter("swaps", {(model,): count for model, count in c.swaps.items()})
        yield _counter("warnings", c.warnings)
        yield _counter("shadow", c.shadow)
        yield _counter("load_failures", {(model,): count for model, count in c.load_failures.items()})
        for name, value in (
            ("loads", c.loads),
            ("evictions", c.evictions),
            ("shed", c.shed),
            ("expired", c.expired),
            ("fast_requests", sum(tally.fast for tally in tallies)),
            ("fast_batches", sum(tally.turns for tally in tallies)),
            ("batches", c.batches),
            ("batched_rows", c.batched_rows),
            ("poll_failures", c.poll_failures),
        ):
            yield _counter(name, {(): value})
        loaded = self.catalog.loaded()
        yield _gauge("processes", {(): 1})
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

    def _predictions(self) -> Iterator[Metric]:
        c = self.counters
        requests, rows = Counter(c.requests), Counter(c.rows)
        seconds = {(protocol, "", ""): times for protocol, times in list(c.seconds.items())}
        for (protocol, model, version), tally in list(c.tallies.items()):
            if tally.fast:
                requests[protocol, "predict" if protocol == "tfserving" else "infer", "200"] += tally.fast
            rows[model, version] += tally.rows
            seconds[protocol, model, version] = tally.times
        yield _counter("requests", requests)
        yield _counter("rows", rows)
        yield _histogram("seconds", seconds)
        yield _histogram("phases", c.phases)
        yield _histogram("sizes", c.sizes)

    def _answers(self) -> Iterator[Metric]:
        """What the drift desk has counted of classes, scores and values since this process started."""
        classes: dict[tuple[str, ...], int] = {}
        histograms: dict[str, dict[tuple[str, ...], Any]] = {"scores": {}, "values": {}}
        for watched in list(self.watched()):
            for output in watched.outputs:
                counted = watched.shown.outputs.get(output.name, {})
                for part, distribution in watched.distributions(output).items():
                    if part not in counted:
                        continue
                    key = (watched.model, str(watched.version), output.name)
                    if part == "classes":
                        add_classes(classes, key, distribution, counted[part])
                    elif distribution["edges"]:
                        histograms[part][key] = Binned(distribution["edges"], counted[part])
        yield _counter("classes", classes)
        for part, found in histograms.items():
            yield _histogram(part, found)


class Binned:
    """Counts between edges as a histogram; what is no number is left out, the sum is by the bins' middles."""

    def __init__(self, edges: Sequence[float], counts: Sequence[int]) -> None:
        self.edges = edges
        below, *inner, above, _ = counts
        self.cumulative = list(itertools.accumulate([below, *inner, above]))
        middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
        self.total = float(sum(m * n for m, n in zip(middles, inner, strict=True)))
        self.total += below * edges[0] + above * edges[-1]

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Cumulative; equal edges (a constant) make one bucket."""
        bounds = dict(zip([f"{edge:.6g}" for edge in self.edges], self.cumulative, strict=False))
        yield from {**bounds, "+Inf": self.cumulative[-1]}.items()


def add_classes(into: dict[tuple[str, ...], int], key: tuple[str, ...], of: Any, counts: Sequence[int]) -> None:
    """The first labels by name, the rest together."""
    for at, label in enumerate([*of["frequencies"], "other"]):
        name = str(label) if at < SHOWN_CLASSES else "other"
        into[*key, name] = into.get((*key, name), 0) + counts[at]


def _histogram(key: str, values: Mapping[Any, Any]) -> Metric:
    declared = telemetry.PREDICT[key]
    family = HistogramMetricFamily(declared.name, declared.help, labels=declared.labels)
    for labels, found in list(values.items()):
        named = (labels,) if isinstance(labels, str) else labels
        family.add_metric(list(named), list(found.buckets()), found.total)
    return family


def _counter(key: str, values: Mapping[Any, int]) -> Metric:
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
