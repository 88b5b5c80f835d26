"""Live traffic and latency of a model: what the prediction service's /metrics says of it, as JSON for the pages."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Annotated

import httpx2
from fastapi import Depends, Path
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from fitserve import db, registry, telemetry
from fitserve.errors import NotFound, Unavailable
from fitserve.wire.models import Bucket, Traffic, VersionTraffic
from services.control.deps import Context, context
from services.control.models.predict_proxy import predict_address, predict_trust
from services.shell import Caller, Router, require

router = Router(tags=["models"])
_TIMEOUT = httpx2.Timeout(5.0, connect=2.0)


@router.get("/models/{name}/traffic", summary="What a model is asked, and how fast it answers")
def get_traffic(
    name: Annotated[str, Path(max_length=100)],
    caller: Annotated[Caller, Depends(require("read"))],
    ctx: Annotated[Context, Depends(context)],
) -> Traffic:
    """Counters since the prediction processes began: ask twice for a rate. Behind a balancer, of one replica."""
    with db.reading(ctx.engine) as session:
        model = registry.get(session, name)
        if not caller.sees(model.owner, model.shared):
            raise NotFound(f"No model {name[:63]}.", received=name[:100])
    try:
        address, trust = predict_address(ctx.settings), predict_trust(ctx.settings)
        scraped = httpx2.get(f"{address}/metrics", timeout=_TIMEOUT, trust_env=False, verify=trust)
        scraped.raise_for_status()
    except httpx2.HTTPError:
        raise Unavailable("The prediction service does not tell its telemetry.", retry_after=5) from None
    return _told(name, scraped.text)


def _told(name: str, text: str) -> Traffic:
    seconds, rows, processes = (telemetry.PREDICT[one].name for one in ("seconds", "rows", "processes"))
    told = Traffic(model=name, at=datetime.now(UTC), processes=1, versions=[])
    versions: dict[str, VersionTraffic] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == processes:
                told.processes = int(sample.value)
            elif sample.labels.get("model") == name and sample.name in (rows, *_parts(seconds)):
                number = sample.labels["version"]
                empty = VersionTraffic(version=number, requests=0, seconds=0.0, rows=0, buckets=[])
                _add(versions.setdefault(number, empty), sample, seconds, rows)
    told.versions = sorted(versions.values(), key=lambda one: one.version)
    return told


def _parts(histogram: str) -> tuple[str, ...]:
    return tuple(f"{histogram}_{part}" for part in ("bucket", "count", "sum"))


def _add(version: VersionTraffic, sample: Sample, seconds: str, rows: str) -> None:
    """Counts of several protocols are added up."""
    value = float(sample.value)
    if sample.name == rows:
        version.rows += int(value)
    elif sample.name.endswith("_count"):
        version.requests += int(value)
    elif sample.name.endswith("_sum"):
        version.seconds += value
    else:
        le = float(sample.labels["le"])
        edge = None if math.isinf(le) else le
        for bucket in version.buckets:
            if bucket.le == edge:
                bucket.count += int(value)
                return
        version.buckets.append(Bucket(le=edge, count=int(value)))
