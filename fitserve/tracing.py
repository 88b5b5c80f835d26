"""OpenTelemetry traces, if FITSERVE_OTLP_ENDPOINT names a collector; otherwise nothing is imported.

One trace spans the request that created a run, the queue (`runs.origin`) and the worker's attempts; or a page, the API
and the prediction service.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from fitserve import __version__

Kind = Literal["server", "consumer", "internal"]


class _Tracing:
    """The SDK's objects of this process."""

    def __init__(self, endpoint: str, process: str) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.trace, self.propagator = trace, TraceContextTextMapPropagator()
        resource = {"service.name": f"fitserve-{process}", "service.version": __version__}
        self.provider = TracerProvider(resource=Resource.create(resource))
        exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")
        self.provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self.tracer = self.provider.get_tracer("fitserve", __version__)


class Span:
    """One span; without tracing, its methods do nothing."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def rename(self, name: str) -> None:
        """Change its name, as to a route's template, which is known only at the end."""
        if self._span is not None:
            self._span.update_name(name)

    def set(self, **attributes: Any) -> None:
        """Set attributes. The first underscore of a name stands for a dot; values of None are left out."""
        if self._span is not None:
            for name, value in attributes.items():
                if value is not None:
                    self._span.set_attribute(name.replace("_", ".", 1), value)

    def end_run(self, state: str | None) -> None:
        """Set the state in which an attempt left its run; None where the lease was lost."""
        self.set(run_state=str(state or "lost"))
        if state in (None, "failed"):
            self.fail(str(state or "lost"))

    def fail(self, why: str) -> None:
        """Mark it as an error."""
        if self._span is not None and _tracing is not None:
            self._span.set_status(_tracing.trace.Status(_tracing.trace.StatusCode.ERROR, why))


_tracing: _Tracing | None = None
_NO_SPAN = Span()


def configure(endpoint: str | None, process: str) -> None:
    """Start tracing if there is an endpoint. Raises SystemExit where the extra `traces` is not installed."""
    global _tracing
    if endpoint is None:
        return
    try:
        _tracing = _Tracing(endpoint, process)
    except ImportError as error:
        raise SystemExit(
            f"FITSERVE_OTLP_ENDPOINT is set and {error.name} is missing: install fitserve[traces]."
        ) from None


def is_on() -> bool:
    """Return whether spans are exported."""
    return _tracing is not None


def stop() -> None:
    """Export the spans that are left."""
    if _tracing is not None:
        _tracing.provider.shutdown()


@contextmanager
def span(name: str, parent: str | None = None, kind: Kind = "internal", **attributes: Any) -> Iterator[Span]:
    """Open a span within the current one, or within a `traceparent` of another process."""
    if _tracing is None:
        yield _NO_SPAN
        return
    context = _tracing.propagator.extract({"traceparent": parent}) if parent else None
    kinds = _tracing.trace.SpanKind
    span_kind = {"server": kinds.SERVER, "consumer": kinds.CONSUMER, "internal": kinds.INTERNAL}[kind]
    with _tracing.tracer.start_as_current_span(name, context, span_kind) as otel_span:
        started = Span(otel_span)
        started.set(**attributes)
        yield started


def traceparent() -> str | None:
    """Return the current span as a W3C `traceparent`, for another process."""
    if _tracing is None:
        return None
    carrier: dict[str, str] = {}
    _tracing.propagator.inject(carrier)
    return carrier.get("traceparent")
