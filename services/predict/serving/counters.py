"""Telemetry of the data plane: plain integers on the hot path, turned into metrics when Prometheus scrapes.

One `+=` costs a tenth of a prometheus_client counter. Only the event loop's thread changes them; `lanes` is changed by
gRPC's threads instead.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from fitserve import telemetry
from fitserve.errors import FitserveError
from fitserve.operations.samples import Fault, Reading, VersionCounts
from services.predict.catalog.catalog import Catalog
from services.predict.catalog.loaded_model import LoadedModel
from services.predict.serving.drift import DriftSampler

DIRECT_ROWS = 65  # batches of fewer rows are counted by their exact size
CLASSES_BY_NAME = 20  # further classes of an output are counted together
CLIENT_GONE = 499  # the status of requests whose client has disconnected
_GRPC_ERRORS = frozenset({"UNAVAILABLE", "INTERNAL", "UNKNOWN", "DATA_LOSS"})  # must match the alert rules
_GRPC_FINE = frozenset({"OK", "CANCELLED"})
ROLLOUT_OPERATIONS = frozenset({"predict", "classify", "regress", "infer"})  # explanations take longer
PREDICTION_OPERATIONS = ROLLOUT_OPERATIONS | {"explain"}


def outcome_of(status: int | str) -> str | None:
    """Return `errors` for an HTTP or gRPC status that means our fault, `refused` for one that means the client's."""
    text = str(status)
    if text.isdigit():
        return "errors" if text >= "500" else "refused" if text >= "400" and text != str(CLIENT_GONE) else None
    return "errors" if text in _GRPC_ERRORS else None if text in _GRPC_FINE else "refused"


class Histogram:
    """Counts by bucket; `total` is the sum of the observed values."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = telemetry.FAST) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def add(self, other: Histogram) -> None:
        """Add the counts of a histogram with the same bounds."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Yield upper bound and cumulative count, as Prometheus expects them."""
        yield from zip([*map(str, self.bounds), "+Inf"], itertools.accumulate(self.counts), strict=True)


class BatchSizes:
    """Rows of each inference call. The fast lane counts small batches with one `+=` in `direct`, indexed by rows."""

    __slots__ = ("direct", "larger")

    def __init__(self) -> None:
        self.direct = [0] * DIRECT_ROWS
        self.larger = Histogram(telemetry.SIZES)

    def observe(self, rows: int) -> None:
        """Count one inference call."""
        if rows < DIRECT_ROWS:
            self.direct[rows] += 1
        else:
            self.larger.observe(rows)

    def histogram(self) -> Histogram:
        """Return all sizes by bucket."""
        whole = Histogram(telemetry.SIZES)
        whole.counts, whole.total = list(self.larger.counts), self.larger.total
        for rows, calls in enumerate(self.direct):
            whole.observe(rows, calls)
        return whole


class VersionCounters:
    """Answers of one version over one protocol: durations of both lanes; all else of the fast lane only.

    `failed` and `failed_seconds` are those of the durations that belong to refused and failed requests.
    """

    __slots__ = ("batches", "durations", "failed", "failed_seconds", "requests", "rows", "sizes")

    def __init__(self, sizes: BatchSizes) -> None:
        self.requests = self.rows = self.batches = self.failed = 0
        self.failed_seconds = 0.0
        self.durations = Histogram()
        self.sizes = sizes  # sizes of the version's inference calls; in `Counters.versions` over all protocols

    def added(self, other: VersionCounters) -> VersionCounters:
        """Return the sum of both, except for the sizes."""
        whole = VersionCounters(self.sizes)
        for one in (self, other):
            whole.requests += one.requests
            whole.rows += one.rows
            whole.batches += one.batches
            whole.failed += one.failed
            whole.failed_seconds += one.failed_seconds
            whole.durations.add(one.durations)
        return whole


class Counters:
    """All counters of this process. A comment names each counter's keys."""

    def __init__(self) -> None:
        self.versions: dict[tuple[str, str, str], VersionCounters] = {}  # protocol, model, version
        self.lanes: dict[tuple[str, str, str], VersionCounters] = {}  # the same, counted by one thread at a time
        self.sizes: defaultdict[tuple[str, str], BatchSizes] = defaultdict(BatchSizes)  # model, version
        self.phases: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)  # lane, phase
        self.refused: defaultdict[str, int] = defaultdict(int)  # reason: rows
        self.swaps: defaultdict[str, int] = defaultdict(int)  # model
        self.requests: defaultdict[tuple[str, str, str], int] = defaultdict(int)  # protocol, operation, status
        self.durations: defaultdict[str, Histogram] = defaultdict(Histogram)  # protocol; no version answered
        self.failures: defaultdict[tuple[str, int, str], int] = defaultdict(int)  # model, version or 0, outcome
        self.faults: dict[str, Fault] = {}  # the last of each model
        self.rows: defaultdict[tuple[str, str], int] = defaultdict(int)  # model, version; ordinary lane
        self.warnings: defaultdict[tuple[str, str], int] = defaultdict(int)  # model, code
        self.shadow: defaultdict[tuple[str, str, str], int] = defaultdict(int)  # model, label, outcome
        self.shadow_difference: dict[tuple[str, str], float] = {}  # model, label: the largest
        self.load_failures: defaultdict[str, int] = defaultdict(int)  # model
        self.loads = self.evictions = self.shed = self.expired = 0
        self.batches = self.batched_rows = 0
        self.poll_failures = 0
        self.in_flight = 0

    def of_version(self, model: LoadedModel, protocol: str) -> VersionCounters:
        """Return the counters of a version's answers over a protocol."""
        known: VersionCounters | None = model.counters.get(protocol)
        if known is None:
            key = (protocol, model.name, model.version_text)
            if key not in self.versions:
                self.versions[key] = VersionCounters(self.sizes[model.name, model.version_text])
            known = model.counters[protocol] = self.versions[key]
        return known

    def of_lane(self, model: LoadedModel, protocol: str) -> VersionCounters:
        """Return the counters of a version's answers over a protocol by threads other than the event loop's."""
        key = (protocol, model.name, model.version_text)
        if key not in self.lanes:
            self.lanes[key] = VersionCounters(BatchSizes())
        return self.lanes[key]

    def answered(self) -> dict[tuple[str, str, str], VersionCounters]:
        """Return the counters of all answers, by all threads, by protocol, model and version."""
        whole = self.versions.copy()
        for key, lane in self.lanes.copy().items():
            whole[key] = whole[key].added(lane) if key in whole else lane
        return whole

    def batch_sizes(self) -> dict[tuple[str, str], Histogram]:
        """Return the sizes of all inference calls, by model and version."""
        whole = {key: sizes.histogram() for key, sizes in self.sizes.copy().items()}
        for (_, model, version), lane in self.lanes.copy().items():
            whole.setdefault((model, version), Histogram(telemetry.SIZES)).add(lane.sizes.histogram())
        return whole

    def count_prediction(self, model: LoadedModel, rows: int, warnings: Mapping[str, int], left_out: int = 0) -> None:
        """Count the rows of one answer of the ordinary path, and their warnings by code. `left_out`: unused columns."""
        self.rows[model.name, model.version_text] += rows
        if left_out:
            self.warnings[model.name, "column_left_out"] += left_out
        for code, count in warnings.items():
            self.warnings[model.name, code] += count

    def count_failure(
        self, model: str, version: int, operation: str, status: int | str, error: FitserveError | None
    ) -> None:
        """Count a failed or refused request to a model, and remember it as the model's last fault.

        For a refusal only its kind is stored: the rest of the error may contain data that the client sent.
        """
        outcome = outcome_of(status)
        if outcome is None:
            return
        self.failures[model, version, outcome] += 1
        code, detail = ("", "") if error is None else (error.slug, error.detail if outcome == "errors" else error.title)
        self.note_fault(model, version or None, operation, str(status), code, detail)

    def note_fault(self, model: str, version: int | None, operation: str, status: str, code: str, detail: str) -> None:
        """Store a model's last fault."""
        fault = Fault(model, version, operation[:32], status[:32], code[:64], detail[:300], datetime.now(UTC))
        self.faults[model] = fault

    def count_refusal(self, operation: str, error: FitserveError) -> None:
        """Count a refused prediction: its invalid rows, or one if no row is named."""
        if operation in PREDICTION_OPERATIONS and error.status not in (499, 500):  # these errors are not about rows
            rows = {problem.row for problem in error.problems if problem.row is not None}
            self.refused[error.slug] += len(rows) or 1


class Collector:
    """Turns the counters into metric families at a scrape. `telemetry.PREDICT` declares their names and help."""

    def __init__(self, counters: Counters, catalog: Catalog, samplers: Callable[[], Iterable[DriftSampler]]) -> None:
        self.counters = counters
        self.catalog = catalog
        self.samplers = samplers

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        c = self.counters
        versions = list(c.answered().values())
        loaded = self.catalog.loaded_models()
        failed = {
            (servable.model, str(servable.version)): 1
            for entry in self.catalog.entries.values()
            for servable in entry.servables.values()
            if servable.failed
        }
        yield from self._requests()
        yield from self._sampled_answers()
        yield _family("refused", {(reason,): rows for reason, rows in c.refused.items()})
        yield _family("swaps", {(model,): count for model, count in c.swaps.items()})
        yield _family("warnings", c.warnings)
        yield _family("shadow", c.shadow)
        yield _family("load_failures", {(model,): count for model, count in c.load_failures.items()})
        for name, value in (
            ("loads", c.loads),
            ("evictions", c.evictions),
            ("shed", c.shed),
            ("expired", c.expired),
            ("fast_requests", sum(one.requests for one in versions)),
            ("fast_batches", sum(one.batches for one in versions)),
            ("batches", c.batches),
            ("batched_rows", c.batched_rows),
            ("poll_failures", c.poll_failures),
            ("processes", 1),
            ("in_flight", c.in_flight),
            ("loaded", len(loaded)),
            ("bytes", sum(model.bytes for model in loaded)),
        ):
            yield _family(name, {(): value})
        yield _family("shadow_difference", c.shadow_difference)
        yield _family("broken", failed)

    def _requests(self) -> Iterator[Metric]:
        c = self.counters
        requests, rows = Counter(c.requests), Counter(c.rows)
        durations = {(protocol, "", ""): histogram for protocol, histogram in list(c.durations.items())}
        for (protocol, model, version), counters in c.answered().items():
            if counters.requests:
                requests[protocol, "predict" if protocol == "tfserving" else "infer", "200"] += counters.requests
            rows[model, version] += counters.rows
            durations[protocol, model, version] = counters.durations
        yield _family("requests", requests)
        yield _family("rows", rows)
        yield _family("seconds", durations)
        yield _family("phases", c.phases)
        yield _family("sizes", c.batch_sizes())

    def _sampled_answers(self) -> Iterator[Metric]:
        """Yield the classes, scores and values that drift has sampled since this process started."""
        classes: dict[tuple[str, ...], int] = {}
        histograms: dict[str, dict[tuple[str, ...], Any]] = {"scores": {}, "values": {}}
        for sampler in list(self.samplers()):
            for output in sampler.outputs:
                counts = sampler.since_start.outputs.get(output.name, {})
                for part, distribution in sampler.distributions(output).items():
                    if part not in counts:
                        continue
                    key = (sampler.model, str(sampler.version), output.name)
                    if part == "classes":
                        for place, label in enumerate([*distribution["frequencies"], "other"]):
                            name = str(label) if place < CLASSES_BY_NAME else "other"
                            classes[*key, name] = classes.get((*key, name), 0) + counts[part][place]
                    elif distribution["edges"]:
                        histograms[part][key] = BinnedHistogram(distribution["edges"], counts[part])
        yield _family("classes", classes)
        for part, values in histograms.items():
            yield _family(part, values)


class BinnedHistogram:
    """Counts between edges as a histogram: the sum takes each bin's middle, values that are not numbers are left out.

    `counts` are those of `fitserve.drift.count_numbers`: below, between the edges, above, not a number.
    """

    def __init__(self, edges: Sequence[float], counts: Sequence[int]) -> None:
        self.edges = edges
        below, *inner, above, _ = counts
        self.cumulative = list(itertools.accumulate([below, *inner, above]))
        middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
        self.total = float(sum(m * n for m, n in zip(middles, inner, strict=True)))
        self.total += below * edges[0] + above * edges[-1]

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Yield upper bound and cumulative count; equal edges (a constant) make one bucket."""
        bounds = dict(zip([f"{edge:.6g}" for edge in self.edges], self.cumulative, strict=False))
        yield from {**bounds, "+Inf": self.cumulative[-1]}.items()


def _family(key: str, values: Mapping[Any, Any]) -> Metric:
    """Build a metric family; `values` are numbers or histograms by their labels."""
    declared = telemetry.PREDICT[key]
    metric: Any
    if declared.kind == "histogram":
        metric = HistogramMetricFamily(declared.name, declared.help, labels=declared.labels)
        for labels, histogram in list(values.items()):
            metric.add_metric(list(labels), list(histogram.buckets()), histogram.total)
        return metric
    family = CounterMetricFamily if declared.kind == "counter" else GaugeMetricFamily
    metric = family(declared.name, declared.help, labels=declared.labels)
    for labels, value in list(values.items()):
        metric.add_metric(list(labels), value)
    return metric


def sample_predictions(counters: Counters, catalog: Catalog) -> Reading:
    """Return what this process has answered since it started, for the history; called off the event loop."""
    reading = Reading(faults=list(counters.faults.copy().values()))
    traffic = _traffic(counters)
    reading.traffic = traffic
    durations = [0] * (len(telemetry.FAST) + 1)
    answered = list(counters.answered().values())
    for histogram in [one.durations for one in answered] + list(counters.durations.values()):
        durations = [a + b for a, b in zip(durations, histogram.counts, strict=True)]
    reading.buckets["predictions"] = durations
    fast = sum(one.requests for one in answered)
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
    for (_, model, version), answered in counters.answered().items():
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
